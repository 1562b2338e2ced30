"""The still picture of :class:`Attention`: what a page shows that runs no scripts."""

from __future__ import annotations

import numpy as np

from .drawing import FAINT, LINE, Drawing, color_table, flow_tokens
from .headstats import SUMMARY_NAMES, on_scale, say

MASKED = (236, 238, 242)
HEADS_WIDE, LAYERS_HIGH, MAP_SIDE = 400, 480, 420  # css pixels
LEFT, TOP = 64, 104  # where the map of heads begins
BEFORE, AFTER = 90, 12  # tokens of text around the chosen one


def colored(values: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Pixels (r, c, 3) uint8 of a map on a logarithmic scale, and the scale's two ends."""
    positive = values[visible & (values > 0)]
    high = float(np.quantile(positive, 0.998)) if positive.size else 1.0
    low = max(float(np.quantile(positive, 0.05)), high * 1e-5) if positive.size else high / 10
    low = min(low, high / 10)
    place = np.log(np.maximum(values, low) / low) / np.log(high / low)
    pixels = color_table("viridis")[(255 * place.clip(0, 1)).round().astype(np.uint8)]
    pixels = np.where(visible[..., None], pixels, np.array(MASKED, np.uint8))
    return pixels, low, high


def attention_drawing(view) -> Drawing:
    """All heads as one map, the chosen head's map, and what the chosen token looks at."""
    if not view.meta["layers"]:
        out = Drawing(480, 60)
        out.text(16, 36, view.meta["empty"], 13, FAINT)
        return out
    data, now = view.trace.attention, view.chosen()
    most = max(len(layer["heads"]) for layer in view.meta["layers"])
    cell = min(56, HEADS_WIDE / most)
    row = min(22, LAYERS_HIGH / len(view.meta["layers"]))
    heads_bottom = TOP + row * len(view.meta["layers"])
    left = max(LEFT + cell * most, 330) + 84
    out = Drawing(left + MAP_SIDE + 24, max(heads_bottom + 56, TOP + MAP_SIDE + 56) + 190)
    out.text(16, 28, "Attention", 17, bold=True)
    title = f"{data.n:,} tokens, {len(view.meta['layers'])} layers of {most} heads"
    if view.meta["source"]:
        title += f" · {view.meta['source']}"
    out.text(16, 48, title, 12, FAINT)
    _draw_heads(out, view, cell, row)
    _draw_map(out, view, left)
    y = max(heads_bottom, TOP + MAP_SIDE) + 70
    exact = data.exactness(now["layer"], now["head"]) == "kept"
    if now["token"] is not None and exact:
        bottom = _draw_text(out, view, y)
    else:
        bottom = y - 20
    out.height = bottom + 8
    return out


def _draw_heads(out: Drawing, view, cell: float, row: float) -> None:
    """A row for each layer, a cell for each head, coloured by how unlike the others it is."""
    stats, layers, now = view.stats, view.meta["layers"], view.chosen()
    name = view.heads_by()
    values = stats.unlike if name == "unlike" else stats.values[:, stats.names.index(name)]
    words = "unlike the other heads" if name == "unlike" else SUMMARY_NAMES[name]
    place, ends = on_scale(name, values)
    most, table = max(len(layer["heads"]) for layer in layers), color_table("viridis")
    pixels = np.full((len(layers), most, 3), 255, np.uint8)
    at = 0
    for k, layer in enumerate(layers):
        for column in range(len(layer["heads"])):
            share = place[at]
            pixels[k, column] = MASKED if np.isnan(share) else table[round(255 * share)]
            at += 1
    out.text(16, 74, f"All heads: {words}", 13, bold=True)
    out.image(LEFT, TOP, cell * most, row * len(layers), pixels)
    out.rect(LEFT, TOP, cell * most, row * len(layers), stroke=LINE)
    step = next(s for s in (1, 2, 4, 8, 16) if s * cell >= 22 or s == 16)
    for column in range(0, most, step):
        out.text(LEFT + (column + 0.5) * cell, TOP - 6, str(column), 10, FAINT, "middle")
    out.text(LEFT - 8, TOP - 6, "head", 10, FAINT, "end")
    free = -np.inf
    for k, layer in enumerate(layers):
        y, full = TOP + (k + 0.5) * row, layer["kind"] == "full"
        if y - free >= 11 and (full or row >= 11):
            out.text(LEFT - 8, y + 3.5, f"L{layer['index']}", 10, anchor="end", bold=full)
            free = y
        if full:
            out.rect(LEFT - 5, y - row / 2, 2.5, max(1, row - 1), fill="#2558c9")
        if layer["index"] == now["layer"]:
            x = LEFT + layer["heads"].index(now["head"]) * cell
            out.rect(x, y - row / 2, cell, row, stroke="#ffffff")
            out.rect(x - 1, y - row / 2 - 1, cell + 2, row + 2, stroke="#2558c9")
    y = TOP + row * len(layers) + 10
    wide = max(160, cell * most)
    _draw_colours(out, LEFT, y, wide)
    for share, anchor in ((0, "start"), (1, "end")):
        out.text(LEFT + share * wide, y + 22, say(name, ends[share]), 10, FAINT, anchor)
    out.text(LEFT, y + 40, "bold, with a blue rule: full attention", 10, FAINT)


def _draw_map(out: Drawing, view, x: float) -> None:
    """The chosen head's map; of a sliding head in a long text, by offset."""
    data, now = view.trace.attention, view.chosen()
    part, y = data.layer(now["layer"]), TOP
    by_offset = part.window is not None and data.n > 4 * part.window
    if by_offset:
        content, bulk = view.answer_offsets(now["layer"], now["head"])
        values = np.frombuffer(bulk, "<f4").reshape(content["rows"], content["columns"])
        before = content["start"] + np.arange(content["columns"]) * content["columnCell"]
        visible = before[None] < (np.arange(content["rows"])[:, None] + 1) * content["rowCell"]
        across, what = content["columns"] * content["columnCell"], "tokens back to the right"
    else:
        facts, values = view.whole_map(now["layer"], now["head"])
        q = facts["query"] + np.arange(facts["rows"] + 1) * facts["rowCell"]
        k = facts["key"] + np.arange(facts["columns"] + 1) * facts["columnCell"]
        visible = k[None, :-1] <= q[1:, None] - 1
        if part.window is not None:
            visible &= k[None, 1:] - 1 > q[:-1, None] - part.window
        across, what = data.n, "keys to the right"
    pixels, low, high = colored(values, visible | (values > 0))
    out.image(x, y, MAP_SIDE, MAP_SIDE, pixels)
    out.rect(x, y, MAP_SIDE, MAP_SIDE, stroke=LINE)
    kind = "full attention" if part.window is None else f"sliding, window {part.window:,}"
    out.text(x, 74, f"Layer {now['layer']}, head {now['head']}: {kind}", 13, bold=True)
    for k in range(4):
        out.text(x - 6, y + k / 4 * MAP_SIDE + 9, f"{int(data.n * k / 4):,}", 10, FAINT, "end")
        out.text(x + k / 4 * MAP_SIDE, y - 6, f"{int(across * k / 4):,}", 10, FAINT)
    _draw_colours(out, x, y + MAP_SIDE + 10, 120)
    out.text(x, y + MAP_SIDE + 32, f"{low:.1e} to {high:.2g}, logarithmic", 10, FAINT)
    out.text(x, y + MAP_SIDE + 50, f"grey is masked; {what}, queries down", 10, FAINT)


def _draw_colours(out: Drawing, x: float, y: float, width: float) -> None:
    table = color_table("viridis")
    out.image(x, y, width, 8, table[None, ::4])


def _draw_text(out: Drawing, view, y: float) -> float:
    """What the chosen token looks at, in words and over the text around it; the next y."""
    now, tokens = view.chosen(), view.trace.tokens
    token, media = now["token"], view.meta["media"]
    weights = view.trace.attention.row(now["layer"], now["head"], token)
    top = float(weights.max()) or 1.0

    def name(i: int) -> str:
        found = next((m for m in media if m["start"] <= i < m["stop"]), None)
        return f"{found['label']} {i - found['start']}" if found else tokens.texts[i].strip()

    out.text(16, y, f"What token {token:,} “{name(token)}” looks at", 13, bold=True)
    words = ", ".join(f"“{name(s)}” ({s:,}) {weights[s]:.0%}" for s in np.argsort(-weights)[:3])
    out.text(16, y + 18, f"Most: {words}", 11, FAINT)
    pieces, colors = [], []
    for i in range(max(0, token - BEFORE), min(len(tokens), token + AFTER)):
        found = next((m for m in media if m["start"] <= i < m["stop"]), None)
        if found and i > found["start"] and pieces:
            continue  # a picture is named once, not once for each of its tokens
        weight = weights[found["start"] : found["stop"]].max() if found else weights[i]
        pieces.append(f" [{found['label']}] " if found else tokens.texts[i])
        shade = 0.08 + 0.7 * float(np.sqrt(weight / top))
        colors.append(("#e67800", shade) if weight > top / 1000 else None)
    return flow_tokens(out, pieces, colors, 16, y + 30, out.width - 32, 11.5, rows=40)
