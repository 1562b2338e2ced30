"""Which experts prefer which documents: lift, and whether it is more than chance."""

from dataclasses import dataclass

import numpy as np

from ...errors import StudyError
from ...tracing.data.frames import to_frame
from .counts import Counts
from .documents import Documents
from .statistics import SumTail, false_discovery

#: An expert has a label if its lift is 2^FLOOR or more, or as much below 1,
FLOOR = 0.5
#: and if chance explains at most this share of all that are said to have one.
FALSE = 0.05


@dataclass(frozen=True)
class Lifts:
    """How much more often each expert is chosen in documents of each label.

    Attributes:
        layers, labels: names of the first two axes below.
        lift: (layers, labels, E) log2 P(e | label) / P(e), where P is the share of tokens that go
            to the expert: 0 for an expert to which the label makes no difference, 1 for one that is
            chosen twice as often; -inf for one that is never chosen there, nan for one that is
            never chosen at all.
        load: (layers, labels, E) share of the label's tokens that go to the expert; nan for a label
            without documents.
        p: the chance of a difference as large, at most, if labels were dealt out to documents
            at random; nan where there is nothing to test.
        q: the same, corrected for the number of experts and labels
            (:func:`.statistics.false_discovery`).
    """

    layers: tuple[int, ...]
    labels: tuple[str, ...]
    lift: np.ndarray
    load: np.ndarray
    p: np.ndarray
    q: np.ndarray

    def found(self, false: float = FALSE, floor: float = FLOOR) -> np.ndarray:
        """Which lifts are real and large: q at most ``false`` and log2 lift at least ``floor`` from
        0. bool (layers, labels, E)."""
        with np.errstate(invalid="ignore"):
            return (self.q <= false) & (np.abs(self.lift) >= floor)

    def experts(self, label: str, false: float = FALSE, floor: float = FLOOR) -> list[dict]:
        """The experts that a label's documents use more than others, highest lift first: ``layer``,
        ``expert``, ``lift`` (log2), ``load`` (among the label's tokens), ``q``.

        Raises StudyError for a label that does not exist, and where there is no other one.
        """
        g = number_of(label, self.labels)
        if len(self.labels) == 1:
            raise StudyError(f"{label!r} is the only label: there is nothing to compare it with")
        chosen = self.found(false, floor)[:, g] & (self.lift[:, g] > 0)
        rows = [
            {
                "layer": self.layers[i],
                "expert": int(e),
                "lift": float(self.lift[i, g, e]),
                "load": float(self.load[i, g, e]),
                "q": float(self.q[i, g, e]),
            }
            for i, e in zip(*np.nonzero(chosen))
        ]
        return sorted(rows, key=lambda row: (-row["lift"], row["layer"], row["expert"]))

    def to_dataframe(self, library: str = "pandas"):
        """One row for each layer, label and expert: layer, label, expert, lift, load, p, q,
        found.

        Raises TraceError if that library is not installed or not known.
        """
        L, G, E = self.lift.shape
        return to_frame(
            {
                "layer": np.repeat(np.array(self.layers, np.int32), G * E),
                "label": np.tile(np.repeat(np.array(self.labels, object), E), L).tolist(),
                "expert": np.tile(np.arange(E, dtype=np.int32), L * G),
                "lift": self.lift.ravel(),
                "load": self.load.ravel(),
                "p": self.p.ravel(),
                "q": self.q.ravel(),
                "found": self.found().ravel(),
            },
            library,
        )


def number_of(label: str, labels: tuple[str, ...]) -> int:
    """Index of a label. Raises StudyError for one that does not exist."""
    if label not in labels:
        raise StudyError(f"no label {label!r} in this atlas; there are {', '.join(labels)}")
    return labels.index(label)


def lifts(counts: Counts, documents: Documents) -> Lifts:
    """Lifts of all experts and labels, tested with documents as the unit.

    Tokens of one document are alike, so that a thousand tokens are not a thousand witnesses. What
    is dealt out under the null hypothesis is therefore the documents, each with the share of its
    tokens that went to the expert: the shares of a label's documents are summed, and
    :class:`.statistics.SumTail` bounds the chance that as many documents drawn from all have a sum
    so far from what is expected; doubled for the two sides. Where the label's shares spread more
    than all do, as those of short texts may, what is beyond expectation is first divided by how
    much more. The documents are those of the sample (:mod:`.documents`).
    """
    tokens = counts["tokens"][:, None, None]
    c, everywhere = counts["counts"], counts.all_counts
    with np.errstate(divide="ignore", invalid="ignore"):
        load = c / tokens
        lift = np.log2(load / (everywhere / tokens.sum()))
    lift = np.where((everywhere > 0) & (tokens > 0), lift, np.nan)
    label, shares = documents.shares()
    p = np.full(lift.shape, np.nan)
    for i in range(len(everywhere)) if len(label) else ():
        tail, here = SumTail(shares[:, i]), shares[:, i]
        for g in range(len(counts.labels)):
            own = label == g
            if own.any() and not own.all():
                p[g, i] = _chance(tail, here, own)
    p = np.where(everywhere > 0, p, np.nan)
    lift, load, p = (each.swapaxes(0, 1) for each in (lift, load, p))
    return Lifts(counts.subject.layers, counts.labels, lift, load, p, false_discovery(p))


def _chance(tail: SumTail, shares: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Two-sided chance of the shares (m, E) of the documents ``own`` (m,): (E,)."""
    drawn = int(own.sum())
    mine = shares[own].astype(np.float64)
    excess = mine.sum(axis=0) - drawn * shares.mean(axis=0, dtype=np.float64)
    of_all = shares.var(axis=0, dtype=np.float64)
    of_mine = mine.var(axis=0) * drawn / max(1, drawn - 1)
    more = np.divide(of_mine, of_all, where=of_all > 0, out=np.ones(len(of_all)))
    excess = excess / np.sqrt(np.maximum(more, 1))
    return np.minimum(2 * tail.chance(drawn, excess), 1)
