"""A trace: what was recorded of one run of a model.

It can be saved to one file, opened on a machine without MLX and without weights, and written as
a self-contained web page. This module and all it imports need numpy alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ... import atomic
from ...arguments import say_arguments
from ...errors import TraceError
from . import fileformat
from .attention import AttentionData
from .lens import LensData
from .ranges import ranges
from .routing import RoutingData
from .selection import Selection
from .tiles import as_float32
from .tokens import Tokens


@dataclass(frozen=True)
class Timings:
    """Seconds. ``prefill``: the traced pass over the prompt; ``chunks``: (first token, stop,
    seconds) of each call; ``decode``: seconds of each generated token, where generation ran."""

    prefill: float = 0.0
    chunks: tuple[tuple[int, int, float], ...] = ()
    decode: tuple[float, ...] = ()


@dataclass
class Activations:
    """Whole activations kept for patching: ``values[tap]`` (layers, n, H), in ``dtype``.

    Of "head_outputs", whose head size differs by layer, it is one (heads, n, D) for each layer.
    """

    layers: tuple[int, ...]
    values: dict[str, np.ndarray | tuple[np.ndarray, ...]]
    dtype: str = "float32"

    def at(self, tap: str, layer: int, tokens: slice = slice(None)) -> np.ndarray:
        """float32 (tokens, H) of one tap and layer, of "head_outputs" (heads, tokens, D).

        Raises TraceError for what was not kept.
        """
        if tap not in self.values:
            known = ", ".join(self.values)
            raise TraceError(f"no activations of {tap!r} were kept; kept: {known}")
        if layer not in self.layers:
            raise TraceError(
                f"no activations of layer {layer} were kept; kept: {ranges(self.layers)}"
            )
        kept = self.values[tap][self.layers.index(layer)]
        try:
            return as_float32(kept[..., tokens, :], self.dtype)
        except IndexError:
            n = kept.shape[-2]
            raise TraceError(f"no tokens {tokens!r} among the {n} that were kept") from None

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and JSON-ready values for the trace file."""
        arrays = {}
        for tap, kept in self.values.items():
            if isinstance(kept, tuple):
                arrays |= {f"{tap}.{layer}": x for layer, x in zip(self.layers, kept)}
            else:
                arrays[tap] = kept
        return arrays, {"layers": list(self.layers), "dtype": self.dtype}

    @classmethod
    def from_arrays(cls, arrays, meta) -> "Activations":
        """From what a trace's file holds. Raises KeyError where a layer is missing."""
        layers = tuple(meta["layers"])
        values = {}
        for name, array in arrays.items():
            tap, dot, _ = name.partition(".")
            if not dot:
                values[tap] = array
            elif tap not in values:
                values[tap] = tuple(arrays[f"{tap}.{layer}"] for layer in layers)
        return cls(layers, values, meta["dtype"])


