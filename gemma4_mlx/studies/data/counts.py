"""What an atlas counts: sums over the tokens of a corpus that merge exactly.

Counts are integers, and so are sums of norms, in units of 2^-20. So parts of a corpus, counted
anywhere and in any order, add up to the same bits as all of it counted at once. The size does not
depend on the corpus: see :func:`state_bytes`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import StudyError
from ...tracing.data.groups import PART_NAMES, Groups
from ...tracing.data.tokens import KINDS
from ...tracing.data.trace import Trace
from .pieces import Piece, Pieces, Written

#: Sums of real numbers are kept in units of 1 / UNIT.
UNIT = 1 << 20
#: A norm or weight above this is taken for an overflow.
LARGEST = 1e9
#: Buckets that a larger vocabulary is counted in.
BUCKETS = 4096
#: What an expert's vocabulary is counted by: the token it reads, the one that follows in the text,
#: and the one that the model finds likeliest.
VOCABULARIES = ("input", "next", "predicted")
#: Roles of a chat; "text" is what belongs to no turn, "other" any role that is not listed.
ROLES = ("text", "system", "user", "answer", "thinking", "tools", "tool call", "tool", "other")
#: Positions go into groups of doubling width: 0, 1, 2-3, 4-7, ...
POSITIONS = ("0", "1", *(f"{1 << i}-{(2 << i) - 1}" for i in range(1, 19)))
GROUPINGS = {"position": POSITIONS, "role": ROLES, "kind": KINDS}

_EXPERTS = ("layer", "expert")
#: Every array with its axes. ``step``: from one traced layer to the next; ``rank``: place of an
#: expert in an order of all of them, best first.
AXES: dict[str, tuple[str, ...]] = {
    "documents": ("label",),
    "tokens": ("label",),
    "counts": ("label", *_EXPERTS),
    "together": (*_EXPERTS, "expert"),
    "paths": ("step", "expert", "expert"),
    "normed": _EXPERTS,  # tokens whose norms were recorded
    "norms": _EXPERTS,
    "weighted_norms": _EXPERTS,
    "largest_norm": _EXPERTS,
    **{f"{by}_tokens": (by,) for by in GROUPINGS},
    **{f"{by}_counts": ("layer", by, "expert") for by in GROUPINGS},
    **{f"{name}_seen": ("id",) for name in VOCABULARIES},
    **{f"{name}_counts": (*_EXPERTS, "bucket") for name in VOCABULARIES},
    "early": ("step", "rank"),
    "written": (*_EXPERTS, "hidden"),
    "written_tokens": _EXPERTS,
}
_LARGEST = {"largest_norm"}  # merged by the larger one
_SMALL = {f"{name}_counts" for name in VOCABULARIES}  # in 32 bits


@dataclass(frozen=True)
class Subject:
    """What is counted, of which model. Atlases of equal subjects can be merged.

    Attributes:
        fingerprint: of the model.
        layers: indices of the layers.
        num_experts, k: experts of a layer, and of a token.
        vocabulary: number of token ids.
        hidden: size of the residual stream, or 0 if what experts write is not summed.
        interventions: what was changed in the model, as text.
    """

    fingerprint: str
    layers: tuple[int, ...]
    num_experts: int
    k: int
    vocabulary: int
    hidden: int = 0
    interventions: tuple[str, ...] = ()

    @property
    def buckets(self) -> int:
        return min(self.vocabulary, BUCKETS)

    def sizes(self, labels: int) -> dict[str, int]:
        """Length of every axis."""
        return {
            "label": labels,
            "layer": len(self.layers),
            "step": max(0, len(self.layers) - 1),
            "expert": self.num_experts,
            "rank": self.num_experts,
            "id": self.vocabulary,
            "bucket": self.buckets,
            "hidden": self.hidden,
            **{by: len(names) for by, names in GROUPINGS.items()},
        }

    def shapes(self, labels: int) -> dict[str, tuple[int, ...]]:
        """Shape of every array."""
        sizes = self.sizes(labels)
        return {name: tuple(sizes[axis] for axis in axes) for name, axes in AXES.items()}

    def bucket(self, ids: np.ndarray) -> np.ndarray:
        """The bucket of every id: the id itself if there is one for each, else a hash of it."""
        if self.vocabulary <= self.buckets:
            return ids.astype(np.int64)
        mixed = (ids.astype(np.uint64) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
        return ((mixed * np.uint64(self.buckets)) >> np.uint64(32)).astype(np.int64)


def state_bytes(subject: Subject, labels: int) -> int:
    """Bytes of all counts, whatever the corpus.

    30 layers of 128 experts, 262,144 tokens and 8 labels take 195 MiB, of which the vocabularies
    are 180; the sums of what experts write (2,816 numbers each) add 82 MiB.
    """
    shapes = subject.shapes(labels)
    return sum(math.prod(shape) * _type_of(name).itemsize for name, shape in shapes.items())


class Counts:
    """The sums of all documents so far, by label.

    Attributes:
        subject: what is counted.
        labels: names, in alphabetical order.
        arrays: by the names of :data:`AXES`, int64 but for the vocabularies (uint32).
    """

    def __init__(self, subject: Subject, labels: Sequence[str], arrays=None):
        self.subject, self.labels = subject, tuple(sorted(labels))
        if arrays is None:
            shapes = subject.shapes(len(self.labels))
            arrays = {name: np.zeros(shape, _type_of(name)) for name, shape in shapes.items()}
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def add(self, label: str, documents: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """Count documents: the tokens of each (d,), and how many of them went to each expert
        (d, layers, E).

        Raises StudyError for a label that does not exist, pieces of another model or without
        routing, and norms that are not finite; then nothing is counted.
        """
        if label not in self.labels:
            raise StudyError(f"no label {label!r}; there are {', '.join(self.labels)}")
        for piece in documents.pieces:
            self._check(piece)
        number, E = self.labels.index(label), self.subject.num_experts
        experts, d = documents.routing.experts, documents.count
        n = np.bincount(documents.document, minlength=d)
        rows = documents.document * len(experts) + np.arange(len(experts))[:, None]
        codes = rows[:, :, None] * E + experts
        c = np.bincount(codes.ravel(), minlength=d * len(experts) * E)
        c = c.reshape(d, len(experts), E)
        for name, value in (("documents", d), ("tokens", n.sum()), ("counts", c.sum(axis=0))):
            self.arrays[name][number] += value
        self._add_routing(documents)
        self._add_groups(documents)
        self._add_vocabularies(documents)
        for piece in documents.pieces:
            if piece.early is not None:
                self.arrays["early"] += piece.early
            for written in piece.written:
                self._add_written(written)
        return n, c

    def _check(self, piece: Piece) -> None:
        routing, subject = piece.trace.routing, self.subject
        if routing is None:
            raise StudyError("a trace without routing: record it with routing=g4.RoutingPlan()")
        has = (tuple(routing.layers), routing.num_experts, routing.k)
        wanted = (subject.layers, subject.num_experts, subject.k)
        if has != wanted:
            raise StudyError(
                f"a trace of layers, experts and experts per token {has}, an atlas of {wanted}"
            )
        if piece.trace.model.get("fingerprint", "") != subject.fingerprint:
            raise StudyError(
                f"a trace of another model ({piece.trace.model.get('source')}) than the atlas's"
            )
        if tuple(piece.trace.interventions) != subject.interventions:
            raise StudyError(
                f"a trace under {list(piece.trace.interventions)}, an atlas under "
                f"{list(subject.interventions)}"
            )
        ids = piece.trace.tokens.ids
        if ids.size and not 0 <= ids.min() <= ids.max() < subject.vocabulary:
            raise StudyError(f"token {ids.max()} of a vocabulary of {subject.vocabulary}")
        for what, values in (("norm", routing.norms), ("weight", routing.weights)):
            if values is not None and not (values < LARGEST).all():
                layer = routing.layers[int(np.argwhere(~(values < LARGEST))[0][0])]
                raise StudyError(f"the {what} of an expert in layer {layer} is not finite")

    def _add_routing(self, documents: Pieces) -> None:
        routing, normed, E = documents.routing, documents.normed, self.subject.num_experts
        for i, layer in enumerate(routing.layers):
            self.arrays["together"][i] += routing.coactivation(layer)
            if i + 1 < len(routing.layers):
                self.arrays["paths"][i] += routing.paths(layer)
            if routing.norms is None:
                continue
            flat, norms = routing.experts[i, normed].ravel(), routing.norms[i]
            self.arrays["normed"][i] += np.bincount(flat, minlength=E)
            weighted = norms.astype(np.float64) * routing.weights[i, normed]
            for name, values in (("norms", norms), ("weighted_norms", weighted)):
                np.add.at(self.arrays[name][i], flat, _units(values.ravel()))
            np.maximum.at(self.arrays["largest_norm"][i], flat, norms.ravel())

    def _add_groups(self, documents: Pieces) -> None:
        for by, names in GROUPINGS.items():
            codes = np.concatenate([_CODES[by](piece.trace) for piece in documents.pieces])
            groups = Groups(by, names, codes, np.bincount(codes, minlength=len(names)))
            self.arrays[f"{by}_tokens"] += groups.tokens
            self.arrays[f"{by}_counts"] += documents.routing.specialisation(groups).counts

    def _add_vocabularies(self, documents: Pieces) -> None:
        ids, experts = documents.ids, documents.routing.experts
        E, size = self.subject.num_experts, self.subject.vocabulary
        rows = (np.arange(len(experts)) * E)[:, None, None] + experts
        before = np.flatnonzero(documents.position[1:])  # tokens that another one follows
        known = {"input": (np.arange(len(ids)), ids), "next": (before, ids[before + 1])}
        predicted = [
            (start + piece.predicted[0], piece.predicted[1])
            for start, piece in zip(documents.starts, documents.pieces)
            if piece.predicted is not None
        ]
        if predicted:
            known["predicted"] = tuple(np.concatenate(parts) for parts in zip(*predicted))
        for name, (at, said) in known.items():
            self.arrays[f"{name}_seen"] += np.bincount(said, minlength=size)
            codes = rows[:, at] * self.subject.buckets + self.subject.bucket(said)[:, None]
            np.add.at(self.arrays[f"{name}_counts"].reshape(-1), codes.ravel(), np.uint32(1))

    def _add_written(self, written: Written) -> None:
        flat = self.arrays["written"].reshape(-1, self.subject.hidden)
        flat[written.rows] += _units(written.sums)
        self.arrays["written_tokens"].reshape(-1)[written.rows] += written.tokens

    def merged(self, other: "Counts") -> "Counts":
        """Both in one. Raises StudyError for counts of another subject."""
        if self.subject != other.subject:
            raise StudyError(
                f"an atlas of {other.subject} cannot be merged with one of {self.subject}"
            )
        a, b = (self.with_labels({*self.labels, *other.labels}), other)
        b = b.with_labels(a.labels)
        arrays = {
            name: np.maximum(a[name], b[name]) if name in _LARGEST else a[name] + b[name]
            for name in AXES
        }
        return Counts(self.subject, a.labels, arrays)

    def with_labels(self, labels) -> "Counts":
        """The same under more labels, of which the new ones have no documents."""
        labels = tuple(sorted(labels))
        if labels == self.labels:
            return self
        rows, arrays = [labels.index(label) for label in self.labels], {}
        for name, array in self.arrays.items():
            if AXES[name][0] == "label":
                wider = np.zeros((len(labels), *array.shape[1:]), array.dtype)
                wider[rows] = array
                array = wider
            arrays[name] = array
        return Counts(self.subject, labels, arrays)

    @classmethod
    def from_arrays(cls, subject: Subject, labels: Sequence[str], arrays: dict) -> "Counts":
        """From what a file holds. Raises ValueError for arrays that do not fit the subject, and
        for negative counts."""
        for name, expected in subject.shapes(len(labels)).items():
            array = arrays[name]
            if array.shape != expected or array.dtype != _type_of(name):
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype}")
            if name != "written" and array.size and array.min() < 0:
                raise ValueError(f"{name} below 0")
        return cls(subject, labels, {name: arrays[name] for name in AXES})

    @property
    def all_counts(self) -> np.ndarray:
        """How many tokens went to each expert: (layers, E)."""
        return self["counts"].sum(axis=0)


def _type_of(name: str) -> np.dtype:
    if name == "largest_norm":
        return np.dtype(np.float32)
    return np.dtype(np.uint32 if name in _SMALL else np.int64)


def _units(values: np.ndarray) -> np.ndarray:
    """Real numbers as whole numbers of units."""
    units = np.multiply(values, UNIT, dtype=np.float64)
    return np.rint(units, out=units).astype(np.int64)


def _positions(trace: Trace) -> np.ndarray:
    """0, 1, 2, 2, 3, 3, 3, 3, 4, ...: number of bits of the position."""
    found = np.frexp(np.arange(trace.n, dtype=np.float64))[1]
    return np.minimum(found, len(POSITIONS) - 1).astype(np.uint8)


def _roles(trace: Trace) -> np.ndarray:
    other = ROLES.index("other")
    return np.array([_ROLE_CODES.get(role, other) for role in trace.tokens.roles], np.uint8)


_ROLE_CODES = {name: i for i, name in enumerate(ROLES)}
_ROLE_CODES |= {role: _ROLE_CODES[name] for role, name in PART_NAMES.items() if name in ROLES}
_CODES = {"position": _positions, "role": _roles, "kind": lambda trace: trace.tokens.kinds}
