"""The still picture of :class:`Attention`: what a page shows that runs no scripts."""

from __future__ import annotations

import numpy as np

from gemma4_mlx.widgets.drawing import FAINT, LINE, Drawing, color_table, flow_tokens

MASKED = (236, 238, 242)


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
    """Every head as a small picture, the chosen head's map, and what the chosen token looks at."""
    if not view.meta["layers"]:
        out = Drawing(480, 60)
        out.text(16, 36, view.meta["empty"], 13, FAINT)
        return out
    data, now = view.trace.attention, view.chosen()
    content, bulk = view.answer_heads("mean")
    side = content["side"]
    pictures = np.frombuffer(bulk, np.uint8).reshape(-1, side, side)
    layers = view.meta["layers"]
    small = max(16, min(52, 420 // len(layers)))
    rows = max(len(layer["heads"]) for layer in layers)
    left = 24 + len(layers) * (small + 4)
    map_side = 360
    out = Drawing(left + 60 + map_side + 24, max(520, 90 + rows * (small + 4) + 120))
    out.text(16, 28, "Attention", 17, bold=True)
    title = f"{data.n:,} tokens, {len(layers)} layers"
    out.text(
        16, 48, f"{title} · {view.meta['source']}" if view.meta["source"] else title, 12, FAINT
    )
    position = {layer["index"]: i for i, layer in enumerate(layers)}
    for layer in layers:
        x = 16 + position[layer["index"]] * (small + 4)
        size = 10 if small >= 24 else 8  # "L34" over a column of 20
        out.text(x + small / 2, 68, f"L{layer['index']}", size, anchor="middle", bold=True)
        short = "full" if layer["kind"] == "full" else str(layer["window"])
        if small >= 24:
            out.text(x + small / 2, 80, short, 9, FAINT, "middle")
    table = color_table("viridis")
    i, j = np.arange(side)[:, None], np.arange(side)[None]
    for head, picture in zip(content["heads"], pictures):
        layer = layers[position[head["layer"]]]
        x = 16 + position[head["layer"]] * (small + 4)
        y = 88 + layer["heads"].index(head["head"]) * (small + 4)
        hidden = (picture == 0) & (j > i)
        if layer["window"]:
            hidden |= (picture == 0) & ((i - j - 1) * data.n / side > layer["window"])
        pixels = np.where(hidden[..., None], np.array(MASKED, np.uint8), table[picture])
        out.image(x, y, small, small, pixels)
        if (head["layer"], head["head"]) == (now["layer"], now["head"]):
            out.rect(x - 1, y - 1, small + 2, small + 2, stroke="#2558c9")
    # the chosen head
    x, y, part = left + 60, 88, data.layer(now["layer"])
    facts, values = view.whole_map(now["layer"], now["head"])
    q = facts["query"] + np.arange(facts["rows"] + 1) * facts["rowCell"]
    k = facts["key"] + np.arange(facts["columns"] + 1) * facts["columnCell"]
    visible = k[None, :-1] <= q[1:, None] - 1
    if part.window is not None:
        visible &= k[None, 1:] - 1 > q[:-1, None] - part.window
    pixels, low, high = colored(values, visible | (values > 0))
    out.image(x, y, map_side, map_side, pixels)
    out.rect(x, y, map_side, map_side, stroke=LINE)
    kind = "full attention" if part.window is None else f"sliding, window {part.window:,}"
    out.text(x, 66, f"Layer {now['layer']}, head {now['head']}: {kind}", 13, bold=True)
    for tick in np.linspace(0, data.n, 5)[:-1]:
        out.text(x - 6, y + tick / data.n * map_side + 9, f"{int(tick):,}", 9, FAINT, "end")
        out.text(x + tick / data.n * map_side, y - 5, f"{int(tick):,}", 9, FAINT)
    for step in range(100):
        color = "#{:02x}{:02x}{:02x}".format(*table[int(step * 2.55)])
        out.rect(x + step * 1.2, y + map_side + 10, 1.3, 8, fill=color)
    scale = f"{low:.1e} to {high:.2g}, logarithmic; grey is masked; keys to the right, queries down"
    out.text(x, y + map_side + 32, scale, 9.5, FAINT)
    token = now["token"]
    if token is not None and now["layer"] in data.retained:
        weights = data.row(now["layer"], now["head"], token)
        text, top = view.trace.tokens.texts, float(weights.max()) or 1.0
        y = 88 + rows * (small + 4) + 24
        out.text(16, y, f"What token {token:,} “{text[token].strip()}” looks at", 13, bold=True)
        strong = np.argsort(-weights)[:3]
        words = ", ".join(f"“{text[s].strip()}” ({s:,}) {weights[s]:.0%}" for s in strong)
        out.text(16, y + 18, f"Most: {words}", 10.5, FAINT)
        start = max(0, token - 90)
        colors = [
            ("#e67800", 0.08 + 0.7 * float(np.sqrt(w / top))) if w > top / 1000 else None
            for w in weights[start : token + 1]
        ]
        lines = max(2, int((out.height - y - 40) // 20))
        flow_tokens(out, text[start : token + 1], colors, 16, y + 28, x - 76, 11.5, lines)
    return out
