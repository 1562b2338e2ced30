// Where the reader writes: text, attached pictures, sounds and videos, and the microphone.
import { h } from "./dom.js";
import { watch } from "./kernel.js";
import { formatSeconds } from "./words.js";

const CHUNK = 2 ** 21; // bytes of a file per message; Jupyter Server's websocket takes 10 MB
const RATE = 16000; // Hz; what the models hear

export class Composer {
  #signal;
  #root;
  /** @type {Map<string, { key: string, release: () => void }>} */
  #attached = new Map();
  #busy = false;
  #uploads = 0;
  #text;
  #button;
  #strip = h("div", { className: "g4-strip", hidden: true });
  #picker;
  #clip;
  #microphone;
  // ---- microphone: recorded, brought to 16 kHz mono by the browser, sent as WAV
  #recorder = null;

  /**
   * @param {any} context
   * @param {{ send: (text: string, keys: string[]) => Promise<boolean>, stop: () => void }} actions
   */
  constructor({ model, view, ask, icons, problem }, { send, stop }) {
    Object.assign(this, { model, view, ask, icons, problem, send, stop });
    this.#signal = view.signal;
    this.#root = view.root;
    this.#text = this.#makeText();
    this.#picker = this.#makePicker();
    const onclick = () => (this.#busy ? this.stop() : this.submit());
    this.#button = this.#makeButton("g4-primary g4-round g4-send", onclick);
    this.#clip = this.#makeTool("Attach a picture, sound or video", icons.attach, () =>
      this.#picker.click(),
    );
    this.#microphone = this.#makeTool("Record with the microphone", icons.microphone, () =>
      this.#record(),
    );
    this.#microphone.setAttribute("aria-pressed", "false");
    this.node = h(
      "div",
      { className: "g4-composer", hidden: view.isStatic },
      this.#strip,
      h("div", { className: "g4-box" }, this.#clip, this.#microphone, this.#text, this.#button),
      this.#picker,
    );
    watch(model, ["about"], () => this.#showMedia(), this.#signal);
    this.setBusy(false);
    this.#listen();
  }

  #makeText() {
    return h("textarea", {
      rows: 1,
      dir: "auto",
      "aria-label": "Your message",
      placeholder: "Ask something…",
      signal: this.#signal,
      oninput: () => this.#fit(),
      onkeydown: (event) => {
        if (isSend(event) && !this.#busy) this.submit();
      },
    });
  }

  #makePicker() {
    return h("input", {
      type: "file",
      multiple: true,
      hidden: true,
      "aria-label": "Files to attach",
      signal: this.#signal,
      onchange: () => {
        for (const file of this.#picker.files) this.#attach(file);
        this.#picker.value = "";
      },
    });
  }

  #makeButton(className, onclick, props = {}, ...children) {
    const { signal } = this.view;
    return h("button", { type: "button", className, signal, onclick, ...props }, ...children);
  }

