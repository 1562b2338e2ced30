"""``Fit()``: which model fits this machine or a Mac, at which context, and where the bytes go.

Every combination is planned by :func:`gemma4_mlx.fit`, which needs no download; the view looks the
answers up, so that a snapshot of it answers as well as the notebook does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import traitlets

from ..checkpoints.machine import GiB, Machine, this_machine
from .base import Widget
from .drawing import FAINT, LINE, Drawing
from .traceview import export

MEMORIES = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256)  # GiB of Macs
BITS = (4, 6, 8, 16)
KV_BITS = (16, 8, 4)
CONTEXTS = tuple(2**k for k in range(10, 19))  # 1,024 to 262,144 tokens

#: part -> (name, colour); fit.js shows the parts in this order
PARTS = {
    "embeddings": ("Embeddings", "#8d8d8d"),
    "per-layer embeddings": ("Per-layer embeddings", "#c4b400"),
    "attention": ("Attention", "#0072b2"),
    "mlp": ("Dense MLP", "#56b4e9"),
    "experts": ("Experts", "#009e73"),
    "router": ("Router", "#9c5a00"),
    "norms": ("Norms", "#666666"),
    "vision": ("Vision", "#cc79a7"),
    "audio": ("Audio", "#d55e00"),
    "cache sliding": ("Cache, sliding layers", "#f3b562"),
    "cache full": ("Cache, full layers", "#e69f00"),
    "activations": ("Activations, at most", "#b7a6d6"),
    "runtime": ("Python and MLX", "#444444"),
}


class Fit(Widget):
    """Plan before a download.

    Args:
        memory: GiB of a Mac to plan for; None: this machine as it is, as for ``g4.fit``
        model: "e2b", "e4b", "12b", "26b-a4b" or "31b"
        bits, context, kv_bits: of the weights, of prompt and answer together, of the cache
            (16 bits or None: unquantized)

    All four can be changed in the view and read or set here: ``view.memory``, ``view.model``, ...
    ``view.plan()`` is the :class:`~gemma4_mlx.checkpoints.planner.Fit` that is shown.

    Raises what :func:`~gemma4_mlx.checkpoints.planner.fit` raises for such settings.
    """

    front = "fit"

    meta = traitlets.Dict().tag(sync=True)
    memory = traitlets.Float(None, allow_none=True).tag(sync=True)
    model = traitlets.Unicode("26b-a4b").tag(sync=True)
    bits = traitlets.Int(4).tag(sync=True)
    context = traitlets.Int(8192).tag(sync=True)
    kv_bits = traitlets.Int(16).tag(sync=True)

    def __init__(
        self,
        memory: float | None = None,
        model: str = "26b-a4b",
        bits: int | None = 4,
        context: int = 8192,
        kv_bits: int | None = 16,
    ) -> None:
        from ..checkpoints.released import RELEASED, released

        known = released(model).name
        bits, kv_bits = (16 if width is None else width for width in (bits, kv_bits))
        super().__init__(memory=memory, model=known, bits=bits, context=context, kv_bits=kv_bits)
        self.plan()  # raises for settings that make no sense
        self.meta = {
            "models": [[r.name, r.repo, r.config.text.max_position_embeddings] for r in RELEASED],
            "memories": sorted({*MEMORIES, *([float(memory)] if memory is not None else [])}),
            "bits": sorted({*BITS, bits}),
            "kv_bits": sorted({*KV_BITS, kv_bits}, reverse=True),
            "contexts": sorted({*CONTEXTS, context}),
            "parts": [[key, name, color] for key, (name, color) in PARTS.items()],
            "here": _about(this_machine()),
        }

    def plan(self):
        """The plan for what is chosen now. Raises what ``fit`` raises for it."""
        from .. import fit

        kv_bits = self.kv_bits if self.kv_bits < 16 else None
        return fit(self.model, self.bits, self.context, kv_bits, self.memory)

    def answer_plans(self, model: str, kv_bits: int, here: bool = False) -> dict:
        """Plans of a model at every width and context: ``plans["4"]["8192"]`` is a list of bytes
        in the order of the parts, or None where the model does not take so long a context.

        A plan does not depend on the memory of a Mac; ``usable`` gives the bytes that a model may
        take of each, and ``most`` the longest context of each, by width and memory. With ``here``
        all this is about this machine, under the name "null".

        Raises ConfigError for a model that was not released.
        """
        from ..checkpoints.released import released

        longest = released(model).config.text.max_position_embeddings
        kv = kv_bits if kv_bits < 16 else None
        contexts = self.meta["contexts"]
        machines = {"null": _machine(None)}
        if not here:
            machines = {f"{memory:g}": _machine(memory) for memory in self.meta["memories"]}
        plans: dict[str, dict] = {}
        most: dict[str, dict] = {}
        for bits in self.meta["bits"]:
            plans[str(bits)] = {
                str(c): _sizes(model, bits, c, kv, here) if c <= longest else None for c in contexts
            }
            most[str(bits)] = {
                name: _longest(model, bits, kv, machine.usable, longest, here)
                for name, machine in machines.items()
            }
        usable = {name: machine.usable for name, machine in machines.items()}
        return {"plans": plans, "most": most, "usable": usable, "longest": longest}

    def answer_export(self, format: str) -> tuple[None, bytes]:
        """The view as a PNG, SVG or HTML file. Raises ValueError for another format."""
        return None, export(self, format)

    def snapshot_requests(self) -> list[dict]:
        """The plans of every model, and the files to save."""
        kinds = self.meta["kv_bits"]
        wanted: list[dict] = [
            {"type": "plans", "model": name, "kv_bits": kv, "here": here}
            for name, _, _ in self.meta["models"]
            for kv in kinds
            for here in (False, True)
        ]
        return [*wanted, {"type": "export", "format": "svg"}]

    def drawing(self) -> Drawing:
        """The still picture: every model at the chosen settings as a bar against the memory."""
        from .. import fit
        from ..checkpoints.released import RELEASED

        machine = _machine(self.memory)
        kv = self.kv_bits if self.kv_bits < 16 else None
        out = Drawing(860, 380)
        name = f"a Mac with {self.memory:g} GiB" if self.memory else _about(machine)["name"]
        out.text(16, 28, f"What fits {name}", 17, bold=True)
        cache = "plain cache" if kv is None else f"{kv}-bit cache"
        out.text(16, 48, f"{self.bits}-bit weights, {self.context:,} tokens, {cache}", 12, FAINT)
        plans = {}
        for one in RELEASED:
            if self.context <= one.config.text.max_position_embeddings:
                plans[one.name] = fit(one.name, self.bits, self.context, kv, self.memory)
        high = max([machine.memory, *(p.total for p in plans.values())]) * 1.02
        scale = 560 / high
        for i, (name, plan) in enumerate(plans.items()):
            y, x = 78 + i * 42, 100.0
            out.text(92, y + 18, name, 13, anchor="end", bold=name == self.model)
            for key, size in zip(PARTS, _bytes(plan)):
                out.rect(x, y, size * scale, 26, fill=PARTS[key][1])
                x += size * scale
            verdict = "fits" if plan.fits else "too large"
            out.text(x + 8, y + 17, f"{plan.total / GiB:.1f} GiB, {verdict}", 11)
        bottom = 78 + len(plans) * 42
        for size, name in ((machine.usable, "usable"), (machine.memory, "memory")):
            x = 100 + size * scale
            out.line([(x, 66), (x, bottom)], LINE if name == "memory" else "#b3261e", 1.5)
            out.text(x, 62, f"{name} {size / GiB:.1f} GiB", 10, FAINT, "middle")
        x, y = 16.0, bottom + 24.0
        for name, color in PARTS.values():
            wide = out.measure(name, 10.5) + 32
            if x + wide > 850:
                x, y = 16.0, y + 20
            out.rect(x, y - 9, 10, 10, fill=color)
            out.text(x + 15, y, name, 10.5)
            x += wide
        return out

    def snapshot_image(self):
        return self.drawing().pil()


def _bytes(plan: Any) -> list[int]:
    """A plan's bytes in the order of :data:`PARTS`."""
    return [
        *(plan.weights.get(part, 0) for part in list(PARTS)[:9]),
        plan.cache.get("sliding", 0),
        plan.cache.get("full", 0),
        plan.activations,
        plan.runtime,
    ]


