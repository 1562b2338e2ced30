"""``Anatomy(model)``: the architecture to scale, with its formulas, code and taps.

Area is parameters (or bytes): every block has the same height and a width by its size, and is
divided by its parts. Arcs join layers that share keys and values. Beside it, what the cache costs
as the context grows.
"""

from __future__ import annotations

from typing import Any

import traitlets

from ..arguments import check_model
from .architecture import (
    PARTS,
    blocks_of,
    cache_bytes,
    code_of,
    layer_facts,
    types_of,
)
from .base import Widget
from .drawing import FAINT, LINE, Drawing
from .traceview import export

COLORS = {  # anatomy.css has the same, by part
    "vision": "#cc79a7",
    "audio": "#d55e00",
    "embedding": "#8d8d8d",
    "per_layer_table": "#c4b400",
    "attention": "#0072b2",
    "mlp": "#56b4e9",
    "router": "#9c5a00",
    "experts": "#009e73",
    "per_layer": "#e69f00",
    "norms": "#666666",
}


class Anatomy(Widget):
    """Take a model apart.

    Args:
        model: a loaded model; nothing is computed with it, only looked at

    Raises TypeError for what is no model.

    >>> Anatomy(g4.load())
    """

    front = "anatomy"

    meta = traitlets.Dict().tag(sync=True)
    #: the block and part shown in detail, such as {"block": "layer3", "part": "experts"}
    chosen = traitlets.Dict().tag(sync=True)

    def __init__(self, model: Any) -> None:
        check_model(model, "Anatomy", TypeError)
        self.model = model
        self._blocks = {block.id: block for block in blocks_of(model)}
        super().__init__()
        self.meta = self._facts()
        middle = f"layer{model.config.text.num_hidden_layers // 2}"
        self.chosen = {"block": middle, "part": "attention"}

    def _facts(self) -> dict:
        text, facts = self.model.config.text, layer_facts(self.model)
        longest = text.max_position_embeddings
        contexts = [0, *(c for k in range(9, 21) if (c := 2**k) < longest), longest]
        return {
            "source": self.model.source,
            "blocks": [
                {"id": b.id, "layer": b.layer, "parts": b.sizes()} for b in self._blocks.values()
            ],
            "names": {part: name for part, (name, _, _) in PARTS.items()},
            "layers": facts,
            "experts": text.num_experts if text.enable_moe_block else 0,
            "k": text.top_k_experts if text.enable_moe_block else 0,
            "hidden": text.hidden_size,
            "vocabulary": text.vocab_size,
            "window": text.sliding_window,
            "context": longest,
            "cache": [[n, *cache_bytes(facts, n)] for n in contexts],
            "types": types_of(
                [t for b in self._blocks.values() for part in b.parts.values() for t in part]
            ),
        }

    def answer_part(self, block: str, part: str) -> dict:
        """A part in detail: formula, taps with shapes, tensors, and the code that computes it.

        Raises ValueError for a part that this model lacks.
        """
        found = self._blocks.get(block)
        if found is None or part not in found.parts:
            raise ValueError(f"there is no part {part!r} in block {block!r} of this model")
        name, formula, taps = PARTS[part]
        shapes = self.model.taps()
        tensors = [
            [t.name, "x".join(map(str, t.shape)) or "1", t.dtype, t.values, t.bytes]
            for t in found.parts[part]
        ]
        return {
            "name": name,
            "formula": formula,
            "taps": [[tap, shapes[tap]] for tap in taps if tap in shapes],
            "tensors": tensors[:40],
            "more": max(0, len(tensors) - 40),
            "code": code_of(self.model, found, part),
        }

    def answer_export(self, format: str) -> tuple[None, bytes]:
        """The view as a PNG, SVG or HTML file. Raises ValueError for another format."""
        return None, export(self, format)

    def snapshot_requests(self) -> list[dict]:
        """Every part of every kind of layer once, and all parts of the chosen block."""
        wanted, seen = [], set()
        facts = {f["layer"]: f for f in self.meta["layers"]}
        for block in self._blocks.values():
            kind = facts[block.layer] if block.layer is not None else {}
            for part in block.parts:
                key = (block.layer is None, part, kind.get("kind"), kind.get("donor") is None)
                if key not in seen or block.id == self.chosen.get("block"):
                    seen.add(key)
                    wanted.append({"type": "part", "block": block.id, "part": part})
        return [*wanted, {"type": "export", "format": "svg"}]

    def drawing(self) -> Drawing:
        """The still picture: blocks to scale, and the cache's growth."""
        meta, width, height = self.meta, 960.0, 190.0
        out = Drawing(1000, 560)
        total = sum(p["params"] for b in meta["blocks"] for p in b["parts"])
        size = sum(p["bytes"] for b in meta["blocks"] for p in b["parts"])
        out.text(20, 30, f"Anatomy of {meta['source'] or 'the model'}", 17, bold=True)
        held = f"{size / 1e6:,.1f} MB as {', '.join(meta['types'])}"
        shape = f"{total / 1e6:,.1f} M parameters, {held}, {len(meta['layers'])} layers"
        if meta["experts"]:
            shape += f", {meta['k']} of {meta['experts']} experts per token"
        out.text(20, 50, f"{shape}; area is parameters", 12, FAINT)
        x, top, middles, used = 20.0, 130.0, {}, set()
        for block in meta["blocks"]:
            params = sum(p["params"] for p in block["parts"])
            wide, y = width * params / total, top
            for part in block["parts"]:
                high = height * part["params"] / params
                out.rect(x, y, wide, high, fill=COLORS[part["part"]], stroke="#ffffff")
                used.add(part["part"])
                y += high
            if block["layer"] is not None:
                middles[block["layer"]] = x + wide / 2
                if wide > 11:
                    fact = meta["layers"][block["layer"]]
                    out.text(
                        x + wide / 2, top + height + 14, f"L{block['layer']}", 9, FAINT, "middle"
                    )
                    if fact["kind"] == "full":
                        out.rect(x + 1, top + height + 18, wide - 2, 3, fill="#2558c9")
            elif wide > 50:
                name = meta["names"][block["parts"][0]["part"]].split()[0]
                out.text(x + wide / 2, top + height + 14, name, 10, FAINT, "middle")
            x += wide
        for fact in meta["layers"]:
            if fact["donor"] is not None:
                a, b = middles[fact["donor"]], middles[fact["layer"]]
                points = [
                    (a + (b - a) * t / 20, top - 4 - 44 * (1 - (t / 10 - 1) ** 2))
                    for t in range(21)
                ]
                out.line(points, LINE, 1.2)
        x = 20.0
        for part in [p for p in PARTS if p in used]:
            name = meta["names"][part]
            out.rect(x, 365, 9, 9, fill=COLORS[part])
            out.text(x + 13, 373, name, 10)
            x += out.measure(name, 10) + 26
        out.text(20, 410, "Cache as the context grows", 13, bold=True)
        last = meta["cache"][-1]
        high = max(1, last[1] + last[2])
        for k, color in ((2, "#0072b2"), (1, "#e69f00")):
            name = "full layers" if k == 2 else "sliding layers (bounded by their window)"
            points = [
                (60 + 860 * row[0] / last[0], 520 - 90 * row[k] / high) for row in meta["cache"]
            ]
            out.line(points, color, 2)
            out.text(
                920,
                520 - 90 * last[k] / high - 6,
                f"{name}: {last[k] / 1e6:,.1f} MB",
                10.5,
                color,
                "end",
            )
        out.line([(60, 425), (60, 520), (920, 520)], LINE)
        out.text(60, 536, "0", 10, FAINT)
        out.text(920, 536, f"{last[0]:,} tokens", 10, FAINT, "end")
        return out

    def snapshot_image(self):
        return self.drawing().pil()
