"""An attribution: what spoke for a token of an answer and against it, as a value.

It can be saved to one file and opened on a machine without MLX and without weights. Everything in
this module and what it imports needs numpy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import AttributionError
from ..tracing.data.frames import to_frame
from ..tracing.data.tokens import Tokens
from . import file

KINDS = ("embedding", "head", "expert", "mlp", "per_layer", "position")
#: Kinds that have shares, by what found them.
SHARED = {
    "direct": KINDS[:-1],
    "gradient": KINDS,
    "integrated": KINDS[-1:],
    "patching": KINDS,
}
_NAMES = {"embedding": "token embedding", "mlp": "MLP", "per_layer": "per-layer embedding"}


@dataclass(frozen=True)
class Part:
    """A source, which is a part of the model or a position of the prompt, and its share.

    ``kind``: "embedding", "head", "expert", "mlp", "per_layer" or "position"; ``layer``: None for
    the embedding and for positions; ``index``: number of the head, expert or position, else None;
    ``text``: of the token at that position.
    """

    kind: str
    layer: int | None
    index: int | None
    share: float
    text: str | None = None

    def __str__(self):
        said = "" if self.text is None else f" {self.text!r}"
        return _called(self) + said


@dataclass(frozen=True)
class Effect:
    """What removing a source did, beside what it was said to contribute.

    ``kind``, ``layer``, ``index``, ``share``: as of its :class:`Part`. ``measured``: by how much
    what is explained fell when it was removed from a run of the model; negative where it rose.
    ``control``: the source was drawn at random, for comparison, and not asked for.
    """

    kind: str
    layer: int | None
    index: int | None
    share: float
    measured: float
    control: bool = False

    def __str__(self):
        return _called(self)


class Effects(list):
    """What :meth:`Attribution.check` measured: a list of :class:`Effect`, which prints as a table
    of predicted and measured effects."""

    def __repr__(self):
        lines = [f"{'without':30}{'predicted':>10}{'measured':>10}"]
        for e in self:
            drawn = "  (drawn at random)" if e.control else ""
            lines.append(f"{e!s:30}{e.share:+10.2f}{e.measured:+10.2f}{drawn}")
        return "\n".join(lines)


def _called(source: "Part | Effect") -> str:
    """Such as "layer 5 head 2"."""
    where = "" if source.layer is None else f"layer {source.layer} "
    number = "" if source.index is None else f" {source.index}"
    return f"{where}{_NAMES.get(source.kind, source.kind)}{number}"


@dataclass(frozen=True, eq=False)
class Attribution:
    """What is explained, and the share that each source has in it.

    All shares are in the unit of ``total`` (logits before the soft cap, unless a function was
    explained), positive for what spoke for the target. What a share is, depends on ``method``:

    "direct": what the part wrote into the stream at the one position before the explained token,
        along the logit. The parts' shares sum to ``total``. There are no ``positions``.
    "gradient": gradient x input. Of a position: the derivative by its input (its embedding or soft
        token, and its looked-up per-layer embeddings) times that input; of a part: the derivative
        by its output times that output, summed over positions. Nothing needs to sum.
    "integrated": integrated gradients of positions, from the baseline to the input. They sum to
        ``total - base``. There are no shares of parts.
    "patching": attribution patching. To first order, by how much ``total`` would fall if the part,
        at all positions, or the position's input were as in the corrupt run, whose value of the
        target is ``base``.

    Attributes:
        target: (id, text) of the token explained; the id is None for a span of several tokens and
            for a function, whose text is its name.
        against: (id, text) of the token that it is compared with, or None.
        position: place of the explained token (a span's first one) among the prompt's tokens;
            their number where it is the next one.
        total: the logit, the difference of two, the sum of a span's, or a function's value.
        embedding: share of the embedding that stands at the last position before ("direct"), or of
            those of all positions; None without shares of parts.
        heads: (layers, heads) float32, or None.
        experts, expert_ids, expert_weights: (layers, k) share, number and routing weight of experts
            of each layer, float32, int32 and float32, the greatest weight first. "direct": of those
            chosen at the one position; else of all experts, with their weights summed over
            positions. None without experts.
        mlp: (layers,) float32, of the dense MLPs, or None.
        per_layer: (layers,) float32, of what per-layer embeddings add to the stream; None without.
        positions: (n,) float32, of every position of the prompt, zeros from the explained one on;
            None for "direct".
        stream: (layers, n) float32, of the residual stream that enters each layer, at every
            position; None for "direct" and "integrated".
        base: value of the target at the other end of the comparison, see above; None without.
        stop: position after the explained token or span; for one token ``position + 1``.
        tokens: the prompt's tokens as in a trace: text, kind, and the places of soft tokens in
            their pictures and sounds; None in files of version 1.
        media: what the soft tokens were made of, as in a trace, by ``tokens.media``: pictures
            (h, w, 3) uint8 and sounds (N,) float32.
        method: how the shares were found.
        model: facts about the model, as a trace's.
        interventions: what was changed in the model during the run, as text.
    """

    target: tuple[int | None, str]
    against: tuple[int, str] | None
    position: int
    total: float
    embedding: float | None = None
    heads: np.ndarray | None = None
    mlp: np.ndarray | None = None
    experts: np.ndarray | None = None
    expert_ids: np.ndarray | None = None
    expert_weights: np.ndarray | None = None
    per_layer: np.ndarray | None = None
    positions: np.ndarray | None = None
    stream: np.ndarray | None = None
    base: float | None = None
    stop: int | None = None
    tokens: Tokens | None = None
    media: list[np.ndarray] = field(default_factory=list)
    method: str = "direct"
    model: dict = field(default_factory=dict)
    interventions: tuple[str, ...] = ()
    #: ``measure(parts, progress)`` removes each source from a run of the model.
    measure: Callable | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.stop is None:
            object.__setattr__(self, "stop", self.position + 1)

    def __repr__(self):
        said = f"{self.target[1]!r}"
        if self.against is not None:
            said += f" against {self.against[1]!r}"
        best = ", ".join(f"{part} {part.share:+.2f}" for part in self.top(3))
        return (
            f"Attribution({said} at position {self.position} by {self.method}: "
            f"{self.total:+.2f}, remainder {self.remainder:+.2g}; {best})"
        )

    @property
    def parts(self) -> list[Part]:
        """Every part of the model that has a share: the embedding, then layer by layer heads, MLP,
        experts and per-layer embedding."""
        found = []
        if self.embedding is not None:
            found.append(Part("embedding", None, None, float(self.embedding)))
        for layer, heads in enumerate(() if self.heads is None else self.heads):
            found += [Part("head", layer, head, float(x)) for head, x in enumerate(heads)]
            found.append(Part("mlp", layer, None, float(self.mlp[layer])))
            if self.experts is not None:
                chosen = zip(self.expert_ids[layer], self.experts[layer])
                found += [Part("expert", layer, int(i), float(x)) for i, x in chosen]
            if self.per_layer is not None:
                found.append(Part("per_layer", layer, None, float(self.per_layer[layer])))
        return found

    @property
    def sources(self) -> list[Part]:
        """The :attr:`parts`, and behind them the positions of the prompt, where they have shares.

        Two accounts of one number: what a position gives reaches the logit through the parts.
        """
        shares = () if self.positions is None else self.positions
        texts = [None] * len(shares) if self.tokens is None else self.tokens.texts
        at = [Part("position", None, i, float(x), t) for i, (x, t) in enumerate(zip(shares, texts))]
        return self.parts + at

    @property
    def remainder(self) -> float:
        """What the shares do not add up to: ``total`` less ``base``, if there is one, less the sum
        of the positions' shares, or without any of the parts'.

        "direct": rounding, which is small in float32 and may reach some hundredths of a logit or
        more in 16 bits; and what an intervention (Steer, Patch) wrote into the residual stream
        itself. "integrated": the completeness error. "gradient" and "patching": how far the model
        is from linear.
        """
        if self.positions is None:
            explained = sum(part.share for part in self.parts)
        else:
            explained = float(self.positions.sum(dtype=np.float64))
        return self.total - (self.base or 0.0) - explained

    def top(self, n: int = 10, *kinds: str) -> list[Part]:
        """The n sources with the largest shares, for or against; of some kinds if named.

        Raises AttributionError for a kind that does not exist.
        """
        if unknown := set(kinds).difference(KINDS):
            raise AttributionError(
                f"no kind of part {min(unknown)!r}; there are {', '.join(KINDS)}"
            )
        sources = [part for part in self.sources if not kinds or part.kind in kinds]
        return sorted(sources, key=lambda part: -abs(part.share))[:n]

    def picture(self, medium: int) -> np.ndarray:
        """Shares of a picture's (or video frame's) soft tokens: (rows, columns) float32, as they
        lie in the picture.

        ``medium``: its number in ``tokens.media``. Raises AttributionError if that is no picture,
        or if positions have no shares.
        """
        at = self._positions_of(medium)
        boxes = None if self.tokens.boxes is None else self.tokens.boxes[at]
        if boxes is None or np.isnan(boxes).any():
            raise AttributionError(f"medium {medium} is no picture")
        rows = len(np.unique(boxes[:, 1]))
        if len(at) % rows:
            raise AttributionError(f"the {len(at)} soft tokens of picture {medium} are no grid")
        return self.positions[at].reshape(rows, -1)

    def sound(self, medium: int) -> tuple[np.ndarray, np.ndarray]:
        """Shares of a sound's soft tokens, (m,) float32, and when each begins and ends, (m, 2)
        seconds.

        ``medium``: its number in ``tokens.media``. Raises AttributionError if that is no sound, or
        if positions have no shares.
        """
        at = self._positions_of(medium)
        times = None if self.tokens.times is None else self.tokens.times[at]
        if times is None or np.isnan(times).any():
            raise AttributionError(f"medium {medium} is no sound")
        return self.positions[at], times

    def _positions_of(self, medium: int) -> np.ndarray:
        """Positions of a medium's soft tokens."""
        if self.positions is None or self.tokens is None:
            raise AttributionError(
                f"{self.method!r} gives positions no shares: attribute with another method"
            )
        at = np.flatnonzero(self.tokens.media == medium)
        if medium < 0 or not len(at):
            there = self.tokens.media.max(initial=-1) + 1
            raise AttributionError(f"no medium {medium}: the prompt has {there}, counted from 0")
        return at

    def check(self, top: int = 10, progress=None, kinds: tuple[str, ...] = ()) -> Effects:
        """Really remove each of the ``top`` sources, and for each another of its kind, drawn at
        random, if there is one left.

        Each is taken out alone. A head is silenced by ``ScaleHeads``, an expert by ``Ablate``, the
        embedding, an MLP and a layer's per-layer embedding by ``Scale``: where "direct" found the
        share only at the position whose output is explained, else at all positions. A position is
        hidden from all that read it by ``Knockout``. With "patching", a part writes what it did in
        the corrupt run, and a position gets the corrupt prompt's input.

        What is measured is not the share itself: a share is how steep the way is at its beginning
        ("direct": what goes straight to the logit), and removing goes all the way. Norms' scales
        change with their input, weights of attention and of experts saturate, and later layers
        make up for earlier ones. A large difference says that one of them happened.

        ``kinds``: some of those that have shares; none: all. ``progress`` is called with a
        ``Progress`` while the prompt is read again.

        Raises AttributionError for a kind that has no shares, and without the model: it is no
        longer in memory, has changed, or the attribution comes from a file.
        """
        if self.measure is None:
            raise AttributionError(
                "this attribution was opened from a file: attribute(model, ...) again to check it"
            )
        there = SHARED[self.method]
        if wrong := set(kinds).difference(there):
            raise AttributionError(
                f"{self.method!r} gives no kind {min(wrong)!r} a share; there are "
                f"{', '.join(there)}"
            )
        sources = [
            part
            for part in self.sources
            if part.kind in (kinds or there)
            # The position that says the token stays, for it is asked.
            and (part.kind != "position" or part.index < self.position - 1)
        ]
        sources.sort(key=lambda part: -abs(part.share))
        asked, others = sources[:top], sources[top:]
        rng, drawn = np.random.default_rng(0), []
        for kind in there:
            same = [part for part in others if part.kind == kind]
            wanted = sum(part.kind == kind for part in asked)
            drawn += [same[i] for i in rng.permutation(len(same))[:wanted]]
        measured = self.measure(asked + drawn, progress)
        return Effects(
            Effect(part.kind, part.layer, part.index, part.share, effect, i >= len(asked))
            for i, (part, effect) in enumerate(zip(asked + drawn, measured))
        )

    def to_dataframe(self, library: str = "pandas"):
        """One row for each source: kind, layer, index (-1 where there is none), text ("" but for
        positions) and share.

        Raises TraceError if that library is not installed or not known.
        """
        sources = self.sources
        columns = {"kind": [part.kind for part in sources]}
        for name in ("layer", "index"):
            values = [getattr(part, name) for part in sources]
            columns[name] = np.array([-1 if v is None else v for v in values], np.int32)
        columns["text"] = [part.text or "" for part in sources]
        columns["share"] = np.array([part.share for part in sources], np.float32)
        return to_frame(columns, library)

    def save(self, path) -> Path:
        """Write a ``.g4why`` file, laid out as a trace's; returns its path.

        Raises AttributionError if it cannot be written.
        """
        return file.write(path, vars(self))


def open_attribution(path) -> Attribution:
    """Open a ``.g4why`` file.

    Raises AttributionError if the file is missing, damaged, cut short or of a newer version.
    """
    return Attribution(**file.read(path))
