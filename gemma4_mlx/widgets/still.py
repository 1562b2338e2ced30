"""The Prompt widget's still picture: the conversation as a :class:`Drawing`, for PNG and SVG.

The letters are DejaVu Sans, which matplotlib ships: Latin, Greek, Cyrillic, Hebrew and Arabic. A
character that it lacks (Chinese, say) is a box in the PNG; the live page has it right.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from .drawing import FAINT, INK, Drawing

BUBBLE, CARD, BORDER = "#e6edfc", "#f5f6f8", "#dcdfe6"
PAD, LINE, GAP = 20, 21, 14  # CSS pixels: margin, height of a line, space between blocks


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Lines of ``text`` no wider than ``width``; a word that is too long is broken."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if measure(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            start = 0
            while (stop := start + fitting(word[start : start + 4096], width, measure)) < len(word):
                lines.append(word[start:stop])
                start = stop
            line = word[start:]
        lines.append(line)
    return lines


def fitting(word: str, width: float, measure: Callable[[str], float]) -> int:
    """Letters at the start of ``word`` that are no wider than ``width``, at least one.

    Only about as much is measured as fits, however long the word is.
    """
    low, high = 1, 2
    while high <= len(word) and measure(word[:high]) <= width:
        low, high = high, 2 * high
    high = min(high, len(word) + 1)  # the first that does not fit lies in (low, high]
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(word[:middle]) <= width else (low, middle)
    return min(low, len(word))


def draw_conversation(turns: list[dict], title: str, status: str = "", width: int = 760) -> Drawing:
    """The view's turns, user's on the right, the model's on the left."""
    blocks = [block for turn in turns for block in _blocks(turn, width)]
    height = 58 + sum(block["height"] + GAP for block in blocks) + 44
    page = Drawing(width, height)
    page.rect(0.5, 0.5, width - 1, height - 1, fill="#ffffff", stroke=BORDER)
    page.text(PAD, 28, title, 14, INK, bold=True)
    page.line([(0, 44), (width, 44)], BORDER)
    y = 58
    for block in blocks:
        x = width - PAD - block["width"] if block["user"] else PAD
        if block["fill"]:
            page.rect(x, y, block["width"], block["height"], fill=block["fill"])
        if block["pixels"] is not None:
            page.image(x, y, block["width"], block["height"], block["pixels"])
        for i, line in enumerate(block["lines"]):
            left = x + (12 if block["fill"] else 0)
            page.text(left, y + block["inset"] + i * LINE + 15, line, 13, block["ink"])
        y += block["height"] + GAP
    page.line([(0, height - 36), (width, height - 36)], BORDER)
    page.text(PAD, height - 14, status, 11, FAINT)
    return page


def _blocks(turn: dict, width: int) -> list[dict]:
    """Each part of a turn with its size and colours."""
    user = turn["role"] == "user"
    room = (0.75 if user else 1) * (width - 2 * PAD) - 24
    measure = Drawing(1, 1).measure
    blocks = []
    for part in turn["parts"]:
        kind, pixels = part["kind"], None
        lines, fill, ink = [], BUBBLE if user else None, INK
        if part.get("thumb"):
            data = base64.b64decode(part["thumb"].split(",", 1)[1])
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            blocks.append(_block(user, [], None, INK, pixels.shape[1] * 0.7, pixels))
        if kind == "tool_call":
            given = ", ".join(f"{k}={v!r}" for k, v in (part.get("arguments") or {}).items())
            result = f" → {part['result']}" if part.get("result") is not None else ""
            lines, fill = [f"{part['name']}({given}){result}"], CARD
        elif kind == "thinking":
            lines, ink = ["Thought about it"], FAINT
        elif kind == "text":
            lines = part["text"].strip().split("\n")
        else:
            seconds = f" · {part['seconds']:.1f} s" if part.get("seconds") else ""
            lines, fill = [f"{part['label']}{seconds} · {part['tokens']} tokens"], None
            ink = FAINT
        lines = wrap("\n".join(lines), room, lambda text: measure(text, 13))
        widest = max(measure(line, 13) for line in lines)
        blocks.append(_block(user, lines, fill, ink, widest, None))
    return blocks


def _block(user, lines, fill, ink, width, pixels) -> dict:
    inset = 6 if fill else 0
    height = len(lines) * LINE + 2 * inset
    if pixels is not None:
        height = width * pixels.shape[0] / pixels.shape[1]
    return {
        "user": user,
        "lines": lines,
        "fill": fill,
        "ink": ink,
        "inset": inset,
        "width": width + (24 if fill else 0),
        "height": height,
        "pixels": pixels,
    }
