"""The messages of a conversation and their parts, as immutable values.

A history is a list of :class:`Message`. Each has a role and parts:

| role      | parts                                          |
|-----------|------------------------------------------------|
| system    | Text                                           |
| user      | Text, Image, Audio, Video                      |
| assistant | Thinking, Text, ToolCall, in the order written |
| tool      | ToolResult, one for each call                  |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ChatError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True)
class Thinking:
    """What a model wrote in its thinking channel, markers and channel name left out."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A model's request to call a function.

    Attributes:
        id: ties the call to its result; unique in a conversation.
        name: the tool's name.
        arguments: by name; empty if the call could not be read.
        error: why the call could not be read, None if it could.
        loaded: the call comes from a file, not from a model that ran here: it runs only if the
            user approves.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    loaded: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True)
class Refused:
    """Stands for the source of a picture or sound that a loaded conversation must not refer to.

    Attributes:
        reason: which message and part, why, and what would allow it.
        entry: what the file says, for saving it again.
    """

    reason: str
    entry: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Media:
    source: Any
    name: str | None = None


class Image(_Media):
    """A picture: a path, an http(s) or ``data:`` address, a file's bytes, a ``PIL.Image`` or an
    array (H, W, 3).

    Args:
        source: any of these.
        name: a label to show.
        budget: soft tokens at most (70, 140, 280, 560, 1120); None: the model's default.
    """

    kind = "image"

    def __init__(self, source: Any, name: str | None = None, budget: int | None = None):
        super().__init__(source, name)
        object.__setattr__(self, "budget", budget)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.budget is None else {"budget": self.budget}


class Audio(_Media):
    """A sound: a path, an address, a file's bytes, or an array of samples with its `rate`.

    Args:
        source: any of these.
        name: a label to show.
        rate: samples per second, needed for an array only.
        split: send a recording longer than the model's longest clip as several clips.
    """

    kind = "audio"

    def __init__(
        self,
        source: Any,
        name: str | None = None,
        rate: int | None = None,
        split: bool = False,
    ):
        super().__init__(source, name)
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "split", bool(split))

    @property
    def options(self) -> dict[str, Any]:
        given = {"rate": self.rate, "split": self.split or None}
        return {k: v for k, v in given.items() if v is not None}


class Video(_Media):
    """A video: a path, an address, a file's bytes, an array of frames (T, H, W, 3), or a list of
    pictures.

    Args:
        source: any of these.
        name: a label to show.
        frames: how many frames the model sees; None: the model's default (32).
        fps: frames per second of given frames.
    """

    kind = "video"

    def __init__(
        self,
        source: Any,
        name: str | None = None,
        frames: int | None = None,
        fps: float | None = None,
    ):
        super().__init__(source, name)
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "fps", fps)

    @property
    def options(self) -> dict[str, Any]:
        given = {"frames": self.frames, "fps": self.fps}
        return {k: v for k, v in given.items() if v is not None}


Media = Image | Audio | Video


@dataclass(frozen=True)
class ToolResult:
    """The result of a call.

    Attributes:
        id, name: of the call.
        result: plain data (text, numbers, lists, dicts); None if it failed.
        error: what went wrong, in words for the model; None if nothing did.
        media: pictures and sounds that belong to the result.
        denied: the call was not approved, so the tool did not run.
    """

    id: str
    name: str
    result: Any = None
    error: str | None = None
    media: tuple[Media, ...] = ()
    denied: bool = False


Part = Text | Thinking | ToolCall | ToolResult | Image | Audio | Video
_ALLOWED: dict[str, tuple[type, ...]] = {
    "system": (Text,),
    "user": (Text, Image, Audio, Video),
    "assistant": (Text, Thinking, ToolCall),
    "tool": (ToolResult,),
}


def text_of(parts) -> str:
    """The words among a message's parts."""
    return "".join(p.text for p in parts if isinstance(p, Text))


def thinking_of(parts) -> str:
    """The thoughts among a message's parts, a blank line between two."""
    return "\n\n".join(p.text for p in parts if isinstance(p, Thinking))


