// Where the reader writes: text, attached pictures, sounds and videos, and the microphone.
import { formatSeconds, h } from "./shared.js";

const CHUNK = 2 ** 21; // bytes of a file per message; Jupyter Server's websocket takes 10 MB
const RATE = 16000; // Hz; what the models hear

/**
 * @param {any} context
 * @param {{ send: (text: string, keys: string[]) => Promise<boolean>, stop: () => void }} actions
 */
export function makeComposer({ model, view, ask, icons, problem }, { send, stop }) {
  const { signal, root } = view;
  /** @type {Map<string, { key: string, release: () => void }>} */
  const attached = new Map();
  let busy = false;
  let uploads = 0;

  const text = h("textarea", {
    rows: 1,
    dir: "auto",
    "aria-label": "Your message",
    placeholder: "Ask something…",
    signal,
    oninput: fit,
    onkeydown: (event) => {
      if (isSend(event) && !busy) submit();
    },
  });
  const button = h("button", {
    type: "button",
    className: "g4-primary g4-round g4-send",
    signal,
    onclick: () => (busy ? stop() : submit()),
  });
  const strip = h("div", { className: "g4-strip", hidden: true });
  const picker = h("input", {
    type: "file",
    multiple: true,
    hidden: true,
    "aria-label": "Files to attach",
    signal,
    onchange: () => {
      [...picker.files].forEach(attach);
      picker.value = "";
    },
  });
  const clip = h(
    "button",
    {
      type: "button",
      className: "g4-quiet g4-round",
      title: "Attach a picture, sound or video",
      "aria-label": "Attach a picture, sound or video",
      signal,
      onclick: () => picker.click(),
    },
    icons.attach(),
  );
  const microphone = h(
    "button",
    {
      type: "button",
      className: "g4-quiet g4-round",
      title: "Record with the microphone",
      "aria-label": "Record with the microphone",
      "aria-pressed": false,
      signal,
      onclick: record,
    },
    icons.microphone(),
  );
  const node = h(
    "div",
    { className: "g4-composer", hidden: view.isStatic },
    strip,
    h("div", { className: "g4-box" }, clip, microphone, text, button),
    picker,
  );

  const media = () => model.get("about")?.media ?? [];
  const showMedia = () => {
    const kinds = media();
    picker.accept = kinds.map((kind) => `${kind}/*`).join(",");
    clip.hidden = !kinds.length;
    microphone.hidden = !kinds.includes("audio") || !navigator.mediaDevices?.getUserMedia;
  };
  model.on("change:about", showMedia);
  signal.addEventListener("abort", () => model.off("change:about", showMedia));
  showMedia();
  setBusy(false);

  function fit() {
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight + 2, 200)}px`;
  }

  function setBusy(value) {
    busy = value;
    const label = busy ? "Stop" : "Send";
    button.replaceChildren(busy ? icons.stop() : icons.send());
    button.title = busy ? "Stop (Esc)" : "Send (Enter)";
    button.setAttribute("aria-label", label);
    button.classList.toggle("g4-stopping", busy);
  }

  async function submit(words = text.value) {
    if (busy || (!words.trim() && !attached.size)) return;
    if (uploads) return problem("An attachment is still being read.");
    const keys = [...attached.values()].map((a) => a.key);
    const before = text.value;
    text.value = "";
    fit();
    if (await send(words, keys)) {
      attached.forEach((a) => a.release());
      attached.clear();
      strip.replaceChildren();
      strip.hidden = true;
    } else text.value = before;
    text.focus({ preventScroll: true });
  }

  // ---- attachments
  async function attach(/** @type {File} */ file) {
    const id = `${Date.now()}-${Math.random()}`;
    const label = h("span", { className: "g4-attached-name", dir: "auto", textContent: file.name });
    const detail = h("span", { className: "g4-note", textContent: "reading…" });
    const chip = h("div", { className: "g4-attached" }, label, detail);
    let release = () => {};
    const close = h(
      "button",
      {
        type: "button",
        className: "g4-quiet",
        "aria-label": `Remove ${file.name}`,
        onclick: () => {
          attached.delete(id);
          chip.remove();
          release();
          strip.hidden = !strip.children.length;
        },
      },
      icons.close(),
    );
    chip.append(close);
    strip.append(chip);
    strip.hidden = false;
    uploads++;
    try {
      const kind = file.type.split("/")[0];
      if (file.type && !media().includes(kind))
        throw new Error(`This model takes ${inWords(media())}; this file is something else.`);
      const parts = Math.max(1, Math.ceil(file.size / CHUNK));
      let answer = null;
      for (let part = 0; part < parts; part++) {
        const bytes = await file.slice(part * CHUNK, (part + 1) * CHUNK).arrayBuffer();
        answer = await ask(
          "attach",
          { upload: id, name: file.name, mime: file.type, part, parts },
          { buffers: [bytes] },
        );
      }
      const about = answer.content;
      if (about.thumb) chip.prepend(h("img", { src: about.thumb, alt: "" }));
      if (about.kind === "audio") {
        const url = URL.createObjectURL(file);
        release = () => URL.revokeObjectURL(url);
        signal.addEventListener("abort", release);
        chip.prepend(h("audio", { controls: true, src: url, "aria-label": file.name }));
      }
      detail.textContent = [about.seconds && formatSeconds(about.seconds), `${about.tokens} tokens`]
        .filter(Boolean)
        .join(" · ");
      if (chip.isConnected) attached.set(id, { key: about.key, release });
      else release();
    } catch (error) {
      chip.classList.add("g4-is-bad");
      detail.textContent = withoutType(error.message);
    } finally {
      uploads--;
    }
  }

  const takeFiles = (event, list) => {
    const files = [...(list ?? [])];
    if (!files.length || view.isStatic) return;
    event.preventDefault();
    event.stopPropagation();
    files.forEach(attach);
  };
  text.addEventListener("paste", (event) => takeFiles(event, event.clipboardData?.files), {
    signal,
  });
  root.addEventListener(
    "dragover",
    (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      root.dataset.dropping = "true";
    },
    { signal },
  );
  root.addEventListener(
    "dragleave",
    (event) => {
      if (!root.contains(event.relatedTarget)) delete root.dataset.dropping;
    },
    { signal },
  );
  root.addEventListener(
    "drop",
    (event) => {
      delete root.dataset.dropping;
      takeFiles(event, event.dataTransfer?.files);
    },
    { signal },
  );

  // ---- microphone: recorded, brought to 16 kHz mono by the browser, sent as WAV
  let recorder = null;
  async function record() {
    if (recorder) return recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const pieces = [];
      recorder = new MediaRecorder(stream);
      recorder.ondataavailable = (event) => pieces.push(event.data);
      recorder.onstop = async () => {
        recorder = null;
        microphone.setAttribute("aria-pressed", "false");
        stream.getTracks().forEach((track) => track.stop());
        try {
          const wav = await toWav(new Blob(pieces));
          attach(new File([wav], "recording.wav", { type: "audio/wav" }));
        } catch (error) {
          problem(`The recording could not be read: ${error.message}`);
        }
      };
      signal.addEventListener("abort", () => recorder?.stop());
      recorder.start();
      microphone.setAttribute("aria-pressed", "true");
    } catch (error) {
      recorder = null;
      problem(`The microphone cannot be used: ${error.message}`);
    }
  }

  /** Give back what could not be answered, unless something else has been written. */
  function suggest(words) {
    text.value ||= words;
    fit();
  }

  return { node, setBusy, submit, suggest, focus: () => text.focus({ preventScroll: true }) };
}

const MEDIA_WORDS = { image: "pictures", audio: "sounds", video: "videos" };
/** Kinds of media as a reader says them: "pictures, sounds and videos". @param {string[]} kinds */
const inWords = (kinds) =>
  kinds
    .map((kind) => MEDIA_WORDS[kind])
    .join(", ")
    .replace(/, (?=[^,]*$)/, " and ") || "no files";

/** Whether a key in a field for messages means "send": Enter, but not Shift+Enter, nor the Enter that
 * ends the composition of a character. @param {KeyboardEvent} event */
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
  const word = (at, s) => [...s].forEach((c, i) => out.setUint8(at + i, c.charCodeAt(0)));
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
  samples.forEach((v, i) => out.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, v)) * 32767, true));
  return out.buffer;
}