@say_arguments(TraceError)
@dataclass
class Trace:
    """What was recorded, by ``gemma4_mlx.trace(model, prompt)``.

    Attributes:
        tokens: the tokens with text, kind, role and place
        routing, attention, lens, activations: the parts the plan asked for, else None
        timings: seconds
        model: properties of the model: ``source``, ``fingerprint``, ``layer_types``, sizes
        interventions: what was changed in the model during the run, as text
        plan: the plan, as text
        selection: what the views of this trace point at
        media: what the soft tokens were made of, by ``tokens.media``: pictures (h, w, 3) uint8 and
            sounds (N,) float32, so that a view can draw on them
    """

    tokens: Tokens
    routing: RoutingData | None = None
    attention: AttentionData | None = None
    lens: LensData | None = None
    activations: Activations | None = None
    timings: Timings = field(default_factory=Timings)
    model: dict = field(default_factory=dict)
    interventions: tuple[str, ...] = ()
    plan: str = ""
    selection: Selection = field(default_factory=Selection)
    media: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        if not isinstance(self.tokens, Tokens):
            raise TraceError(
                f"a Trace holds what was recorded, not a {type(self.tokens).__name__}: "
                "gemma4_mlx.trace(model, prompt) makes one"
            )

    def __len__(self):
        return len(self.tokens)

    def __repr__(self):
        parts = [f"{len(self)} tokens"]
        if self.routing is not None:
            r = self.routing
            parts.append(f"routing of {len(r.layers)} layers, {r.k} of {r.num_experts} experts")
        if self.attention is not None:
            a = self.attention
            parts.append(
                f"attention of {len(a.layers)} layers in bins of {a.width} tokens, "
                f"tiles of {len(a.retained)}"
            )
        if self.lens is not None:
            parts.append(f"logit lens of {len(self.lens.layers)} layers")
        if self.activations is not None:
            parts.append(f"activations {', '.join(self.activations.values)}")
        if self.interventions:
            parts.append(f"under {', '.join(self.interventions)}")
        return f"Trace({'; '.join(parts)})"

    @property
    def n(self) -> int:
        return len(self.tokens)

    def compare_routing(self, other: "Trace", **options):
        """Which experts differ between this trace and another of the same model.

        Options and errors as of :func:`.comparison.compare_routing`.
        """
        from .comparison import compare_routing

        return compare_routing(self, other, **options)

    def save(self, path) -> Path:
        """Write a ``.g4trace`` file (see :mod:`.fileformat`); returns its path.

        Raises TraceError if it cannot be written.
        """
        path = Path(path)
        arrays, description = {}, {}
        for name in ("tokens", "routing", "attention", "lens", "activations"):
            part = getattr(self, name)
            if part is not None:
                own, description[name] = part.to_arrays()
                arrays |= {f"{name}.{key}": np.asarray(value) for key, value in own.items()}
        arrays |= {f"media.{i}": np.asarray(medium) for i, medium in enumerate(self.media)}
        description["timings"] = vars(self.timings)
        description["model"] = self.model
        description["interventions"] = list(self.interventions)
        description["plan"] = self.plan
        return fileformat.save(path, arrays, description)

    def to_html(self, path, resolution: int = 128) -> Path:
        """Write a web page of at most 10 MB with the views of the Attention and Routing widgets. It
        is interactive, also from ``file://`` and without a network.

        The page holds all of the text, the picture, summaries and links of every head, and the
        routing of every layer: of each token where that fits (30 layers with 8 experts a token:
        up to 8,192 tokens), else of stretches of the text. ``resolution``: cells along each side
        of a head's picture, at most; the more heads, the fewer. The chosen head of
        ``self.selection`` is there in more detail.

        Raises TraceError for a resolution below 1, and if the page cannot be written.
        """
        from ...widgets.snapshot import encoded
        from ...widgets.tracepage import trace_page

        path, page = Path(path), encoded(trace_page(self, resolution))
        try:
            atomic.write(path, page)
        except OSError as error:
            raise TraceError(f"{path} cannot be written: {error.strerror}") from None
        return path


def open_trace(path) -> Trace:
    """Open a ``.g4trace`` file. Arrays stay in the file until they are looked at.

    Raises TraceError if the file is missing, damaged, cut short or of a newer version.
    """
    return fileformat.opened(path, _from_file)


def _from_file(arrays: dict, description: dict) -> Trace:
    def part(name):
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        return own, description[name]

    tokens = Tokens.from_arrays(*part("tokens"))
    trace = Trace(tokens, model=description["model"], plan=description["plan"])
    if "routing" in description:
        trace.routing = RoutingData.from_arrays(*part("routing"), tokens)
    if "attention" in description:
        trace.attention = AttentionData.from_arrays(*part("attention"))
    if "lens" in description:
        trace.lens = LensData.from_arrays(*part("lens"))
    if "activations" in description:
        trace.activations = Activations.from_arrays(*part("activations"))
    media = sum(name.startswith("media.") for name in arrays)
    trace.media = [arrays[f"media.{i}"] for i in range(media)]
    times = description["timings"]
    trace.timings = Timings(
        times["prefill"], tuple(map(tuple, times["chunks"])), tuple(times["decode"])
    )
    trace.interventions = tuple(description["interventions"])
    return trace
