"""What the views of a trace share: tokens by page, parts of the conversation, pictures, search.

A view sends its small facts once, in the trait ``meta``, and answers requests for the rest:
``tokens`` (a page of texts), ``ids`` (the page's numbers in the vocabulary), ``search``, ``media``
(a picture or a waveform with the boxes of its soft tokens) and ``export``. Nothing here imports
MLX: an opened trace is enough.
"""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from ..errors import TraceError
from .selection import LinkedWidget
from .snapshot import encoded

PAGE = 512  # tokens of one request; tokenview.js asks in the same steps
SEARCH_HITS = 5000
PICTURE_SIDE = 288  # css pixels of a picture's longer side
WAVE_COLUMNS = 600  # pairs of extremes of a waveform


def parts_of(tokens) -> list[dict]:
    """Runs of tokens of one part: ``{start, stop, name, role}``.

    Image, video and audio tokens are parts of their own, whoever sent them. ``role`` is the key of
    the part's colour.
    """
    if not len(tokens):
        return []
    from ..tracing.data.groups import part_names

    names = part_names(tokens)
    edges = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
    return [
        {
            "start": a,
            "stop": b,
            "name": names[a],
            "role": "tool" if "tool" in names[a] else names[a],
        }
        for a, b in pairwise(edges)
    ]


def media_of(tokens) -> list[dict]:
    """Stretches of soft tokens: ``{index, start, stop, kind, label}``, one for each run."""
    numbers = np.asarray(tokens.media)
    if not len(numbers):
        return []
    edges = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1], True])
    found = []
    for a, b in pairwise(edges):
        number = int(numbers[a])
        if number < 0:
            continue
        labels = tokens.media_labels
        label = labels[number] if number < len(labels) else f"{tokens[int(a)].kind} {number + 1}"
        found.append(
            {
                "index": len(found),
                "number": number,
                "start": int(a),
                "stop": int(b),
                "kind": tokens[int(a)].kind,
                "label": str(label),
            }
        )
    return found


def boxes_of(tokens, start: int, stop: int) -> tuple[list[list[float]], tuple[float, float]]:
    """Boxes of soft tokens as fractions of their picture or clip, and its size.

    The size is (width, height) in pixels, or (seconds, 1) for sound. Tokens without a place share
    the whole width evenly.
    """
    infos = tokens[start:stop]
    if infos[0].box is not None:
        width = max(i.box[2] for i in infos if i.box)
        height = max(i.box[3] for i in infos if i.box)
        boxes = [
            [i.box[0] / width, i.box[1] / height, i.box[2] / width, i.box[3] / height]
            for i in infos
        ]
        return boxes, (width, height)
    if infos[0].time is not None:
        first, last = infos[0].time[0], max(i.time[1] for i in infos if i.time)
        length = max(last - first, 1e-9)
        return [
            [(i.time[0] - first) / length, 0, (i.time[1] - first) / length, 1] for i in infos
        ], (length, 1.0)
    count = stop - start
    return [[k / count, 0, (k + 1) / count, 1] for k in range(count)], (float(count), 1.0)


