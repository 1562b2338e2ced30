"""Small pictures of heads, and what the overview's bins say of one token.

A full head's picture is queries x keys. A sliding head's is queries x offset, 0 (the token itself)
to the window: on the other axes it would be a diagonal line at any length.
"""

from __future__ import annotations

import numpy as np

from ..tracing.data.maps import square

FEW_OFFSETS = 8  # columns of a sliding head below which the view says why there are no more


def layer_pictures(data, layer: int, side: int, stat: str = "mean") -> tuple[dict, np.ndarray]:
    """Every head of a layer as a picture: facts, and uint8 (heads, rows, columns).

    A value is 255 times the square root of its share of the head's largest cell, ``peak``. Rows are
    queries; ``axis`` says whether columns are "keys" over the whole text or "offsets" 0 to
    ``reach`` tokens back. ``stat``: "mean" of the mass on a cell's keys, or "max".

    Raises TraceError for a layer that was not traced.
    """
    part = data.layer(layer)
    cells, axis, reach = layer_cells(data, layer, stat)
    cells = pooled(cells, side, side if axis == "keys" else max(8, side // 2), stat)
    peak = cells.max((1, 2), initial=0)
    scaled = cells / np.where(peak > 0, peak, 1)[:, None, None]
    facts = {
        "rows": cells.shape[1],
        "columns": cells.shape[2],
        "axis": axis,
        "reach": reach,
        "heads": [int(h) for h in part.heads],
        "peak": [float(p) for p in peak],
    }
    return facts, (255 * np.sqrt(scaled)).round().astype(np.uint8)


def layer_cells(data, layer: int, stat: str, head: int | None = None):
    """A layer's overview (heads, R, columns) with its axis: "keys", or "offsets" up to ``reach``.

    Values are masses averaged over a bin's queries, or maxima. Offsets are those that the traced
    pass recorded, or key bins by how many bins they lie back. ``head`` takes that one only.
    """
    part = data.layer(layer)
    one = slice(None) if head is None else [part.heads.index(head)]
    if part.offset_mass is not None and stat != "max":
        cells = part.offset_mass[one].astype(np.float32)
        return cells, "offsets", cells.shape[2] * -(-part.window // cells.shape[2])
    kept = (part.peak if stat == "max" else part.mass)[one]
    if stat != "max":
        kept = kept / np.diff(data.edges).astype(np.float32)[:, None]
    if part.window is None:
        return square(kept, part.back), "keys", data.n
    if part.back is None:  # a sliding layer whose window is longer than the text keeps a square
        kept = _offsets_of_square(kept)
        return kept, "offsets", min(data.n, kept.shape[2] * data.width)
    back = part.back
    band = kept[..., back::-1].copy() if back else kept[..., :1].copy()
    ahead = kept[..., back + 1 :]
    if ahead.shape[2]:  # later tokens of the same picture: with the token itself
        join = np.maximum if stat == "max" else np.add
        band[..., 0] = join(band[..., 0], join.reduce(ahead, axis=2))
    return band, "offsets", band.shape[2] * data.width


def why_coarse(data, columns: int, stat: str) -> str:
    """Why a sliding head has so few columns of key bins, and what has more; "" for enough."""
    if columns >= FEW_OFFSETS:
        return ""
    bins = f"in bins of {data.width:,} tokens"
    if stat == "max":
        return f"Largest weights are recorded {bins}; the means may be finer."
    return (
        f"This trace has how far back its sliding heads look {bins} only. g4.trace(...) records it "
        "finer, as does a Recorder that is told the length: expected=..."
    )


def _offsets_of_square(cells: np.ndarray) -> np.ndarray:
    """(heads, R, R) by key bin -> by how many bins back."""
    rows = np.arange(cells.shape[1])[:, None]
    column = rows - np.arange(cells.shape[2])[None]
    found = np.take_along_axis(cells, np.maximum(column, 0)[None].repeat(len(cells), 0), 2)
    return np.where(column[None] >= 0, found, 0)


def pooled(cells: np.ndarray, rows: int, columns: int, stat: str) -> np.ndarray:
    """Cells (heads, R, C) merged until at most ``rows`` x ``columns`` are left.

    Masses are averaged over queries and added over keys.
    """
    _, R, C = cells.shape
    down = np.arange(min(rows, R)) * R // min(rows, R)
    right = np.arange(min(columns, C)) * C // min(columns, C)
    if stat == "max":
        return np.maximum.reduceat(np.maximum.reduceat(cells, right, 2), down, 1)
    cells = np.add.reduceat(np.add.reduceat(cells, right, 2), down, 1)
    return cells / np.diff(np.r_[down, R])[:, None]


def pooled_row(data, layer: int, head: int, token: int, mode: str = "row") -> np.ndarray:
    """What the bins say of one token's weights, spread evenly over each bin's tokens: (n,).

    ``mode`` "row": the mean over the queries of its bin; "column": what each query's bin puts on
    a key of its bin. Raises TraceError for a layer, head or kind of map that is not there.
    """
    sizes = np.diff(data.edges)
    cells, bin_of = data.overview(layer, head), token // data.width
    per_token = cells[bin_of] / sizes if mode == "row" else cells[:, bin_of] / sizes[bin_of]
    return np.repeat(per_token, sizes).astype(np.float32)
