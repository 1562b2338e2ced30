"""The Routing widget's still picture: text and map in the colours of what experts are for."""

from __future__ import annotations

import numpy as np

from .drawing import CATEGORIES, FAINT, INK, LINE, Drawing, css
from .traceview import PICTURE_SIDE, boxes_of, media_of, picture_bytes

#: In the order of static/expertcolours.js: groups with the most tokens come first.
HUES = [*CATEGORIES[:7], "#882255", "#a6d854", "#6a4fb3", "#7f4f24", "#b9a7e0"]
ZERO = np.array([0xE3, 0xE6, 0xEC], float)
PAPER = np.array([255.0, 255, 255])
WIDTH, TEXT, LEFT = 1120, 440, 500  # the picture, its text, where the map begins
SHOWN = 420  # tokens of text at most


def hue(group: int) -> np.ndarray:
    """The (r, g, b) of a group."""
    color = HUES[group] if group < len(HUES) else "#999999"
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], float)


def strengths(found) -> np.ndarray:
    """How strongly each expert shows its group's hue, (layers, E): 0 for none."""
    at = np.maximum(found.purpose, 0)[:, None]
    lift = np.take_along_axis(found.lift, at, axis=1)[:, 0]
    strong = np.log2(np.maximum(np.nan_to_num(lift), 1)) / 2
    return np.where(found.purpose < 0, 0, np.clip(strong, 0.35, 1))


def draw_routing(view) -> Drawing:
    """What a ``Routing`` widget shows, as a :class:`Drawing`."""
    if not view.meta["layers"] or not view.n:
        out = Drawing(640, 60)
        out.text(16, 36, view.meta.get("empty", "No token yet."), 12, FAINT)
        return out
    now, routing = view.chosen(), view.trace.routing
    found = view.specialisation(view.meta["start"]["by"])
    strong = strengths(found)
    row = max(11.0, min(22.0, 390 / len(routing.layers)))
    bottom = 112 + row * len(routing.layers)
    out = Drawing(WIDTH, max(440, bottom + 130))
    out.text(16, 28, "Expert routing", 17, bold=True)
    title = f"{view.n:,} tokens, {len(routing.layers)} layers x {routing.num_experts} experts, "
    source = f" · {view.meta['source']}" if view.meta["source"] else ""
    out.text(16, 48, f"{title}{routing.k} per token{source}", 12, FAINT)
    draw_map(out, found, now, row)
    draw_legend(out, found, bottom + 20)
    _draw_expert(out, view, now, bottom + 84)
    layer = f"Layer {now['layer']}: tokens in the colours of all their experts"
    out.text(16, 80, layer, 13, bold=True)
    _draw_text(out, view, found, strong, now, out.height - 20)
    return out


def draw_map(out, found, now, row: float) -> None:
    """Every expert of every layer, sorted by its group; the never used are struck through."""
    count = found.counts.shape[-1]
    cell, strong = (WIDTH - LEFT - 16) / count, strengths(found)
    out.text(LEFT, 80, "What the experts of each layer are for", 13, bold=True)
    pixels = np.zeros((len(found.layers), count, 3))
    hues = np.stack([hue(g) for g in range(len(found.groups.names))])
    lift = np.nan_to_num(np.take_along_axis(found.lift, found.purpose.clip(0)[:, None], 1)[:, 0])
    overall = found.overall
    for i, purpose in enumerate(found.purpose):
        group = np.where(purpose < 0, 98, purpose) + (overall[i] == 0)
        order = np.lexsort((-overall[i], -np.where(purpose < 0, 0, lift[i]), group))
        colors = ZERO + (hues[purpose[order]] - ZERO) * strong[i, order, None]
        pixels[i] = np.where(purpose[order, None] < 0, ZERO, colors)
        unused = int((overall[i] == 0).sum())
        pixels[i, count - unused :] = PAPER
    out.image(LEFT, 100, cell * count, row * len(found.layers), pixels.round())
    every = 1 if row >= 12 else 2
    for i, layer in enumerate(found.layers):
        y, mine = 100 + row * i, layer == now["layer"]
        if i % every == 0 or mine:
            ink = INK if mine else FAINT
            out.text(LEFT - 8, y + row * 0.82, f"L{layer}", 11, ink, "end", mine)
        for place in range(count - int((overall[i] == 0).sum()), count):
            x = LEFT + place * cell
            out.line([(x, y + row - 1), (x + cell, y + 1)], LINE, 0.8)
        if mine:
            out.rect(LEFT - 1, y, cell * count + 2, row, stroke="#2558c9")


def draw_legend(out, found, y: float) -> None:
    """The groups with their hues."""
    x = LEFT
    names = [(hue(g), name) for g, name in enumerate(found.groups.names)]
    for color, name in [*names, (ZERO, "none of these"), (None, "never used")]:
        wide = 16 + out.measure(name, 11) + 14
        if x + wide > WIDTH - 8:
            x, y = LEFT, y + 18
        if color is None:
            out.rect(x, y, 10, 10, stroke=LINE)
            out.line([(x, y + 10), (x + 10, y)], LINE, 0.8)
        else:
            out.rect(x, y, 10, 10, fill=css(color))
        out.text(x + 15, y + 9, name, 11, FAINT)
        x += wide


