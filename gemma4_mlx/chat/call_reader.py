"""Parses a tool call as Gemma 4 writes it.

    call:get_weather{city:<|"|>Paris<|"|>,days:[1,2],where:{lat:48.8,lon:null}}

Keys are bare and sorted, strings stand between two ``<|"|>`` tokens without any escaping, so that
a string may hold braces, commas, quotes and line breaks. Other spellings that models produce are
accepted too: quoted keys, strings in ``"`` or ``'``, Python's ``True`` and ``None``.

The input is a sequence of pieces: :data:`QUOTE` for the token ``<|"|>``, ``str`` for everything
else. So a string may even contain the characters ``<|"|>`` spelled out as text.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any


class _Quote:
    def __repr__(self) -> str:
        return '<|"|>'


QUOTE = _Quote()
_HEAD = re.compile(r"\s*(?:call\s*:)?\s*([^\s{}]+)\s*\{")
_WORDS = {
    "true": True, "false": False, "null": None, "none": None, "True": True, "False": False,
    "None": None,
}  # fmt: skip
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DEEPEST = 64


class CallSyntaxError(ValueError):
    """A call that cannot be read. ``name`` is the tool's, "" if even that could not be read."""

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


def read_call(pieces: Iterable[str | _Quote]) -> tuple[str, dict[str, Any]]:
    """(tool name, arguments) of the text between ``<|tool_call>`` and ``<tool_call|>``.

    Raises:
        CallSyntaxError: the text is no call. The message is for the model, so that it can correct
            the call.
    """
    items: list[str | _Quote] = []
    for piece in pieces:
        items += [piece] if piece is QUOTE else list(piece)
    plain = "".join("\0" if item is QUOTE else item for item in items)
    head = _HEAD.match(plain)
    if head is None:
        shown = spelled(items)[:80]
        raise CallSyntaxError(f"expected call:NAME{{...}}, found {shown!r}")
    name = head.group(1).strip("\"'")
    reader = _Reader(items, plain, head.end())
    try:
        arguments = reader.object_body(0)
        reader.skip_space()
        if reader.at < len(items):
            rest = spelled(items[reader.at :])[:40]
            raise CallSyntaxError(f"text after the closing brace: {rest!r}")
    except CallSyntaxError as error:
        error.name = name
        raise
    return name, arguments


def spelled(items: Sequence[str | _Quote]) -> str:
    """The pieces as text."""
    return "".join(str(QUOTE) if item is QUOTE else item for item in items)


def _escaped(found: re.Match) -> str:
    """Escape a double quote for JSON; what is escaped already stays as it is."""
    return found.group(1) or '\\"'


class _Reader:
    """A recursive reader over characters and quote marks; `plain` has a NUL for each mark."""

    def __init__(self, items: list[str | _Quote], plain: str, at: int):
        self.items, self.plain, self.at = items, plain, at

    def peek(self) -> str | _Quote | None:
        return self.items[self.at] if self.at < len(self.items) else None

    def skip_space(self) -> None:
        while isinstance(self.peek(), str) and self.peek().isspace():
            self.at += 1

    def fail(self, wanted: str) -> CallSyntaxError:
        found = spelled(self.items[self.at : self.at + 20])
        place = repr(found) if found else "the end"
        return CallSyntaxError(f"expected {wanted} at character {self.at}, found {place}")

    def object_body(self, depth: int) -> dict[str, Any]:
        """The pairs after an opening brace, and the closing one."""
        result: dict[str, Any] = {}
        while True:
            self.skip_space()
            if self.peek() == "}":
                self.at += 1
                return result
            key = self.key()
            self.skip_space()
            if self.peek() != ":":
                raise self.fail(f"':' after {key!r}")
            self.at += 1
            result[key] = self.value(depth + 1)
            self.separator("}")

    def array_body(self, depth: int) -> list[Any]:
        result: list[Any] = []
        while True:
            self.skip_space()
            if self.peek() == "]":
                self.at += 1
                return result
            result.append(self.value(depth + 1))
            self.separator("]")

    def separator(self, closing: str) -> None:
        """Consume a comma, or check for the closing mark, which is left for the caller."""
        self.skip_space()
        if self.peek() == ",":
            self.at += 1
        elif self.peek() != closing:
            raise self.fail(f"',' or {closing!r}")

    def key(self) -> str:
        char = self.peek()
        if char is QUOTE or char == '"':
            return self.string()
        if char == "'" and (text := self.single_quoted(":")) is not None:
            return text
        start = self.at
        while isinstance(self.peek(), str) and self.peek() not in ":{}[],":
            self.at += 1
        key = spelled(self.items[start : self.at]).strip()
        if not key:
            raise self.fail("a name")
        return key

    def value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise CallSyntaxError(f"values are nested more than {_DEEPEST} deep")
        self.skip_space()
        char = self.peek()
        if char is QUOTE or char == '"':
            return self.string()
        if char == "'" and (text := self.single_quoted(",]}")) is not None:
            return text
        if char == "{":
            self.at += 1
            return self.object_body(depth)
        if char == "[":
            self.at += 1
            return self.array_body(depth)
        return self.word()

    def string(self) -> str:
        if self.peek() is QUOTE:
            start = self.at + 1
            try:
                end = next(i for i in range(start, len(self.items)) if self.items[i] is QUOTE)
            except StopIteration:
                raise self.fail('<|"|> at the end of a string') from None
            self.at = end + 1
            return "".join(self.items[start:end])
        start = self.at
        self.at += 1
        while isinstance(self.peek(), str):
            char = self.peek()
            self.at += 2 if char == "\\" else 1
            if char == '"':
                text = spelled(self.items[start : self.at])
                try:
                    return json.loads(text, strict=False)
                except ValueError:
                    return text[1:-1]
        self.at = start
        raise self.fail("'\"' at the end of a string")

    def single_quoted(self, behind: str) -> str | None:
        """A string in ``'``. It ends at the first ``'`` that a character of ``behind`` follows;
        others are apostrophes. None, with nothing consumed, if there is no such end."""
        pattern = rf"'((?:\\.|[^\\\0])*?)'(?=\s*[{re.escape(behind)}])"
        found = re.compile(pattern, re.DOTALL).match(self.plain, self.at)
        if found is None:
            return None
        self.at = found.end()
        text = found.group(1).replace("\\'", "'")
        try:
            return json.loads('"' + re.sub(r'(\\.)|"', _escaped, text) + '"', strict=False)
        except ValueError:
            return text

    def word(self) -> Any:
        """A number, true, false or null; any other text up to a comma or bracket is a string."""
        start = self.at
        while isinstance(self.peek(), str) and self.peek() not in ",}]{[":
            self.at += 1
        text = spelled(self.items[start : self.at]).strip()
        if not text:
            raise self.fail("a value")
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text) if len(text) < 400 else text
        return float(text) if _NUMBER.fullmatch(text) else text
