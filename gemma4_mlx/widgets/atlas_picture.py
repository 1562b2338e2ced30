"""The Atlas widget's still picture: an expert's card, and the map of what all experts are for."""

from __future__ import annotations

import numpy as np

from .drawing import FAINT, INK, SUNKEN, Drawing, css
from .routing_picture import WIDTH, draw_legend, draw_map, hue
from .still import fitting, wrap

ROOM = 450  # CSS pixels that the card is wide
MARK = "#ffe08a"


def draw_atlas(view) -> Drawing:
    """What an ``Atlas`` widget shows, as a :class:`Drawing`."""
    meta, now, source = view.meta, view.chosen(), view.source
    # The picture beside a live view is not waited for: then tokens are the unit, not documents.
    found = source.tested() if source.is_tested else source.atlas.by("label")
    row = max(11.0, min(22.0, 390 / len(meta["layers"])))
    bottom = 112 + row * len(meta["layers"])
    out = Drawing(WIDTH, max(480, bottom + 90))
    out.text(16, 28, "Expert atlas", 17, bold=True)
    name = f" · {meta['source']}" if meta["source"] else ""
    size = f"{len(meta['layers'])} layers x {meta['experts']} experts, {meta['k']} per token"
    out.text(16, 48, f"{meta['tokens']:,} tokens, {size}{name}", 12, FAINT)
    draw_map(out, found, now, row)
    draw_legend(out, found, bottom + 20)
    _draw_card(out, view, found, now)
    return out


def _draw_card(out, view, found, now) -> None:
    """The chosen expert: labels, tokens it reads, contexts as far as there is room."""
    card = view.source.card(now["layer"], now["expert"])
    i, e = view.meta["layers"].index(now["layer"]), now["expert"]
    out.text(16, 80, f"Expert {e} of layer {now['layer']}", 13, bold=True)
    times = found.overall[i, e] * view.meta["experts"] / view.meta["k"]
    load = f"load {found.overall[i, e]:.1%} of the tokens, {times:.1f} times the even load"
    out.text(16, 98, load, 11, FAINT)
    y = 112.0
    lifts = np.nan_to_num(found.lift[i, :, e])
    for g in np.argsort(-lifts, kind="stable")[:6]:
        out.text(16, y + 11, found.groups.names[g][:22], 11)
        out.rect(160, y + 3, 200, 9, fill=SUNKEN)
        out.rect(160, y + 3, 200 * min(1, lifts[g] / 8), 9, fill=css(hue(int(g))))
        out.text(410, y + 11, f"{lifts[g]:.1f}×", 11, INK, "end")
        y += 18
    words = ", ".join(f"“{text.strip() or '↵'}”" for text, *_ in card["input"])
    for line in wrap(f"reads {words}", ROOM, lambda text: out.measure(text, 11))[:2]:
        out.text(16, y + 16, line, 11, FAINT)
        y += 16
    y += 14
    for context in card["contexts"]:
        y = _draw_context(out, context, y)
        if y > out.height - 40:
            return


def _draw_context(out, context: dict, y: float) -> float:
    """The token with as much around it as fits on a line; the next y."""
    said = [context[part].replace("\n", "↵") for part in ("before", "text", "after")]
    before, text, after = said
    text = text or "∅"

    def measure(said: str) -> float:
        return out.measure(said, 12)

    if measure(before) > 0.55 * ROOM:
        before = before[-fitting(before[::-1], 0.55 * ROOM, measure) :]
    at, wide = 16 + measure(before), measure(text)
    if (room := 16 + ROOM - at - wide) < measure(after):
        after = after[: fitting(after, room, measure)]
    out.rect(at, y + 1, wide, 17, fill=MARK)
    for x, words in ((16, before), (at, text), (at + wide, after)):
        out.text(x, y + 14, words, 12)
    return y + 22
