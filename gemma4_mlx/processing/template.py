"""Messages to the text a model reads, through its chat template, without injection.

A Gemma 4 chat template (Jinja, shipped with the checkpoint) writes control tokens such as
``<|turn>`` around the messages. A user or a tool may write the same characters. Here they stay
characters: before rendering, every ``<`` in anything the caller passes is swapped for a private
character that occurs nowhere in the input; afterwards only a control token whose ``<`` survived as
itself was written by the template. The token ids of a conversation that contains no such
characters are exactly those of the plain rendering.

The template runs in a sandbox (``sandbox.py``): it cannot reach attributes of Python objects,
change what it is given, call anything but the usual filters, or run without end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ChatError

DEFAULT_TEMPLATE = Path(__file__).parents[1] / "teaching" / "checkpoint" / "chat_template.jinja"

# Noncharacters: valid in strings, assigned to nothing, so hardly ever in a text.
_CANDIDATES = [chr(c) for c in range(0xFDD0, 0xFDF0)] + [chr(c) for c in range(0xF8FF, 0xE000, -1)]
#: Templates write nested values by recursion, several Python calls a level.
DEEPEST = 100
_CHANNEL_MARKERS = re.compile(r"<\|channel>|<channel\|>")


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: what the template wrote, as a reader would see it.
        marked: the same with every ``<`` that came from the caller replaced by `stand_in`.
        stand_in: that private character.
    """

    text: str
    marked: str
    stand_in: str

    def pieces(self, special: Mapping[str, int]) -> list[tuple[str, int | None]]:
        """The text cut at the template's control tokens: (text, None) or (token, its id)."""
        names = sorted((t for t in special if t.startswith("<")), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        pieces: list[tuple[str, int | None]] = []
        start = 0
        for match in pattern.finditer(self.marked):
            if match.start() > start:
                pieces.append((self._plain(self.marked[start : match.start()]), None))
            pieces.append((match.group(), special[match.group()]))
            start = match.end()
        if start < len(self.marked):
            pieces.append((self._plain(self.marked[start:]), None))
        return pieces

    def encode(self, tokenizer, known: dict[str, list[int]] | None = None) -> list[int]:
        """Token ids. Media placeholders are one id each; see ``inputs.expand``.

        Args:
            known: remembers the ids of pieces from one call to the next, so that a conversation
                that grows is not encoded again; pieces that are gone are forgotten.
        """
        ids: list[int] = []
        used: dict[str, list[int]] = {}
        known = {} if known is None else known
        for text, id in self.pieces(tokenizer.special_ids):
            if id is not None:
                ids.append(id)
                continue
            piece = used.get(text) or known.get(text) or tokenizer.encode(text)
            used[text] = piece
            ids += piece
        known.clear()
        known.update(used)
        return ids

    def _plain(self, marked: str) -> str:
        return marked.replace(self.stand_in, "<")


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = False,
    add_generation_prompt: bool = True,
    template: str | None = None,
    **variables: Any,
) -> Rendered:
    """Render a conversation as its model wants to read it.

    Args:
        messages: ``{"role": "user", "content": "Hi"}``, ...; content may be a list of parts
            ``{"type": "text", "text": ...}``, ``{"type": "image"}``, ``"audio"``, ``"video"``.
            Roles: system, user, assistant (with ``tool_calls``, ``tool_responses``,
            ``reasoning``), tool.
        tools: declarations, ``{"type": "function", "function": {"name": ..., ...}}``.
        thinking: let the model think before it answers (the template's ``enable_thinking``).
        add_generation_prompt: open the model's turn at the end.
        template: the checkpoint's own template; without one the package's default is used.
        variables: further variables of the template, e.g. ``preserve_thinking=True``.

    Raises:
        ChatError: the template refuses the conversation, or is itself broken.
    """
    _check_shapes(messages, tools)
    stand_in = _unused_character(messages, tools)
    context = {
        "messages": [_mark_message(m, stand_in) for m in messages],
        "tools": _mark(list(tools), stand_in) if tools else None,
        "add_generation_prompt": add_generation_prompt,
        "enable_thinking": thinking,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        **variables,
    }
    from .sandbox import compiled, run  # Jinja is imported when something is rendered

    program = compiled(default_template() if template is None else template, stand_in)
    marked = run(program, context, _size([messages, tools, variables]))
    return Rendered(marked.replace(stand_in, "<"), marked, stand_in)


@lru_cache(maxsize=1)
def default_template() -> str:
    """The package's own template in the format of the small Gemma 4 models."""
    return DEFAULT_TEMPLATE.read_text("utf-8")


def _check_shapes(messages: Any, tools: Any) -> None:
    """Raise ChatError unless these are lists of dicts that are not nested without end."""
    for name, value, optional in (("messages", messages, False), ("tools", tools, True)):
        if value is None and optional:
            continue
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise ChatError(f"{name} must be a list of dicts, not a {type(value).__name__}.")
        for i, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise ChatError(f"{name}[{i}] must be a dict, not a {type(item).__name__}.")
            _check_depth(item, f"{name}[{i}]")


def _check_depth(value: Any, name: str, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ChatError(f"{name} is nested more than {DEEPEST} deep.")
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        return
    for item in value:
        _check_depth(item, name, depth + 1)


def _size(value: Any) -> int:
    """Values and characters."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return len(value) + sum(_size(k) + _size(v) for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return len(value) + sum(map(_size, value))
    return 1


# Marking what the caller wrote


def _unused_character(*values: Any) -> str:
    seen: set[str] = set()
    _collect(values, seen)
    for candidate in _CANDIDATES:
        if candidate not in seen:
            return candidate
    raise ChatError("the conversation uses every private character: it cannot be rendered safely.")


def _collect(value: Any, seen: set[str]) -> None:
    if isinstance(value, str):
        seen.update(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(key, seen)
            _collect(item, seen)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for item in value:
            _collect(item, seen)


def _mark(value: Any, stand_in: str) -> Any:
    """A deep copy of plain data in which every ``<`` is the stand-in."""
    if isinstance(value, str):
        return str(value).replace("<", stand_in)
    if isinstance(value, Mapping):
        return {_mark(k, stand_in): _mark(v, stand_in) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_mark(item, stand_in) for item in value]
    if value is None or type(value) in (bool, int, float):
        return value
    # Whatever else would be written by its own __str__, which nobody has marked.
    raise ChatError(
        f"a message or tool holds a {type(value).__name__}: a template takes text, numbers, lists "
        "and dicts."
    )


def _mark_message(message: Mapping[str, Any], stand_in: str) -> dict[str, Any]:
    """Mark one message. In a model's own text the channel markers stay: templates strip them."""
    marked = _mark(message, stand_in)
    if message.get("role") in ("assistant", "model"):
        content = message.get("content")
        if isinstance(content, str):
            marked["content"] = _mark_model_text(content, stand_in)
        elif isinstance(content, Sequence):
            for item, original in zip(marked["content"], content):
                if isinstance(original, Mapping) and isinstance(original.get("text"), str):
                    item["text"] = _mark_model_text(original["text"], stand_in)
    return marked


def _mark_model_text(text: str, stand_in: str) -> str:
    parts, start = [], 0
    for match in _CHANNEL_MARKERS.finditer(text):
        parts += [text[start : match.start()].replace("<", stand_in), match.group()]
        start = match.end()
    return "".join([*parts, text[start:].replace("<", stand_in)])
