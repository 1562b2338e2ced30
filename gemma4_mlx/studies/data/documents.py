"""A sample of the documents of each label, with what each expert did in every one of them.

Sums say how often an expert is chosen, not whether many documents choose it or a few. So the counts
of up to :data:`KEPT` documents of a label are kept, those with the smallest hashes: a uniform
sample (bottom-k sampling; Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches", 2007), the
same however the corpus was split. Of a label with no more documents all are kept.
"""

from collections.abc import Sequence

import numpy as np

from .counts import Subject

#: Documents kept of each label.
KEPT = 256
NOBODY = np.iinfo(np.uint64).max
#: Type of what is kept of each document.
TYPES = {"key": np.uint64, "tokens": np.int64, "counts": np.uint32}


class Documents:
    """The sampled documents of each label, smallest keys first.

    ``arrays``: ``key`` and ``tokens`` (labels, kept), ``counts`` (labels, kept, layers, E), how
    many of a document's tokens went to each expert. A place without a document has the largest key.
    """

    def __init__(self, subject: Subject, labels: Sequence[str], arrays=None):
        self.subject, self.labels = subject, tuple(sorted(labels))
        self.arrays = arrays or _empty(subject, len(self.labels))

    def add(self, label: str, key: int, tokens: int, counts: np.ndarray) -> None:
        """Offer a document: its number of tokens, and those at each expert (layers, E)."""
        row = self.labels.index(label)
        keys = self.arrays["key"][row]
        place = int(np.searchsorted(keys, np.uint64(key)))
        if place == KEPT:
            return
        for name, value in (("key", key), ("tokens", tokens), ("counts", counts)):
            kept = self.arrays[name][row]
            kept[place + 1 :] = kept[place:-1].copy()
            kept[place] = value

    def merged(self, other: "Documents") -> "Documents":
        """The sample of the documents of both."""
        labels = tuple(sorted({*self.labels, *other.labels}))
        joined = _empty(self.subject, len(labels))
        for row, label in enumerate(labels):
            parts = [
                {name: array[part.labels.index(label)] for name, array in part.arrays.items()}
                for part in (self, other)
                if label in part.labels
            ]
            both = {name: np.concatenate([part[name] for part in parts]) for name in TYPES}
            order = np.argsort(both["key"], kind="stable")[:KEPT]
            for name in TYPES:
                joined[name][row] = both[name][order]
        return Documents(self.subject, labels, joined)

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Index of each sampled document's label (m,), and the share of its tokens that went to
        each expert (m, layers, E) float32."""
        there = self.arrays["key"] != NOBODY
        tokens = self.arrays["tokens"][there][:, None, None]
        return np.nonzero(there)[0], (self.arrays["counts"][there] / tokens).astype(np.float32)

    @classmethod
    def from_arrays(cls, subject: Subject, labels: Sequence[str], arrays: dict) -> "Documents":
        """From what a file holds. Raises ValueError for arrays that do not fit, and for documents
        without tokens."""
        for name, expected in _shapes(subject, len(labels)).items():
            if arrays[name].shape != expected or arrays[name].dtype != TYPES[name]:
                raise ValueError(f"documents' {name} of shape {arrays[name].shape}")
        there = arrays["key"] != NOBODY
        if there.any() and arrays["tokens"][there].min() < 1:
            raise ValueError("a document without tokens")
        return cls(subject, labels, {name: arrays[name] for name in TYPES})


def _shapes(subject: Subject, labels: int) -> dict[str, tuple[int, ...]]:
    kept = (labels, KEPT)
    experts = (len(subject.layers), subject.num_experts)
    return {"key": kept, "tokens": kept, "counts": kept + experts}


def _empty(subject: Subject, labels: int) -> dict[str, np.ndarray]:
    shapes = _shapes(subject, labels)
    arrays = {name: np.zeros(shape, TYPES[name]) for name, shape in shapes.items()}
    arrays["key"][:] = NOBODY
    return arrays
