"""A chat's messages as the Prompt widget shows them.

A *turn* of the view is a user's message, or everything the model did until the next one: its
thinking, words and tool calls over several messages, with each result in the card of its call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ..chat import Chat, Message, Text
from ..chat.messages import Refused
from ..errors import ChatError
from .attachments import as_wav, describe
from .branches import Branches
from .live_turn import as_text

TEACHING_SUGGESTIONS = (
    "Hello",
    "Please count from 3 to 9.",
    "What is 12 + 30?",
    "Count from 2 to 6 in Spanish.",
)


class Written(NamedTuple):
    """A message that the model wrote here: its tokens, its turn's id, whether it was to think."""

    message: Message
    tokens: list
    turn: str
    thinking: bool | int


class ChatView:
    """A chat as turns, with what the view needs beside the messages: versions, tokens, media.

    Messages and media parts are known by identity: a chat keeps its objects, and so does this.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.branches = Branches(chat.messages)
        self._written: dict[int, Written] = {}
        self._shown: WeakKeyDictionary[Any, dict] = WeakKeyDictionary()  # part -> its view
        self._keys = itertools.count()

    def turns(self) -> list[dict]:
        """All of the conversation."""
        messages = self.chat.messages
        return [self.turn(messages[a:b], a) for a, b in turn_spans(messages)]

    def turn(self, messages: Sequence[Message], first: int) -> dict:
        """One turn, from its messages; ``first`` is the place of the first one in the chat."""
        version, versions = self.branches.versions(first)
        written = [self._written[id(m)] for m in messages if id(m) in self._written]
        return {
            "id": written[-1].turn if written else f"{first}.{version}",
            "role": "user" if messages[0].role == "user" else "assistant",
            "parts": turn_parts(messages, self.show_media),
            "status": "done",
            "branch": version,
            "branches": versions,
            "tokens": sum(len(each.tokens) for each in written),
            "editable": any(isinstance(p, Text) for p in messages[-1].parts),
        }

    def span(self, turn: int) -> tuple[int, int]:
        """(first, stop) of a turn's messages. Raises ChatError if there is no such turn."""
        spans = turn_spans(self.chat.messages)
        if not 0 <= turn < len(spans):
            raise ChatError("this message is not in the conversation any more")
        return spans[turn]

    def remember(self, written: Written) -> None:
        """How a message was written."""
        self._written[id(written.message)] = written

    def tokens_of(self, turn: int) -> list:
        """The tokens of a turn's messages, one after another.

        Raises ChatError if there is no such turn.
        """
        first, stop = self.span(turn)
        found = [self._written.get(id(m)) for m in self.chat.messages[first:stop]]
        return [token for written in found if written for token in written.tokens]

    def find_token(self, turn: int, token: int) -> tuple[int, Written, int]:
        """(message, how it was written, which of its tokens) of a turn's ``token``-th token.

        Raises ChatError if it is not known any more.
        """
        first, stop = self.span(turn)
        for i in range(first, stop):
            written = self._written.get(id(self.chat.messages[i]))
            if written is None:
                continue
            if token < len(written.tokens):
                return i, written, token
            token -= len(written.tokens)
        raise ChatError("this token is not known any more")

    def show_media(self, part: Any) -> dict:
        """The view's part for a picture, sound or video; made once."""
        if isinstance(part.source, Refused):
            return {"kind": "text", "text": part.source.reason}
        view = self._shown.get(part)
        if view is None:
            medium = self.chat._media.load(part)
            view = describe(medium, part.kind) | {"key": f"m{next(self._keys)}"}
            if part.name:
                view["label"] = part.name
            self._shown[part] = view
        return view

    def playable(self, key: str) -> tuple[str, bytes]:
        """(mime type, bytes) of a shown sound, as the model hears it, or video, as given.

        Raises ChatError if there is none.
        """
        for part, view in list(self._shown.items()):
            if view["key"] == key:
                if part.kind == "audio":
                    return "audio/wav", as_wav(self.chat._media.load(part))
                if isinstance(part.source, bytes):
                    return "video/mp4", part.source
                if isinstance(part.source, str | Path) and Path(part.source).is_file():
                    return "video/mp4", Path(part.source).read_bytes()
        raise ChatError("there is nothing to play here")

    def forget(self) -> None:
        """The conversation is another one."""
        self.branches.clear()
        self._written.clear()


def turn_spans(messages: Sequence[Any]) -> list[tuple[int, int]]:
    """(first, stop) of the messages of each turn; system messages are not shown.

    An assistant's turn takes in the tool messages that answer it.
    """
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role == "user" or not spans or messages[spans[-1][0]].role == "user":
            spans.append((i, i + 1))
        else:
            spans[-1] = (spans[-1][0], i + 1)
    return spans


def turn_parts(messages: Sequence[Any], show_media: Callable[[Any], dict]) -> list[dict]:
    """The view's parts of one turn's messages.

    Args:
        messages: those of one span.
        show_media: gives the part for an ``Image``, ``Audio`` or ``Video``.
    """
    parts: list[dict] = []
    calls: dict[str, dict] = {}
    for message in messages:
        for part in message.parts:
            kind = type(part).__name__
            if kind == "Text":
                if part.text:  # a picture may come without words
                    parts.append({"kind": "text", "text": part.text})
            elif kind == "Thinking":
                parts.append({"kind": "thinking", "text": part.text, "closed": True})
            elif kind == "ToolCall":
                call = {"kind": "tool_call", "id": part.id, "name": part.name, "status": "stopped"}
                call["arguments"] = plain(part.arguments)
                if part.error:
                    call |= {"status": "failed", "result": part.error}
                parts.append(calls.setdefault(part.id, call))
            elif kind == "ToolResult":
                shown = calls.get(part.id)
                if shown is not None:
                    failed = "denied" if part.denied else "failed" if part.error else "done"
                    shown |= {"status": failed, "result": as_text(part.error or part.result)}
                parts += [show_media(medium) for medium in part.media]
            else:
                parts.append(show_media(part))
    return parts


def plain(value: Any) -> Any:
    """A tool's arguments as JSON has them: what it cannot say becomes text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def describe_model(chat: Chat, suggestions: Any = None) -> dict:
    """What the view says about the model: name, weights, media it takes, first messages."""
    from mlx.utils import tree_flatten

    from ..processing.settings import MediaSettings

    model = chat.model
    size = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    unit, amount = ("GB", size / 1e9) if size >= 1e9 else ("MB", size / 1e6)
    settings = MediaSettings.of(model)
    media = ["image", "video"] if settings.image else []
    source = str(getattr(model, "source", "") or "Gemma 4")
    teaching = source == "teaching model"
    return {
        "name": source if teaching else source.rstrip("/").split("/")[-1],
        "detail": f"{amount:.3g} {unit} of weights",
        "media": media + (["audio"] if settings.audio else []),
        "tools": list(chat.tools),
        "suggestions": list(suggestions or (TEACHING_SUGGESTIONS if teaching else ())),
    }
