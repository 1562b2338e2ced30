"""An attribution: a logit as a sum over the parts of the model, as a value.

It can be saved to one file and opened on a machine without MLX and without weights. Everything in
this module and what it imports needs numpy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import AttributionError
from ..tracing.data import fileformat
from ..tracing.data.frames import to_frame

FILE = fileformat.Kind("g4why", "an attribution's file", 1, AttributionError)
KINDS = ("embedding", "head", "expert", "mlp", "per_layer")
#: Kinds that an intervention can take out of a run.
REMOVABLE = ("head", "expert")
#: Names of the arrays' axes; ``rank`` 0 is the expert with the greatest weight.
AXES = {
    "heads": ("layer", "head"),
    "experts": ("layer", "rank"),
    "expert_ids": ("layer", "rank"),
    "expert_weights": ("layer", "rank"),
    "mlp": ("layer",),
    "per_layer": ("layer",),
}


@dataclass(frozen=True)
class Part:
    """A part of the model and its share of the logit.

    ``kind``: "embedding", "head", "expert", "mlp" or "per_layer"; ``layer``: None for the
    embedding; ``index``: number of the head or expert, else None.
    """

    kind: str
    layer: int | None
    index: int | None
    share: float

    def __str__(self):
        where = "" if self.layer is None else f"layer {self.layer} "
        return f"{where}{self.kind}{'' if self.index is None else f' {self.index}'}"


@dataclass(frozen=True)
class Effect:
    """What removing a part did, beside what it was said to contribute.

    ``share``: its part of the sum. ``measured``: by how much the logit (difference) fell when it
    was silenced at this position in a run of the model; negative where it rose. ``control``: the
    part was drawn at random, for comparison, and not asked for.
    """

    kind: str
    layer: int
    index: int
    share: float
    measured: float
    control: bool = False


@dataclass(frozen=True, eq=False)
class Attribution:
    """A logit, or the difference of two, as a sum of what each part of the model wrote towards it.

    All shares are in logits before the soft cap, positive for what spoke for the target.

    Attributes:
        target, against: (id, text) of the token explained and of the one it is compared with, or
            None.
        position: place of the explained token among the tokens of the prompt; their number where
            it is the next one.
        total: the logit (difference) as the model computed it.
        embedding: share of the embedding that stands at the last position before.
        heads: (layers, heads) float32.
        experts, expert_ids, expert_weights: (layers, k) share, number and weight of the chosen
            experts, float32, int32 and float32, the greatest weight first; None without experts.
        mlp: (layers,) float32, of the dense MLPs.
        per_layer: (layers,) float32, of the per-layer embeddings; None without.
        method: how the shares were found.
        model: facts about the model, as a trace's.
        interventions: what was changed in the model during the run, as text.
    """

    target: tuple[int, str]
    against: tuple[int, str] | None
    position: int
    total: float
    embedding: float
    heads: np.ndarray
    mlp: np.ndarray
    experts: np.ndarray | None = None
    expert_ids: np.ndarray | None = None
    expert_weights: np.ndarray | None = None
    per_layer: np.ndarray | None = None
    method: str = "direct"
    model: dict = field(default_factory=dict)
    interventions: tuple[str, ...] = ()
    #: ``measure(parts, progress)`` silences each part in a run of the model.
    measure: Callable | None = field(default=None, repr=False)

    def __repr__(self):
        said = f"{self.target[1]!r}"
        if self.against is not None:
            said += f" against {self.against[1]!r}"
        best = ", ".join(f"{part} {part.share:+.2f}" for part in self.top(3))
        return (
            f"Attribution({said} at position {self.position}: logit {self.total:+.2f}, "
            f"remainder {self.remainder:+.2g}; {best})"
        )

    @property
    def parts(self) -> list[Part]:
        """Every part: the embedding, then layer by layer heads, MLP, experts and per-layer
        embedding."""
        found = [Part("embedding", None, None, float(self.embedding))]
        for layer, heads in enumerate(self.heads):
            found += [Part("head", layer, head, float(x)) for head, x in enumerate(heads)]
            found.append(Part("mlp", layer, None, float(self.mlp[layer])))
            if self.experts is not None:
                chosen = zip(self.expert_ids[layer], self.experts[layer])
                found += [Part("expert", layer, int(i), float(x)) for i, x in chosen]
            if self.per_layer is not None:
                found.append(Part("per_layer", layer, None, float(self.per_layer[layer])))
        return found

    @property
    def remainder(self) -> float:
        """What the parts do not add up to: ``total`` less their sum.

        Rounding, which is small in float32 and may reach some hundredths of a logit or more in
        16 bits; and what an intervention (Steer, Patch) wrote into the residual stream itself.
        """
        return self.total - sum(part.share for part in self.parts)

    def top(self, n: int = 10, *kinds: str) -> list[Part]:
        """The n parts with the largest shares, for or against; of some kinds if named.

        Raises AttributionError for a kind that does not exist.
        """
        if unknown := set(kinds).difference(KINDS):
            raise AttributionError(
                f"no kind of part {min(unknown)!r}; there are {', '.join(KINDS)}"
            )
        parts = [part for part in self.parts if not kinds or part.kind in kinds]
        return sorted(parts, key=lambda part: -abs(part.share))[:n]

    def check(self, top: int = 10, progress=None) -> list[Effect]:
        """Really silence each of the ``top`` heads and experts, and as many others drawn at random.

        Each is taken out alone and only at the position whose output is explained: a head by
        ``ScaleHeads``, an expert by ``Ablate``. What is measured is not the share itself. A norm's
        scale changes with its input, and later layers read what an earlier one wrote; a share
        counts only what goes straight to the logit. A large difference says that the part works
        through others.

        ``progress`` is called with a ``Progress`` while the prompt is read again.

        Raises AttributionError without the model: it is no longer in memory, has changed, or the
        attribution comes from a file.
        """
        if self.measure is None:
            raise AttributionError(
                "this attribution was opened from a file: attribute(model, ...) again to check it"
            )
        asked = self.top(top, *REMOVABLE)
        others = [part for part in self.parts if part.kind in REMOVABLE and part not in asked]
        drawn = np.random.default_rng(0).permutation(len(others))[: len(asked)]
        parts = asked + [others[i] for i in drawn]
        measured = self.measure(parts, progress)
        return [
            Effect(part.kind, part.layer, part.index, part.share, effect, i >= len(asked))
            for i, (part, effect) in enumerate(zip(parts, measured))
        ]

    def to_dataframe(self, library: str = "pandas"):
        """One row for each part: kind, layer, index (-1 where there is none) and share.

        Raises TraceError if that library is not installed or not known.
        """
        parts = self.parts
        columns = {"kind": [part.kind for part in parts]}
        for name in ("layer", "index"):
            values = [getattr(part, name) for part in parts]
            columns[name] = np.array([-1 if v is None else v for v in values], np.int32)
        columns["share"] = np.array([part.share for part in parts], np.float32)
        return to_frame(columns, library)

    def save(self, path) -> Path:
        """Write a ``.g4why`` file, laid out as a trace's; returns its path.

        Raises AttributionError if it cannot be written.
        """
        arrays = {name: getattr(self, name) for name in AXES if getattr(self, name) is not None}
        names = ("target", "against", "position", "total", "embedding", "method", "model")
        description = {name: getattr(self, name) for name in names}
        description["interventions"] = list(self.interventions)
        try:
            fileformat.write(path, arrays, description, FILE)
        except OSError as error:
            raise AttributionError(f"{path} cannot be written: {error.strerror}") from None
        return Path(path)


def open_attribution(path) -> Attribution:
    """Open a ``.g4why`` file.

    Raises AttributionError if the file is missing, damaged, cut short or of a newer version.
    """
    arrays, description = fileformat.read(path, FILE)
    try:
        return _from_file(arrays, description)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise AttributionError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _from_file(arrays: dict, description: dict) -> Attribution:
    if unknown := arrays.keys() - AXES.keys():
        raise ValueError(f"an array {min(unknown)!r}")
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        if array.ndim != len(AXES[name]):
            raise ValueError(f"{name} of shape {array.shape}")
        for axis, size in zip(AXES[name], array.shape):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has {size} along {axis}, others {sizes[axis]}")
    with_experts = [name for name in arrays if name.startswith("expert")]
    if with_experts and len(with_experts) < 3:
        raise ValueError(f"of the experts only {', '.join(with_experts)}")

    def token(said) -> tuple[int, str]:
        number, text = said
        return int(number), str(text)

    against = description["against"]
    return Attribution(
        token(description["target"]),
        None if against is None else token(against),
        int(description["position"]),
        float(description["total"]),
        float(description["embedding"]),
        **arrays,
        method=str(description["method"]),
        model=dict(description["model"]),
        interventions=tuple(map(str, description["interventions"])),
    )