def _machine(memory: float | None) -> Machine:
    """A Mac with so many GiB, or this machine."""
    return this_machine() if memory is None else Machine.mac(memory)


def _about(machine: Machine) -> dict:
    """What the view says about this machine: its name, memory in bytes, and who lends what."""
    kind = {
        "metal": ("this Mac", "macOS lets a model use"),
        "cuda": ("this machine's GPU", "a model may use"),
        "cpu": ("this machine", "a model may use, computing on the CPU in float32"),
        "none": ("a Mac with this memory", "macOS would lend a model; MLX is not installed here"),
    }
    name, lends = kind[machine.backend]
    gib = f"{machine.memory / GiB:.0f} GiB"
    return {"name": f"{name}, {gib}", "memory": machine.memory, "lends": lends}


@lru_cache
def _weights(model: str, bits: int, here: bool) -> tuple[int, ...]:
    """Bytes of a released model's weights, in the order of :data:`PARTS`."""
    from .. import fit

    weights = fit(model, bits, 1, None, None if here else MEMORIES[-1]).weights
    return tuple(weights.get(part, 0) for part in list(PARTS)[:9])


@lru_cache(maxsize=4096)
def _sizes(model: str, bits: int, context: int, kv_bits: int | None, here: bool) -> list[int]:
    """What :func:`gemma4_mlx.fit` counts here or on any Mac, in the order of :data:`PARTS`."""
    from ..checkpoints.planner import RUNTIME, activation_bytes, cache_bytes
    from ..checkpoints.released import released

    text, machine = released(model).config.text, _machine(None if here else MEMORIES[-1])
    cache = cache_bytes(text, context, machine.itemsize, kv_bits)
    computing = activation_bytes(
        text, context, machine.itemsize, kv_bits, on_cpu=machine.backend == "cpu"
    )
    return [*_weights(model, bits, here), cache["sliding"], cache["full"], computing, RUNTIME]


@lru_cache(maxsize=4096)
def _longest(
    model: str, bits: int, kv_bits: int | None, usable: int, longest: int, here: bool
) -> int:
    """The longest context that fits into ``usable`` bytes, by bisection; 0 if none does."""
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        if sum(_sizes(model, bits, middle, kv_bits, here)) <= usable:
            low = middle
        else:
            high = middle - 1
    return low