def picture_bytes(source: Any) -> tuple[bytes, tuple[int, int]]:
    """A picture (PIL image, path, bytes, array) as PNG of at most 576 pixels a side; its size."""
    from PIL import Image

    if isinstance(source, str | Path):
        source = Image.open(source)
    elif isinstance(source, bytes):
        source = Image.open(io.BytesIO(source))
    elif not isinstance(source, Image.Image):
        array = np.asarray(source)
        if array.dtype.kind == "f":
            array = (array.clip(0, 1) * 255).astype(np.uint8)
        source = Image.fromarray(array)
    source = source.convert("RGB")
    size = source.size
    if max(size) > 2 * PICTURE_SIDE:
        source.thumbnail((2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
    out = io.BytesIO()
    source.save(out, format="PNG")
    return out.getvalue(), size


def wave_extremes(samples) -> np.ndarray:
    """Lowest and highest sample of each of up to 600 stretches, scaled to [-1, 1]: (columns, 2)."""
    samples = np.asarray(samples, np.float32).reshape(-1)
    if not len(samples):
        return np.zeros((1, 2), np.float32)
    columns = min(WAVE_COLUMNS, len(samples))
    cuts = np.arange(columns) * len(samples) // columns
    low = np.minimum.reduceat(samples, cuts)
    high = np.maximum.reduceat(samples, cuts)
    return np.stack([low, high], 1) / max(float(np.abs(samples).max()), 1e-9)


class TraceView(LinkedWidget):
    """Base of ``Routing`` and ``Attention``; ``trace_of(which)`` gives the trace shown."""

    meta = traitlets.Dict().tag(sync=True)

    def trace_of(self, which: str = "a"):
        """The trace a request is about: "a", or "b" in a comparison."""
        raise NotImplementedError

    def media_sources(self, which: str = "a") -> dict[int, Any]:
        """Pictures and sounds by the number they have in the trace, to draw under the tokens."""
        return self._sources.get(which, {})

    def set_sources(self, which: str, trace, media) -> None:
        """``media``: a picture or sound, several in the trace's order, {number: source}, or the
        prompt's ``ModelInputs`` (or a chat); None asks the trace."""
        if media is None:
            media = getattr(trace, "media", None)
        if callable(getattr(media, "inputs", None)):
            media = media.inputs()
        if hasattr(media, "media"):
            media = [
                getattr(s.data, "pixels", getattr(s.data, "samples", None)) for s in media.media
            ]
        if media is not None and not isinstance(media, dict | list | tuple):
            media = [media]
        found = media if isinstance(media, dict) else dict(enumerate(media or ()))
        self._sources = {**getattr(self, "_sources", {}), which: found}

    def answer_tokens(self, start: int, stop: int, which: str = "a") -> dict:
        """Texts of tokens [start, stop), at most a page of 512, and the offsets of special ones."""
        tokens = self.trace_of(which).tokens
        start = max(0, min(int(start), len(tokens)))
        stop = max(start, min(int(stop), len(tokens), start + PAGE))
        from ..tracing.data.tokens import KINDS

        return {
            "start": start,
            "text": list(tokens.texts[start:stop]),
            "special": np.flatnonzero(
                np.asarray(tokens.kinds[start:stop]) == KINDS.index("special")
            ).tolist(),
        }

    def answer_ids(self, start: int, stop: int, which: str = "a") -> tuple[None, bytes]:
        """Vocabulary ids of tokens [start, stop), at most a page: int32."""
        ids = self.trace_of(which).tokens.ids
        start = max(0, int(start))
        return None, np.asarray(ids[start : min(int(stop), start + PAGE)], "<i4").tobytes()

    def answer_search(self, text: str, which: str = "a") -> dict:
        """First tokens of the spans holding ``text``; without regard to case if nothing has it."""
        tokens = self.trace_of(which).tokens
        whole = tokens.text
        places = _places(whole, text)
        lower = whole.lower()
        if not len(places) and len(lower) == len(whole):
            places = _places(lower, text.lower())
        ends = np.cumsum([len(t) for t in tokens.texts])
        found = np.searchsorted(ends, places, side="right").tolist()
        return {"hits": found[:SEARCH_HITS], "total": len(found)}

    def answer_media(self, span: int, which: str = "a") -> tuple[dict, bytes | None]:
        """A picture as PNG or a waveform as float32 extremes, with its soft tokens' boxes."""
        tokens = self.trace_of(which).tokens
        media = media_of(tokens)[span]
        boxes, size = boxes_of(tokens, media["start"], media["stop"])
        source = self.media_sources(which).get(media["number"])
        if media["kind"] == "audio":
            content = {"boxes": boxes, "seconds": size[0]}
            bulk = None if source is None else wave_extremes(source).astype("<f4").tobytes()
            return content, bulk
        bulk = None
        if source is not None:
            bulk, size = picture_bytes(source)
        scale = PICTURE_SIDE / max(size)
        content = {
            "boxes": boxes,
            "type": "image/png",
            "width": round(size[0] * scale),
            "height": max(24, round(size[1] * scale)),
        }
        return content, bulk

    def answer_export(self, format: str) -> tuple[None, bytes]:
        """What the view shows as the bytes of a PNG, SVG or HTML file.

        Raises ValueError for another format.
        """
        return None, export(self, format)

    def page_requests(self, around: int | None, which: str = "a", pages: int = 4) -> list[dict]:
        """Requests for the pages a snapshot keeps: the first ones and that of the selection."""
        n = len(self.trace_of(which).tokens)
        count = -(-n // PAGE)
        chosen = set(range(min(count, pages)))
        if around is not None:
            chosen.add(min(count - 1, around // PAGE))
        return [
            {"type": "tokens", "start": p * PAGE, "stop": min(n, (p + 1) * PAGE)}
            for p in sorted(chosen)
        ]


def _places(whole: str, text: str) -> np.ndarray:
    """Where ``text`` stands in ``whole``, without overlaps. Raises TraceError for no text."""
    if not text:
        raise TraceError("an empty text is everywhere: type what to look for")
    return np.array([m.start() for m in re.finditer(re.escape(text), whole)], np.int64)


def export(widget, format: str) -> bytes:
    """A widget as a file: "png" and "svg" from its drawing, "html" from its snapshot.

    Raises ValueError for another format.
    """
    if format == "html":
        return encoded(widget.snapshot().page)
    if format == "svg":
        return encoded(widget.drawing().svg())
    if format == "png":
        return widget.drawing().png()
    raise ValueError(f"a view is saved as png, svg or html, not {format!r}")