  #makeTool(label, icon, onclick) {
    const props = { title: label, "aria-label": label };
    return this.#makeButton("g4-quiet g4-round", onclick, props, icon());
  }

  /** Files come by paste and drop, too. */
  #listen() {
    const root = this.#root;
    const listen = (node, type, listener) =>
      node.addEventListener(type, listener, { signal: this.#signal });
    listen(this.#text, "paste", (event) => this.#takeFiles(event, event.clipboardData?.files));
    listen(root, "dragover", (event) => this.#dragOver(event));
    listen(root, "dragleave", (event) => {
      if (!root.contains(event.relatedTarget)) delete root.dataset.dropping;
    });
    listen(root, "drop", (event) => this.#drop(event));
  }

  #dragOver(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    this.#root.dataset.dropping = "true";
  }

  #drop(event) {
    delete this.#root.dataset.dropping;
    this.#takeFiles(event, event.dataTransfer?.files);
  }

  focus() {
    return this.#text.focus({ preventScroll: true });
  }

  #media() {
    return this.model.get("about")?.media ?? [];
  }

  #showMedia() {
    const kinds = this.#media();
    this.#picker.accept = kinds.map((kind) => `${kind}/*`).join(",");
    this.#clip.hidden = !kinds.length;
    this.#microphone.hidden = !kinds.includes("audio") || !navigator.mediaDevices?.getUserMedia;
  }

  #fit() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight + 2, 200)}px`;
  }

  setBusy(value) {
    this.#busy = value;
    const label = this.#busy ? "Stop" : "Send";
    this.#button.replaceChildren(this.#busy ? this.icons.stop() : this.icons.send());
    this.#button.title = this.#busy ? "Stop (Esc)" : "Send (Enter)";
    this.#button.setAttribute("aria-label", label);
    this.#button.classList.toggle("g4-stopping", this.#busy);
  }

  async submit(words = this.#text.value) {
    if (this.#busy || (!words.trim() && !this.#attached.size)) return;
    if (this.#uploads) return this.problem("An attachment is still being read.");
    const keys = [...this.#attached.values()].map((a) => a.key);
    const before = this.#text.value;
    this.#text.value = "";
    this.#fit();
    if (await this.send(words, keys)) {
      for (const { release } of this.#attached.values()) release();
      this.#attached.clear();
      this.#strip.replaceChildren();
      this.#strip.hidden = true;
    } else this.#text.value = before;
    this.#text.focus({ preventScroll: true });
  }

  // ---- attachments
  async #attach(file) {
    const id = `${Date.now()}-${Math.random()}`;
    const label = h("span", { className: "g4-attached-name", dir: "auto", textContent: file.name });
    const detail = h("span", { className: "g4-note", textContent: "reading…" });
    const chip = h("div", { className: "g4-attached" }, label, detail);
    let release = () => {};
    const remove = () => {
      this.#attached.delete(id);
      chip.remove();
      release();
      this.#strip.hidden = !this.#strip.children.length;
    };
    const props = { "aria-label": `Remove ${file.name}` };
    chip.append(this.#makeButton("g4-quiet", remove, props, this.icons.close()));
    this.#strip.append(chip);
    this.#strip.hidden = false;
    this.#uploads++;
    try {
      const about = await this.#upload(file, id);
      if (about.thumb) chip.prepend(h("img", { src: about.thumb, alt: "" }));
      if (about.kind === "audio") release = this.#addPlayer(chip, file);
      detail.textContent = [about.seconds && formatSeconds(about.seconds), `${about.tokens} tokens`]
        .filter(Boolean)
        .join(" · ");
      if (chip.isConnected) this.#attached.set(id, { key: about.key, release });
      else release();
    } catch (error) {
      chip.classList.add("g4-is-bad");
      detail.textContent = withoutType(error.message);
    } finally {
      this.#uploads--;
    }
  }

  /** Send a file in parts; what Python says of it. */
  async #upload(file, id) {
    const kind = file.type.split("/")[0];
    if (file.type && !this.#media().includes(kind))
      throw new Error(`This model takes ${inWords(this.#media())}; this file is something else.`);
    const parts = Math.max(1, Math.ceil(file.size / CHUNK));
    const about = { upload: id, name: file.name, mime: file.type, parts };
    let answer = null;
    for (let part = 0; part < parts; part++) {
      const bytes = await file.slice(part * CHUNK, (part + 1) * CHUNK).arrayBuffer();
      answer = await this.ask("attach", { ...about, part }, { buffers: [bytes] });
    }
    return answer.content;
  }

  /** Play the sound in its chip. @returns {() => void} gives its memory back */
  #addPlayer(chip, file) {
    const url = URL.createObjectURL(file);
    const release = () => URL.revokeObjectURL(url);
    this.#signal.addEventListener("abort", release);
    chip.prepend(h("audio", { controls: true, src: url, "aria-label": file.name }));
    return release;
  }

  #takeFiles(event, list) {
    const files = [...(list ?? [])];
    if (!files.length || this.view.isStatic) return;
    event.preventDefault();
    event.stopPropagation();
    for (const file of files) this.#attach(file);
  }

  async #record() {
    if (this.#recorder) return this.#recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const pieces = [];
      this.#recorder = new MediaRecorder(stream);
      this.#recorder.ondataavailable = (event) => pieces.push(event.data);
      this.#recorder.onstop = async () => {
        this.#recorder = null;
        this.#microphone.setAttribute("aria-pressed", "false");
        for (const track of stream.getTracks()) track.stop();
        try {
          const wav = await toWav(new Blob(pieces));
          this.#attach(new File([wav], "recording.wav", { type: "audio/wav" }));
        } catch (error) {
          this.problem(`The recording could not be read: ${error.message}`);
        }
      };
      this.#signal.addEventListener("abort", () => this.#recorder?.stop());
      this.#recorder.start();
      this.#microphone.setAttribute("aria-pressed", "true");
    } catch (error) {
      this.#recorder = null;
      this.problem(`The microphone cannot be used: ${error.message}`);
    }
  }

  /** Give back what could not be answered, unless something else has been written. */
  suggest(words) {
    this.#text.value ||= words;
    this.#fit();
  }
}

const MEDIA_WORDS = { image: "pictures", audio: "sounds", video: "videos" };
/** Kinds of media as a reader says them: "pictures, sounds and videos". @param {string[]} kinds */
const inWords = (kinds) =>
  kinds
    .map((kind) => MEDIA_WORDS[kind])
    .join(", ")
    .replace(/, (?=[^,]*$)/, " and ") || "no files";

/** Whether a key in a field for messages means "send": Enter, but not Shift+Enter, nor the Enter
 * that ends the composition of a character. @param {KeyboardEvent} event */
export function isSend(event) {
  const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (sends) event.preventDefault();
  return sends;
}

/** What Python says went wrong, without the name of the exception. @param {string} text */
export const withoutType = (text) => text.replace(/^\w*Error: /, "");

/** Any sound the browser can decode, as 16-bit mono WAV at 16 kHz. @param {Blob} blob */
async function toWav(blob) {
  const decoder = new AudioContext();
  const sound = await decoder.decodeAudioData(await blob.arrayBuffer());
  decoder.close();
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(sound.duration * RATE)), RATE);
  const source = new AudioBufferSourceNode(offline, { buffer: sound });
  source.connect(offline.destination);
  source.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const out = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, letters) => {
    for (const [i, letter] of [...letters].entries()) out.setUint8(at + i, letter.charCodeAt(0));
  };
  word(0, "RIFF");
  out.setUint32(4, 36 + 2 * samples.length, true);
  word(8, "WAVEfmt ");
  out.setUint32(16, 16, true); // size of the format block
  out.setUint16(20, 1, true); // PCM
  out.setUint16(22, 1, true); // one channel
  out.setUint32(24, RATE, true);
  out.setUint32(28, 2 * RATE, true); // bytes per second
  out.setUint16(32, 2, true); // bytes per frame
  out.setUint16(34, 16, true); // bits per sample
  word(36, "data");
  out.setUint32(40, 2 * samples.length, true);
  for (const [i, v] of samples.entries())
    out.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, v)) * 32767, true);
  return out.buffer;
}