def _draw_expert(out, view, now, y: float) -> None:
    """The chosen expert in two lines."""
    if now["expert"] is None:
        return
    expert = view.answer_expert(now["layer"], now["expert"])
    even = expert["load"] * view.meta["experts"] / view.meta["k"]
    note = (
        f"Expert {now['expert']} of layer {now['layer']}: load {expert['load']:.1%} of the tokens"
    )
    out.text(LEFT, y, f"{note}, {even:.1f} times the even load", 12, bold=True)
    words = ", ".join(
        f"“{text.strip() or '↵'}” ({count})" for text, _, count, *_ in expert["texts"]
    )
    while words and out.measure(f"Its texts: {words}", 11) > WIDTH - LEFT - 16:
        words = words[:-2]
    out.text(LEFT, y + 20, f"Its texts: {words}" if words else "No token went to it.", 11, FAINT)


def _draw_text(out, view, found, strong, now, last: float) -> None:
    """Tokens around the chosen one, pictures as pictures with their patches' colours."""
    tokens, routing = view.trace.tokens, view.trace.routing
    start = max(0, (now["token"] or 0) - SHOWN // 4)
    media = media_of(tokens)
    for span in media:
        if span["start"] < start < span["stop"]:
            start = span["start"]
    stop = min(len(tokens), start + SHOWN)
    stop = max([stop, *(m["stop"] for m in media if m["start"] < stop <= m["stop"])])
    colors = _token_colors(routing, found, strong, now["layer"], slice(start, stop))
    x, y, line, i = 16.0, 98.0, 22.0, start
    while i < stop:
        span = next((m for m in media if m["start"] == i), None)
        if span is not None:
            if x > 16:
                y += line
            x, y = 16.0, _draw_media(out, view, span, colors, start, y, last)
            i = span["stop"]
        else:
            shown = tokens.texts[i].replace("\n", "↵").replace("\t", " ")
            wide = out.measure(shown, 12.5)
            if x + wide > 16 + TEXT and x > 16:
                x, y = 16.0, y + line
            if y + line > last:
                break
            color = colors[i - start]
            if color is not None:
                out.rect(x, y, wide, 18, fill=css(color[0]), opacity=0.55 * color[1])
            if i == now["token"]:
                out.rect(x, y, wide, 18, stroke="#2558c9")
            out.text(x, y + 13.5, shown, 12.5)
            x += wide
            if "\n" in tokens.texts[i]:
                x, y = 16.0, y + line
            i += 1
            continue
        if y + line > last:
            break
    if i < len(tokens):
        out.text(16, out.height - 8, f"… and {len(tokens) - i:,} more tokens", 11, FAINT)


def _draw_media(out, view, span, colors, start: int, y: float, last: float) -> float:
    """A picture with its patches' colours, or a line for a sound; the next free y."""
    tokens = view.trace.tokens
    source = view.media_sources("a").get(span["number"])
    label = f"{span['label']} · {span['stop'] - span['start']} soft tokens"
    boxes, size = boxes_of(tokens, span["start"], span["stop"])
    scale = min(PICTURE_SIDE / max(size), (last - y - 24) / size[1])
    if span["kind"] == "audio" or source is None or scale * size[1] < 40:
        out.text(16, y + 13, label, 11, FAINT)
        return y + 22
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(picture_bytes(source)[0])).convert("RGB")
    w, h = size[0] * scale, size[1] * scale
    out.image(16, y, w, h, np.asarray(picture))
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        color = colors[span["start"] - start + k]
        if color is not None:
            left, top, right, bottom = (round(2 * v) / 2 for v in (x0 * w, y0 * h, x1 * w, y1 * h))
            box = (16 + left, y + top, right - left, bottom - top)  # whole pixels leave no seams
            out.rect(*box, fill=css(color[0]), opacity=0.6 * color[1])
    out.text(16, y + h + 14, label, 11, FAINT)
    return y + h + 24


def _token_colors(routing, found, strong, layer: int, part: slice) -> list:
    """((r, g, b), strength) of every token, the mean of its experts by gate; None for none."""
    row = routing.layers.index(layer)
    experts, gate = routing.experts[row, part], routing.gate(layer, part)
    table = np.stack([hue(g) if g >= 0 else ZERO for g in found.purpose[row]])
    weight = gate * strong[row][experts]  # (tokens, k)
    total = weight.sum(axis=1)
    mean = (weight[..., None] * table[experts]).sum(axis=1) / np.maximum(total, 1e-9)[:, None]
    return [(m, min(1, 1.25 * t)) if t > 0.02 else None for m, t in zip(mean, total)]
