"""Converts what a tool or a server returned to plain JSON values for the model.

A result may be any object at all. The converted one consists of ``None``, bool, int, float, str,
list and dict alone, so that nothing in it can be taken for the template's own text. It can be
encoded (no half surrogate pairs), written as JSON (no NaN, no huge integers, no endless nesting),
and is short enough for a model. Where something was changed or left out, the value says so.
Pictures and sounds are returned beside it.
"""

import codecs
import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

from .messages import Audio, Image, Video

#: Limits of one result: characters, and depth of nesting.
LARGEST = 100_000
DEEPEST = 40
#: Larger integers are replaced by a note; Python refuses to print more than 4,300 digits.
_MOST_BITS = 4096

Media = Image | Audio | Video


def plain_result(value: Any) -> tuple[Any, tuple[Media, ...]]:
    """(plain JSON values, pictures and sounds) of what a tool returned.

    Never raises: a note takes the place of what cannot be read.
    """
    reading = _Reading()
    plain = reading.read(value, 0)
    is_medium = isinstance(value, Media) or _is_pil(value)
    return (None if is_medium else plain), tuple(reading.media)


def plain_text(text: str, room: int = LARGEST) -> str:
    """``text`` without half surrogate pairs, cut to ``room`` characters with a note."""
    text = str.__str__(text)
    if len(text) > room:
        left_out = len(text) - room
        text = f"{text[:room]} [... {left_out:,} more characters were left out]"
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def words_of(error: BaseException) -> str:
    """An exception's type and message, even if its ``__str__`` raises."""
    try:
        said = str(error)
    except Exception:
        said = ""
    name = type(error).__name__
    return plain_text(f"{name}: {said}" if said else name, 10_000)


class _Reading:
    """The conversion of one value: media found so far, and characters that are left."""

    def __init__(self) -> None:
        self.media: list[Media] = []
        self.room = LARGEST

    def read(self, value: Any, depth: int) -> Any:
        self.room -= 1
        if value is None or isinstance(value, bool):
            return value
        try:
            return self._read(value, depth)
        except Exception as error:  # raised by the object's own code
            return f"[a {type(value).__name__} that cannot be read: {words_of(error)}]"

    def _read(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.read(value.value, depth + 1) if depth < DEEPEST else value.name
        if isinstance(value, str):
            text = plain_text(value, max(0, self.room))
            self.room -= len(text)
            return text
        if isinstance(value, int):
            bits = int.bit_length(value)
            return int(value) if bits <= _MOST_BITS else f"[an integer of {bits:,} bits]"
        if isinstance(value, float):
            number = float(value)
            return number if math.isfinite(number) else str(number)
        if isinstance(value, Media):
            return self._medium(value)
        if _is_pil(value):
            return self._medium(Image(value))
        if depth >= DEEPEST:
            return f"[nested more than {DEEPEST} deep]"
        return self._read_compound(value, depth + 1)

    def _read_compound(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self._read_mapping(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            return self._read_mapping({n: getattr(value, n, None) for n in names}, depth)
        if callable(getattr(value, "model_dump", None)):  # pydantic
            return self.read(value.model_dump(), depth)
        if isinstance(value, bytes | bytearray | memoryview):
            return self.read(_text_of_bytes(bytes(value)), depth)
        if hasattr(value, "to_dict") and type(value).__module__.split(".")[0] == "pandas":
            rows = {"orient": "records"} if getattr(value, "ndim", 1) == 2 else {}
            return self.read(value.head(1000).to_dict(**rows), depth)
        if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy and MLX
            if getattr(value, "size", 1) > LARGEST:
                return f"[an array of shape {tuple(value.shape)}, too large to be written]"
            return self.read(value.tolist(), depth)
        if isinstance(value, list | tuple | Set):
            return self._read_items(value, depth)
        from pydantic_core import to_jsonable_python  # dates, paths, decimals, UUIDs, ...

        return self.read(to_jsonable_python(value, fallback=str), depth)

    def _read_mapping(self, value: Mapping, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if self.room <= 0:
                found["..."] = f"[{len(value) - len(found):,} more entries were left out]"
                break
            name = self.read(key, depth)
            found[name if isinstance(name, str) else str(name)] = self.read(item, depth)
        return found

    def _read_items(self, value: Iterable, depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            if self.room <= 0:
                found.append(f"[{len(value) - len(found):,} more items were left out]")
                break
            found.append(self.read(item, depth))
        return found

    def _medium(self, part: Media) -> str:
        self.media.append(part)
        return f"{part.kind} {len(self.media)}"


def _is_pil(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "PIL"


def _text_of_bytes(value: bytes) -> str:
    try:
        # A character that the cut goes through is left out.
        decoder = codecs.getincrementaldecoder("utf-8")()
        return decoder.decode(value[: 4 * LARGEST], final=len(value) <= 4 * LARGEST)
    except UnicodeDecodeError:
        return f"[{len(value):,} bytes that are no text]"
