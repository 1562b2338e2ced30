"""A sweep: what patching each place of a model changed, as a value.

It can be saved to one file and opened on a machine without MLX and without weights. Everything in
this module and what it imports needs numpy alone.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import AttributionError
from ..tracing.data import fileformat
from ..tracing.data.frames import to_frame
from ..tracing.data.tokens import Tokens
from .data import Attribution

FILE = fileformat.Kind("g4sweep", "a sweep's file", 1, AttributionError)
#: What is patched -> the name of its axis beside the layer, if it has one.
OVER = {
    "residual": None,
    "attention": None,
    "mlp": None,
    "feedforward": None,
    "per_layer": None,
    "heads": "head",
    "experts": "expert",
}
DIRECTIONS = ("restore", "corrupt")
#: Numbers and words that the description holds as they are.
_PLAIN = (
    "over", "direction", "metric", "window", "beside", "base", "source", "target", "against",
    "model",
)  # fmt: skip
#: Those that a sweep which goes on must share with the one that was stopped.
_SAME = (*(name for name in _PLAIN if name not in ("base", "source")), "interventions")


@dataclass(frozen=True)
class Place:
    """A place that was patched, and by how much the metric moved.

    ``index``: number of the head or expert, else None; ``positions``: (start, stop) of the span;
    ``text``: what stands there in the run that was patched.
    """

    layer: int
    index: int | None
    positions: tuple[int, int]
    text: str
    effect: float


@dataclass(frozen=True, eq=False)
class Sweep:
    """What each patch did to a metric: see :func:`.sweep`.

    Attributes:
        over: what was patched, one of :data:`OVER`.
        direction: "restore": the corrupt run was patched with the clean one; "corrupt": the
            clean one with the corrupt one.
        metric: what was measured, in words.
        effects: float32, :attr:`axes` in their order: the metric of the patched run less
            ``base``; nan where it has not been measured yet.
        layers: the first layer of each patch, of ``window`` layers.
        indices: heads or experts; None for what has neither.
        spans: (start, stop) of the positions that are patched together, in the run that is patched.
        base, source: the metric of the run that is patched, and of the one that patches.
        tokens, source_tokens: of these two runs.
        window: layers that are patched together.
        beside: whether what later layers read beside the stream was patched, too.
        target, against: (id, text) of the tokens that the metric is about, or None.
        media: content keys of both runs' pictures and sounds.
        model: facts about the model, as a trace's.
        interventions: what else was changed in the model, as text.
    """

    over: str
    direction: str
    metric: str
    effects: np.ndarray
    layers: tuple[int, ...]
    indices: tuple[int, ...] | None
    spans: tuple[tuple[int, int], ...]
    base: float
    source: float
    tokens: Tokens
    source_tokens: Tokens
    window: int = 1
    beside: bool = False
    target: tuple[int, str] | None = None
    against: tuple[int, str] | None = None
    media: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    model: dict = field(default_factory=dict)
    interventions: tuple[str, ...] = ()

    def __repr__(self):
        sizes = " x ".join(f"{len(values)} {name}s" for name, values in self.axes.items())
        done = "" if self.done == 1 else f", {self.done:.0%} done"
        best = ", ".join(f"{self._say(place)} {place.effect:+.2f}" for place in self.top(3))
        return (
            f"Sweep({self.direction} {self.over}: {sizes}{done}; {self.metric} {self.base:+.2f}, "
            f"in the other run {self.source:+.2f}; {best})"
        )

    @property
    def axes(self) -> dict[str, tuple]:
        """Names and values of the axes of ``effects``: layer, head or expert, position."""
        found = {"layer": self.layers}
        if self.indices is not None:
            found[OVER[self.over]] = self.indices
        return found | {"position": self.spans}

    @property
    def done(self) -> float:
        """Share of the places that have been measured, from 0 to 1."""
        return float(np.isfinite(self.effects).mean())

    @property
    def values(self) -> np.ndarray:
        """The metric of each patched run, shaped as ``effects``."""
        return self.effects + np.float32(self.base)

    @property
    def moved(self) -> np.ndarray:
        """``effects`` as shares of the way from ``base`` to ``source``: 0 nothing moved, 1 the
        patch did as much as the whole other prompt. nan where the two runs do not differ."""
        way = self.source - self.base
        return self.effects / np.float32(way) if way else np.full_like(self.effects, np.nan)

    @property
    def places(self) -> list[Place]:
        """Every place that has been measured, in the order of the axes."""
        texts, found = self.tokens.texts, []
        indices = (None,) if self.indices is None else self.indices
        every = itertools.product(self.layers, indices, self.spans)
        for (layer, index, span), effect in zip(every, self.effects.ravel()):
            if np.isfinite(effect):
                text = "".join(texts[slice(*span)])
                found.append(Place(layer, index, span, text, float(effect)))
        return found

    def top(self, n: int = 10) -> list[Place]:
        """The n places with the largest effects, whichever way."""
        return sorted(self.places, key=lambda place: -abs(place.effect))[:n]

    def predicted(self, why: Attribution) -> np.ndarray:
        """What attribution patching of the same prompts says that each patch does, shaped as
        :attr:`effects`; nan where it says nothing. All of it comes from one backward pass.

        It goes back from the clean prompt's run, so it stands for "corrupt"; for "restore" it is
        taken with the other sign. Heads, experts and MLPs are compared as wholes, the residual
        stream position by position, of each layer but the last.

        Raises AttributionError for an attribution by another method, of another prompt, token or
        comparison, and for a sweep over what it has no shares of: spans of positions, windows.
        """
        clean = self.source_tokens if self.direction == "restore" else self.tokens
        if why.method != "patching":
            raise AttributionError(
                f"an attribution by {why.method!r} predicts no patch: one by 'patching' does"
            )
        ends = why.position == len(clean) and np.array_equal(why.tokens.ids, clean.ids)
        if not ends or (why.target, why.against) != (self.target, self.against):
            raise AttributionError(
                "the attribution explains another prompt or token than the sweep measures: "
                f"attribute(model, clean, {self.target}, against={self.against}, position="
                f"{len(clean)}, method='patching', corrupt=corrupt) explains the same"
            )
        shares = np.full(self.effects.shape, np.nan, np.float32)
        for place in np.ndindex(shares.shape):
            index = None if self.indices is None else self.indices[place[1]]
            shares[place] = self._share(why, self.layers[place[0]], index, self.spans[place[-1]])
        if np.isnan(shares).all():
            raise AttributionError(
                f"attribution patching has no shares of what this sweep over {self.over!r} patches"
            )
        return shares if self.direction == "restore" else -shares

    def _share(self, why, layer: int, index: int | None, span: tuple[int, int]) -> float:
        """The share of one place; nan without."""
        if self.window > 1 or self.metric != "logit":
            return np.nan
        if self.over == "residual":  # what leaves a layer enters the next
            above = layer + 1 < len(why.stream) and span[1] == span[0] + 1 and not self.beside
            return why.stream[layer + 1, span[0]] if above else np.nan
        begin = next(iter(np.flatnonzero(self.tokens.ids != self.source_tokens.ids)), 0)
        if span[0] > begin or span[1] < len(self.tokens):
            return np.nan  # not the whole
        if self.over == "heads":
            return why.heads[layer, index]
        if self.over == "experts":
            return float(why.experts[layer][why.expert_ids[layer] == index].sum())
        return why.mlp[layer] if self.over == "mlp" else np.nan

    def rank_correlation(self, why: Attribution) -> float:
        """How well attribution patching ranks the places: Spearman's rank correlation of what it
        predicts (see :meth:`predicted`) and what was measured, from -1 to 1.

        Raises AttributionError as :meth:`predicted`, and for fewer than two places to compare.
        """
        predicted = self.predicted(why)
        both = np.isfinite(predicted) & np.isfinite(self.effects)
        if both.sum() < 2:
            raise AttributionError(f"{both.sum()} places to compare: a ranking takes two")
        a, b = (_ranks(values[both]) for values in (predicted, self.effects))
        with np.errstate(invalid="ignore"):
            return float(np.corrcoef(a, b)[0, 1])

    def to_dataframe(self, library: str = "pandas"):
        """One row for each place that has been measured: layer, head or expert if there are any,
        start, stop, text, effect and moved.

        Raises TraceError if that library is not installed or not known.
        """
        places = self.places
        columns = {"layer": np.array([place.layer for place in places], np.int32)}
        if self.indices is not None:
            columns[OVER[self.over]] = np.array([place.index for place in places], np.int32)
        spans = np.array([place.positions for place in places], np.int32).reshape(-1, 2)
        columns |= {"start": spans[:, 0], "stop": spans[:, 1]}
        columns["text"] = [place.text for place in places]
        columns["effect"] = np.array([place.effect for place in places], np.float32)
        columns["moved"] = self.moved[np.isfinite(self.effects)]
        return to_frame(columns, library)

    def save(self, path) -> Path:
        """Write a ``.g4sweep`` file, laid out as a trace's; returns its path.

        Raises AttributionError if it cannot be written.
        """
        arrays = {
            "effects": np.asarray(self.effects, np.float32),
            "layers": np.array(self.layers, np.int32),
            "spans": np.array(self.spans, np.int32).reshape(-1, 2),
        }
        if self.indices is not None:
            arrays["indices"] = np.array(self.indices, np.int32)
        description = {name: getattr(self, name) for name in _PLAIN}
        description |= {"interventions": list(self.interventions), "media": self.media}
        for name in ("tokens", "source_tokens"):
            own, description[name] = getattr(self, name).to_arrays()
            arrays |= {f"{name}.{key}": np.asarray(array) for key, array in own.items()}
        return fileformat.save(path, arrays, description, FILE)

    def _say(self, place: Place) -> str:
        start, stop = place.positions
        what = "" if place.index is None else f" {OVER[self.over]} {place.index}"
        if stop == start + 1:
            return f"layer {place.layer}{what}, position {start} {place.text!r}"
        return f"layer {place.layer}{what}, positions {start} to {stop - 1}"

    def difference(self, other: "Sweep") -> str | None:
        """What another sweep measures otherwise than this one, as a clause; None if nothing."""
        for name in _SAME:
            ours, theirs = getattr(self, name), getattr(other, name)
            if name == "model":
                ours, theirs = ours.get("fingerprint"), theirs.get("fingerprint")
            if ours != theirs:
                return f"its {name} is {theirs!r:.80}, here {ours!r:.80}"
        if self.axes != other.axes:
            name = next(name for name in self.axes if self.axes[name] != other.axes.get(name))
            return f"it is over other {name}s"
        for name in ("tokens", "source_tokens"):
            if not np.array_equal(getattr(self, name).ids, getattr(other, name).ids):
                return "its prompts are others"
        return None if self.media == other.media else "its pictures or sounds are others"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[place]


def open_sweep(path) -> Sweep:
    """Open a ``.g4sweep`` file, also of a sweep that was stopped.

    Raises AttributionError if the file is missing, damaged, cut short or of a newer version.
    """
    return fileformat.opened(path, _from_file, FILE)


def _from_file(arrays: dict, said: dict) -> Sweep:
    tokens = {}
    for name in ("tokens", "source_tokens"):
        own = {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith(f"{name}.")}
        tokens[name] = Tokens.from_arrays(own, said[name])
    indices = arrays.get("indices")
    found = Sweep(
        **{name: str(said[name]) for name in ("over", "direction", "metric")},
        effects=arrays["effects"],
        layers=tuple(map(int, arrays["layers"])),
        indices=None if indices is None else tuple(map(int, indices)),
        spans=tuple((int(a), int(b)) for a, b in arrays["spans"]),
        base=float(said["base"]),
        source=float(said["source"]),
        **tokens,
        window=int(said["window"]),
        beside=bool(said["beside"]),
        target=_token(said["target"]),
        against=_token(said["against"]),
        media=tuple(tuple(map(str, keys)) for keys in said["media"]),
        model=dict(said["model"]),
        interventions=tuple(map(str, said["interventions"])),
    )
    if found.over not in OVER or found.direction not in DIRECTIONS:
        raise ValueError(f"a sweep to {found.direction} {found.over}")
    if (OVER[found.over] is None) != (indices is None):
        raise ValueError(f"{found.over} with numbers of heads or experts, or without")
    shape = tuple(map(len, found.axes.values()))
    if found.effects.shape != shape or found.effects.dtype != np.float32:
        raise ValueError(f"effects of shape {found.effects.shape} along axes of {shape}")
    if any(not 0 <= a < b <= len(found.tokens) for a, b in found.spans):
        raise ValueError(f"spans outside of {len(found.tokens)} tokens")
    return found


def _token(said) -> tuple[int, str] | None:
    if said is None:
        return None
    number, text = said
    return int(number), str(text)
