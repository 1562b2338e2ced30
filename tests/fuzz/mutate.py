"""Damaging bytes, JSON values and text at random, reproducibly: all chance comes from one
``random.Random``."""

import copy
import json
import random

#: What breaks readers: limits of integer types, things of another type, extreme sizes.
VALUES = (
    None, True, False, 0, -1, 1, 2, 3, 255, 65_536, 2**31, 2**32, 2**63, -(2**63), 2**64, 10**30,
    0.5, -0.0, 1e308, float("nan"), float("inf"), "", "0", "a", "é\u2028\ud800", "x" * 3000, "\0",
    "<|turn>user", '<|"|>', "../../etc/passwd", "@deep@", [], {}, [[]], [None], [0, 1, 2],
    {"a": None}, {"": []}, [-1, 10**20],
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def damaged(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """``data`` after one to six edits; ``other`` is a sample to splice from."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind, at = rng.randrange(8), _place(rng, len(data))
        size = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - at)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(_NUMBERS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, order)
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size] * rng.choice((1, 1, 50))
        elif kind == 5:
            del data[at:]
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            data[at : at + size] = other[start : start + size]
        else:
            data[at:at] = rng.randbytes(size)
    return bytes(data)


def _place(rng: random.Random, size: int) -> int:
    """Somewhere in the data; half of the time near the start, where headers are."""
    return rng.randrange(min(size, 200) + 1 if rng.random() < 0.5 else size + 1)


#: Stands in a JSON value for lists nested deeper than Python can recurse; see :func:`dumped`.
DEEP = "@deep@"


def dumped(value) -> str:
    """The value as JSON text, DEEP as thousands of brackets."""
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000)


def changed(rng: random.Random, value):
    """A JSON value after one to four edits anywhere in its tree."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = _deep(rng)
        elif kind == 2:
            source, name = rng.choice(places)
            holder[key] = copy.deepcopy(source[name])
        elif kind == 3 and isinstance(holder, dict):
            holder[rng.choice(("", "a", "0", "-1", "type", str(key) + "x"))] = holder.pop(key)
        elif kind == 4 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 5 and type(holder[key]) in (int, float):
            holder[key] = holder[key] * rng.choice((-1, 2, 0.5, 1000)) + rng.choice((0, 1, -1))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _places(value):
    """(holder, key) of everything below the top of a JSON value."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = holder if isinstance(holder, dict) else range(len(holder))
            for key in list(keys):
                yield holder, key
                waiting.append(holder[key])


def _deep(rng: random.Random):
    value = copy.deepcopy(rng.choice(VALUES))
    for _ in range(rng.choice((3, 20, 70))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def spliced(rng: random.Random, pieces, length: int) -> str:
    """Text of up to ``length`` of the given pieces, some cut short, some with noise between."""
    text = ""
    for _ in range(rng.randrange(1, length + 1)):
        piece = rng.choice(pieces)
        if rng.random() < 0.1:
            piece = piece[: rng.randrange(len(piece) + 1)]
        if rng.random() < 0.05:
            piece += chr(rng.choice((0, 9, 0x7F, 0x301, 0x200D, 0xFDD0, 0xFFFD, 0x1F600)))
        text += piece
    return text
