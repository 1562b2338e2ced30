"""The Prompt widget: a conversation with a model in a notebook cell.

    import gemma4_mlx as g4
    g4.widgets.Prompt(g4.load())

The cell returns at once. A message starts one thread that reads the chat's events while the engine
runs the model; the view is told at most 30 times a second, and the whole conversation stands in
:attr:`Prompt.turns` whenever a turn begins or ends. *Stop* only sets an event, from whatever thread
the kernel delivers it on, so it works on every version of ipykernel as soon as the kernel reads it.
Everything the widget does is the chat's: ``prompt.chat`` is a plain
:class:`~gemma4_mlx.chat.Chat`, to be read and driven from the next cell.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import traitlets

from ..chat import Audio, Chat, Image, Message, Text, Video
from ..chat.history import load as load_history
from ..chat.history import refused
from ..chat.loading import as_parts
from ..chat.prompting import user_message
from ..errors import ChatError, Gemma4Error
from .answering import Answering
from .attachments import Uploads
from .base import Flusher, Widget
from .traceview import export
from .turns import ChatView, Written, describe_model, turn_parts

KINDS = {"image": Image, "audio": Audio, "video": Video}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed")

#: The widget that drives a chat now, so that running a cell again does not leave two at it.
_drivers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Prompt(Widget):
    """A conversation that streams, with pictures, sounds, tools and every token's alternatives.

    Args:
        model_or_chat: a model, or a ``Chat`` whose conversation goes on here; None loads the
            embedded teaching model.
        approve: ask the reader before a tool runs; False runs tools at once.
        alternatives: likeliest tokens kept with each token, for the token view.
        suggestions: first messages to offer.
        **chat_options: for ``Chat``, when a model is given: ``system``, ``tools``, ``thinking``...

    Attributes:
        chat: the conversation, a plain ``Chat``.
        turns: what the view shows (read it, do not write it).
        options: sampling controls as set in the view; they override the chat's for new answers.
        stats: numbers of the last answer: ``tokens_per_second``, ``first_token`` (seconds),
            ``used`` and ``context`` (tokens), ``reused`` of ``prompt`` (tokens), ``reuse_note``
            (why so little, else ""), ``memory`` (bytes).
        busy: an answer is being written.
        conversation: counts up when another conversation takes the place of this one.
        explains: a ``Why`` view is open on this widget: tokens can be asked about.

    Raises:
        ChatError: options beside a ``Chat``; and what ``Chat`` raises for its options.

    Example:
        >>> prompt = Prompt(g4.load(), system="Answer briefly.")   # doctest: +SKIP
        >>> prompt.say("hello"); prompt.wait(); prompt.chat.messages[-1].text   # doctest: +SKIP
    """

    front = "prompt"

    turns = traitlets.List().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    stats = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    conversation = traitlets.Int(0).tag(sync=True)
    explains = traitlets.Bool(False).tag(sync=True)

    urgent = frozenset({"stop", "approve"})

    def __init__(
        self,
        model_or_chat: Any = None,
        *,
        approve: bool = True,
        alternatives: int = 5,
        suggestions: tuple[str, ...] | list[str] | None = None,
        **chat_options: Any,
    ) -> None:
        if model_or_chat is None:
            from ..checkpoints import load

            model_or_chat = load()
        given = isinstance(model_or_chat, Chat)
        if given and chat_options:
            raise ChatError(f"{', '.join(chat_options)}: set these on the chat itself")
        self.chat = model_or_chat if given else Chat(model_or_chat, **chat_options)
        super().__init__()
        self.approve, self.alternatives = approve, alternatives
        self._uploads = Uploads(self.chat.model)
        self._view = ChatView(self.chat)
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._now: Answering | None = None
        self._explainer = lambda: None  # a weak reference to a Why view
        self._count = 0
        self._flusher = Flusher(self._flush)
        self.about = describe_model(self.chat, suggestions)
        self.options = {name: getattr(self.chat.options, name) for name in SAMPLING}
        self.options |= {"thinking": bool(self.chat.thinking)}
        self._take_over()
        self._show()

    def _take_over(self) -> None:
        """Be the one widget that drives this chat: its cell may have been run again."""
        last = _drivers.get(self.chat)
        if last is not None and (other := last()) is not None:
            other.stop()
            other.wait(5)
            self._view, self._count = other._view, other._count
        _drivers[self.chat] = weakref.ref(self)

    # -- from Python ----------------------------------------------------------------------------

    def say(self, text: str | None, *, images=(), audio=(), videos=()) -> None:
        """Send a message as the reader would. Returns at once; :meth:`wait` for the answer.

        ``text`` may be None beside a picture or a sound. Raises ChatError for an empty message, and
        while the model answers.
        """
        given = {
            "images": as_parts(images, Image),
            "audio": as_parts(audio, Audio),
            "videos": as_parts(videos, Video),
        }
        if not (text or "").strip() and not any(given.values()):
            raise ChatError("the message is empty: say something, or attach a picture or a sound")
        self._start(len(self.chat.messages), text=text, media=given)

    def stop(self) -> None:
        """End the answer within a token; what it has said is kept. Safe from any thread."""
        now = self._now
        if now is not None:
            now.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no answer is being written. Ctrl-C in a cell stops the answer."""
        try:
            return self._idle.wait(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise

    def explain_in(self, view: Any) -> None:
        """Have tokens explained in a ``Why`` view from now on, as long as it is kept."""
        self._explainer = weakref.ref(view)
        self.explains = True

    # -- what the view asks for -----------------------------------------------------------------

    def answer_send(self, text: str, attachments: list[str] = ()) -> bool:
        """What the composer holds, as :meth:`say`.

        Raises ChatError for an empty message, an attachment that is gone, and while the model
        answers.
        """
        media: dict[str, list] = {"images": [], "audio": [], "videos": []}
        place = {"image": "images", "audio": "audio", "video": "videos"}
        for key in attachments:
            file = self._uploads.ready.get(key)
            if file is None:
                raise ChatError("an attachment is gone; attach it again")
            media[place[file.kind]].append(KINDS[file.kind](file.data, name=file.name))
        self.say(text, **media)
        return True

    def answer_stop(self) -> None:
        self.stop()

    def answer_approve(self, call: str, allow: bool) -> bool:
        now = self._now
        if now is not None:
            now.decide(call, allow)
        return True

    def answer_whole(self) -> dict:
        """Everything as it is now, for a view that opened late or missed a message."""
        turns, now = list(self.turns), self._now
        if now is None:
            return {"turns": turns, "progress": None}
        live = now.live.turn()
        turns = [live if turn["id"] == live["id"] else turn for turn in turns]
        return {"turns": turns, "progress": now.progress}

    def answer_attach(
        self, upload: str, name: str, mime: str, part: int, parts: int, buffers: list = ()
    ) -> dict | None:
        data = bytes(buffers[0]) if buffers else b""
        file = self._uploads.receive(upload, name, mime, part, parts, data)
        return file.part() if file is not None else None

    def answer_media(self, key: str) -> tuple[dict, bytes]:
        """What the reader plays: a sound as the model hears it, a video as it was given."""
        mime, data = self._view.playable(key)
        return {"mime": mime}, data

    def answer_tokens(self, turn: int, start: int = 0) -> list:
        """Tokens of a turn from ``start`` on: [text, probability, [[id, text, probability]]]."""
        name = self.chat.model.tokenizer.token_text
        now = self._now
        live = now is not None and turn == len(self.turns) - 1
        tokens = list(now.live.tokens) if live else self._view.tokens_of(turn)
        return [
            [
                name(token.id),
                round(math.exp(token.logprob), 5),
                [[a.id, a.text, round(math.exp(a.logprob), 5)] for a in token.alternatives],
            ]
            for token in tokens[start:]
        ]

    def answer_edit(self, turn: int, text: str) -> bool:
        """Other words: after the reader's the model answers again, its own just stand.

        Raises ChatError while the model answers, and for a turn that is gone.
        """
        first, stop = self._view.span(turn)
        messages = self.chat.messages[first:stop]
        if messages[0].role == "user":
            media = {"images": [], "audio": [], "videos": []}
            place = {Image: "images", Audio: "audio", Video: "videos"}
            for part in messages[0].media:
                media[place[type(part)]].append(part)
            self._start(first, text=text, media=media, instead=True)
            return True
        with self._lock:
            self._check_idle()
            self._view.branches.begin(first)
            last = Message("assistant", (Text(text),))
            self.chat.messages += [*messages[:-1], last]
            self._show()
        return True

    def answer_regenerate(self, turn: int) -> bool:
        """Answer again; the old answer stays as another version.

        Raises ChatError while the model answers, and for a turn that is gone.
        """
        first, _ = self._view.span(turn)
        self._start(first, instead=True)
        return True

    def answer_branch(self, turn: int, branch: int) -> bool:
        """Show another version of a turn and what followed it.

        Raises ChatError while the model answers, and for a turn that is gone, IndexError for a
        version that does not exist.
        """
        first, _ = self._view.span(turn)
        with self._lock:
            self._check_idle()
            self._view.branches.switch(first, branch)
            self._show()
        return True

    def answer_continue_from(self, turn: int, token: int, alternative: int) -> bool:
        """A new version that is the same up to ``token`` and goes on from another one there.

        Raises ChatError while the model answers, and for a turn, token or alternative that is gone.
        """
        first, _ = self._view.span(turn)
        i, written, token = self._view.find_token(turn, token)
        old = written.tokens[token]
        other = next((a for a in old.alternatives if a.id == alternative), None)
        if other is None:
            raise ChatError("this token was not among the alternatives")
        chosen = replace(old, id=other.id, text=other.text, logprob=other.logprob, stop=False)
        begin = [*written.tokens[:token], chosen]
        self._start(first, instead=True, kept=self.chat.messages[first:i], begin=begin)
        return True

    def answer_explain(self, turn: int, token: int, alternative: int | None = None) -> bool:
        """Ask the ``Why`` view why a token came; with an ``alternative``, why not that one.

        Raises ChatError where no such view is open, and for a turn or token that is gone.
        """
        view = self._explainer()
        if view is None:
            self.explains = False
            raise ChatError("open g4.widgets.Why(prompt) to see why a token came")
        i, written, at = self._view.find_token(turn, token)
        ids = [each.id for each in written.tokens]
        view.show_written(self.chat.messages[:i], ids, written.thinking, at, alternative)
        return True

    def answer_new(self) -> bool:
        """Begin again; the system message stays."""
        self.stop()
        self.wait(5)
        with self._lock:
            self.chat.messages[:] = [m for m in self.chat.messages[:1] if m.role == "system"]
            self._forget()
        return True

    def answer_export(self, format: str) -> tuple[None, bytes]:
        """A file: "json" is what ``Chat.save`` writes, media embedded; "png", "svg", "html".

        Raises ValueError for another format.
        """
        if format != "json":
            return None, export(self, format)
        with tempfile.TemporaryDirectory() as folder:
            self.chat.save(Path(folder) / "chat.json")
            return None, (Path(folder) / "chat.json").read_bytes()

    def answer_load(self, text: str, name: str = "the file") -> bool:
        """The conversation of a file takes the place of this one, if the model can go on from it.

        Raises ChatError, this conversation then staying: while the model answers, for a file that
        holds none, one that the model cannot read, and one whose pictures or sounds are not in it
        (the view cannot know which other files may be read).
        """
        with self._lock, tempfile.TemporaryDirectory() as folder:
            self._check_idle()
            path = Path(folder) / "conversation.json"
            try:
                path.write_text(text, encoding="utf-8")
                messages = load_history(path)["messages"]
                if reasons := refused(messages):
                    raise ChatError("; ".join(reasons))
                if not messages:
                    raise ChatError(f"{name} is a conversation without a message")
                self.chat._prompting.inputs(messages, self.chat.tools, self.chat.thinking, None)
            except (Gemma4Error, UnicodeError) as error:
                problem = str(error).replace(str(path), name).rstrip(".")
                raise ChatError(f"{problem}. The conversation shown here stays.") from None
            self.chat.messages[:] = messages
            self._forget()
        return True

    # -- answering ------------------------------------------------------------------------------

    def _start(self, at: int, *, text=None, media=None, instead=False, kept=(), begin=()) -> None:
        """Answer in a thread of its own, from message ``at`` on.

        Args:
            text, media: what the reader says; without both, the history is answered.
            instead: as a new version of what stands there.
            kept: messages of the old version that stand in the new one, too.
            begin: tokens that the answer begins with.
        """
        said = user_message(text, **media) if media else None
        with self._lock:
            self._check_idle()
            if instead:
                self._view.branches.begin(at)
                self.chat.messages += kept
            self._count += 1
            options = {name: self.options.get(name) for name in SAMPLING if name in self.options}
            wanted = self.options.get("thinking", False)
            thinking = (self.chat.thinking or True) if wanted else False
            now = Answering(
                self.chat,
                f"a{self._count}",
                self._flusher.mark,
                parts=turn_parts(kept, self._view.show_media),
                begin=begin,
                ask=self.approve,
                how=options | {"thinking": thinking, "alternatives": self.alternatives},
            )
            turns = self._view.turns()
            if kept:
                turns.pop()  # its turn goes on as the live one
            if said is not None:
                turns.append(self._view.turn([said], len(self.chat.messages)))
            self._now = now
            self._idle.clear()
            with self.hold_sync():
                self.error = ""
                self.turns = [*turns, now.live.turn()]
                self.busy = True
        place = at if instead else None
        threading.Thread(
            target=self._answer_in_thread,
            args=(now, text, media or {}, place),
            name="gemma4-prompt",
            daemon=True,
        ).start()

    def _answer_in_thread(self, now: Answering, text, media: dict, version_at: int | None) -> None:
        before = len(self.chat.messages)
        try:
            now.run(text, **media)
        except BaseException as error:  # shown to the reader; nobody else would see it
            self.report(error)
            if version_at is not None:
                with contextlib.suppress(KeyError):
                    self._view.branches.give_up(version_at)
            if text:
                self.send_push({"kind": "draft", "text": text})
        finally:
            answers = [m for m in self.chat.messages[before:] if m.role == "assistant"]
            for message, tokens in zip(answers, now.steps):
                self._view.remember(Written(message, tokens, now.live.id, now.thinking))
            with self.hold_sync():  # the turns hold all of it: no delta has to come before them
                self._now = None
                self.stats = now.stats()
                self._show(now.status)
                self.busy = False
            self._idle.set()

    def _flush(self) -> None:
        now = self._now
        # After a stop the turns follow at once, and should not queue behind a last delta.
        if now is not None and not now.stopped and (pushes := now.pushes()):
            self.send({"push": pushes})

    def send_push(self, item: dict) -> None:
        """One message to the view, for what is not worth a trait."""
        self.send({"push": [item]})

    def _check_idle(self) -> None:
        if self._now is not None:
            raise ChatError("the model is still answering: stop it first")

    def _show(self, status: str = "done") -> None:
        """Bring ``turns`` in line with the chat; ``status`` is the last answer's."""
        turns = self._view.turns()
        if turns and turns[-1]["role"] == "assistant":
            turns[-1]["status"] = status
        self.turns = turns

    def _forget(self) -> None:
        self._view.forget()
        self.conversation += 1
        self.error = ""
        self.stats = {}
        self._show()

    # -- pictures of it -------------------------------------------------------------------------

    def snapshot_requests(self) -> list[dict]:
        tokens = [i for i, turn in enumerate(self.turns) if turn["tokens"]]
        sounds = [p["key"] for t in self.turns for p in t["parts"] if p["kind"] == "audio"]
        return [
            *({"type": "tokens", "turn": i, "start": 0} for i in tokens),
            *({"type": "media", "key": key} for key in sounds),
            {"type": "export", "format": "svg"},
        ]

    def snapshot_image(self):
        return self.drawing().pil()

    def drawing(self):
        """The conversation as a still :class:`~gemma4_mlx.widgets.drawing.Drawing`."""
        from .still import draw_conversation

        stats, status = self.stats, ""
        if stats.get("tokens_per_second"):
            status = f"{stats['tokens_per_second']:.0f} tokens/s · {stats['used']:,} tokens"
        return draw_conversation(self.turns, self.about["name"], status)
