"""What a page without a kernel keeps of a trace's attention, within a number of bytes.

Every head's numbers, its small picture (bands as bands, 8 bits) and its strongest links, the whole
text, and the chosen head in more detail: its map as fine as fits, single weights about the chosen
token, its rows. What is not kept is drawn from the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TILE = 128  # cells of a tile along each side; map_pyramid.js cuts the context in the same way


@dataclass(frozen=True)
class Kept:
    """Bytes, before they are written as base64; ``side``: cells along a small picture at most;
    ``stats``: statistics of the chosen head's map."""

    pictures: int  # of all heads, less 4 a token for the text
    tiles: int = 350_000  # the chosen head's map
    rows: int = 150_000  # its rows and columns
    side: int = 48
    links: bool = False  # of all heads rather than of the chosen layer's
    stats: tuple[str, ...] = ("mean",)


SNAPSHOT = Kept(1_100_000)


def picture_side(data, kept: Kept) -> int:
    """Cells along a small picture's side: the more heads, the fewer."""
    room = max(kept.pictures // 2, kept.pictures - 4 * data.n)
    side = kept.side

    def size(side: int) -> int:
        total = 0
        for part in data.parts:
            rows, wide = min(side, part.mass.shape[1]), side
            if part.window is not None:  # a band has few columns in a long text
                found = part.mass if part.offset_mass is None else part.offset_mass
                wide = min(max(8, side // 2), found.shape[2])
            total += len(part.heads) * rows * wide
        return total

    while side > 8 and size(side) > room:
        side -= 1
    return side


def requests(view, kept: Kept) -> list[dict]:
    """The requests of an ``Attention`` view whose answers are kept."""
    data, now = view.trace.attention, view.chosen()
    part, head = data.layer(now["layer"]), {"layer": now["layer"], "head": now["head"]}
    side = view.meta["pictures"]["kept"]
    wanted: list[dict] = [{"type": "heads"}]
    wanted += [{"type": "pictures", "layer": i, "side": side, "stat": "mean"} for i in data.layers]
    for layer in data.layers if kept.links else (now["layer"],):
        if data.layer(layer).link_weights is not None:
            wanted.append({"type": "links", "layer": layer})
    wanted += view.page_requests(now["token"], pages=view.meta["pages"])
    wanted += [{"type": "media", "span": m["index"]} for m in view.meta["media"]]
    for stat in kept.stats:
        if part.window is not None:
            wanted.append({"type": "offsets", **head, "stat": stat})
        wanted += _tiles(data, part, {**head, "stat": stat}, kept.tiles)
    if data.exactness(**head) == "kept" and data.n > TILE and now["token"] is not None:
        query = now["token"] // TILE  # single weights: near the token, and where it looks
        strongest = int(data.row(**head, query=now["token"]).argmax()) // TILE
        keys = sorted({query, max(0, query - 1), strongest})
        wanted += [_tile({**head, "stat": "mean"}, 0, query, key) for key in keys]
    tokens = [] if now["token"] is None else [now["token"]]
    if part.link_weights is not None:
        tokens += [link.query for link in data.links(**head)]
    tokens += range(data.n - 1, -1, -1)
    for token in list(dict.fromkeys(tokens))[: max(1, kept.rows // (2 * data.n))]:
        for mode in ("row", "column"):
            wanted.append({"type": "weights", **head, "token": token, "mode": mode, "bits": 8})
    return [*wanted, {"type": "export", "format": "svg"}]


def _tiles(data, part, head: dict, room: int) -> list[dict]:
    """The chosen head's tiles of as many levels as fit, the coarsest first and in any case."""
    wanted, level = [], max(0, int(np.ceil(np.log2(data.n / TILE))))
    while level >= 0:
        places = _places(data.n, level, part.window)
        room -= TILE * TILE * len(places)
        if room < 0 and wanted:
            break
        wanted += [_tile(head, level, *place) for place in places]
        level -= 1
    return wanted


def _places(n: int, level: int, window: int | None) -> list[tuple[int, int]]:
    """Tiles of a level below the diagonal, and not beyond a sliding window."""
    span = TILE << level
    count = -(-n // span)
    reach = count if window is None else -(-window // span) + 1
    return [(i, j) for i in range(count) for j in range(max(0, i - reach), i + 1)]


def _tile(head: dict, level: int, row: int, column: int) -> dict:
    place = {"level": level, "row": row, "column": column}
    return {"type": "tile", **head, **place, "bits": 8}