def calls_of(parts) -> tuple[ToolCall, ...]:
    """The tool calls among a message's parts."""
    return tuple(p for p in parts if isinstance(p, ToolCall))


@dataclass(frozen=True)
class Message:
    """One entry of a history. ``parts`` may be given as a single part or any iterable.

    Raises ChatError for anything else.
    """

    role: str
    parts: tuple[Part, ...]

    def __post_init__(self):
        try:
            parts = (self.parts,) if isinstance(self.parts, Part) else tuple(self.parts)
        except TypeError:
            raise ChatError(
                f"a message cannot hold a {type(self.parts).__name__}: give it a part, such as "
                "Text, or a list of parts."
            ) from None
        object.__setattr__(self, "parts", parts)

    @property
    def text(self) -> str:
        """The words of the message; thinking, calls and media left out."""
        return text_of(self.parts)

    @property
    def thinking(self) -> str:
        """What the model thought."""
        return thinking_of(self.parts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of an assistant's message."""
        return calls_of(self.parts)

    @property
    def media(self) -> tuple[Media, ...]:
        """Pictures, sounds and videos in order, those of tool results included."""
        found: list[Media] = []
        for part in self.parts:
            found += part.media if isinstance(part, ToolResult) else [part]
        return tuple(p for p in found if isinstance(p, Image | Audio | Video))


def pending_calls(messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls at the end of a history that no result answers yet."""
    if not messages or getattr(messages[-1], "role", None) != "assistant":
        return ()
    return messages[-1].tool_calls


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ChatError if a history holds anything but Message objects, in any order."""
    for i, message in enumerate(messages):
        if not isinstance(message, Message):
            raise ChatError(
                f"message {i} is a {type(message).__name__}: a history holds Message objects"
            )


def check_history(messages: Sequence[Message]) -> None:
    """Raise ChatError, naming the message, if a history is not a conversation."""
    check_messages(messages)
    previous: str | None = None
    calls: dict[str, str] = {}
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            known = ", ".join(ROLES)
            raise ChatError(f"message {i} has the role {message.role!r}; known roles are {known}.")
        for part in message.parts:
            if not isinstance(part, _ALLOWED[message.role]):
                raise ChatError(
                    f"message {i} is from {message.role} and cannot hold a {type(part).__name__}."
                )
            if isinstance(part, Text | Thinking) and not isinstance(part.text, str):
                raise ChatError(
                    f"message {i} holds a {type(part).__name__} of {type(part.text).__name__}; "
                    "give it a string."
                )
        if message.role != "tool" and calls:
            names = ", ".join(calls.values())
            raise ChatError(
                f"message {i} comes before the results of the calls to {names}: put a tool "
                "message with one ToolResult for each call between them."
            )
        if message.role == "user" and previous == "user":
            raise ChatError(
                f"messages {i - 1} and {i} are both the user's: a reply of the model must stand "
                "between them, or make one message of the two."
            )
        if message.role == "assistant" and previous in (None, "system"):
            raise ChatError(f"message {i} is the model's, but no user message comes before it.")
        if message.role == "tool":
            _check_results(i, message, calls, previous)
        if message.role == "assistant":
            calls = {c.id: c.name for c in message.tool_calls}
            if len(calls) < len(message.tool_calls):
                raise ChatError(f"message {i} holds two calls with the same id.")
        previous = message.role


def _check_results(i: int, message: Message, calls: dict[str, str], previous: str | None) -> None:
    if not calls or previous != "assistant":
        raise ChatError(f"message {i} holds tool results, but no call comes right before it.")
    for part in message.parts:
        if part.id not in calls:
            raise ChatError(
                f"message {i} answers the call {part.id!r}, which is not open; open are "
                f"{', '.join(calls) or 'none'}."
            )
        del calls[part.id]
    if calls:
        raise ChatError(
            f"message {i} leaves the calls to {', '.join(calls.values())} without a result."
        )
