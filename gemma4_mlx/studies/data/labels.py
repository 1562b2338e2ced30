"""Which experts prefer which documents: lift, and whether it is more than chance."""

from dataclasses import dataclass

import numpy as np

from ...errors import StudyError
from ...tracing.data.frames import to_frame
from .counts import Counts
from .statistics import bennett_tail, false_discovery

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
        p: the chance of a difference as large, at most, if labels were dealt out to documents
            at random; nan where there is nothing to test.
        q: the same, corrected for the number of experts and labels
            (:func:`.statistics.false_discovery`).
    """

    layers: tuple[int, ...]
    labels: tuple[str, ...]
    lift: np.ndarray
    p: np.ndarray
    q: np.ndarray

    def found(self, false: float = FALSE, floor: float = FLOOR) -> np.ndarray:
        """Which lifts are real and large: q at most ``false`` and log2 lift at least ``floor`` from
        0. bool (layers, labels, E)."""
        with np.errstate(invalid="ignore"):
            return (self.q <= false) & (np.abs(self.lift) >= floor)

    def experts(self, label: str, false: float = FALSE, floor: float = FLOOR) -> list[dict]:
        """The experts that a label's documents use more than others, highest lift first: ``layer``,
        ``expert``, ``lift`` (log2), ``q``.

        Raises StudyError for a label that does not exist.
        """
        g = number_of(label, self.labels)
        chosen = self.found(false, floor)[:, g] & (self.lift[:, g] > 0)
        rows = [
            {
                "layer": self.layers[i],
                "expert": int(e),
                "lift": float(self.lift[i, g, e]),
                "q": float(self.q[i, g, e]),
            }
            for i, e in zip(*np.nonzero(chosen))
        ]
        return sorted(rows, key=lambda row: (-row["lift"], row["layer"], row["expert"]))

    def to_dataframe(self, library: str = "pandas"):
        """One row for each layer, label and expert: layer, label, expert, lift, p, q, found.

        Raises TraceError if that library is not installed or not known.
        """
        L, G, E = self.lift.shape
        return to_frame(
            {
                "layer": np.repeat(np.array(self.layers, np.int32), G * E),
                "label": np.tile(np.repeat(np.array(self.labels, object), E), L).tolist(),
                "expert": np.tile(np.arange(E, dtype=np.int32), L * G),
                "lift": self.lift.ravel(),
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


def lifts(counts: Counts) -> Lifts:
    """Lifts of all experts and labels, tested with documents as the unit.

    Tokens of one document are alike, so that a thousand tokens are not a thousand witnesses. What
    is dealt out under the null hypothesis is therefore the documents: each has an excess ``u = c -
    r n``, for c of its n tokens at the expert and r the expert's share of all tokens, and the
    label's excess ``t``, the sum of u over its documents, is tested as a sum of so many drawn from
    all. The variance is the larger of that of a draw, ``m mean(u^2)`` for the label's m documents,
    and of ``sum(u^2)`` over these, which may be longer than others. Whatever the distribution of u,
    :func:`.statistics.bennett_tail` bounds the chance, doubled for the two sides. With fewer than
    about twenty documents to a label little can be found.

    The excess is that of a ratio estimator with documents as clusters: Rao and Scott, "A Simple
    Method for the Analysis of Clustered Binary Data" (1992).
    """
    documents, tokens = counts["documents"][:, None, None], counts["tokens"][:, None, None]
    c, everywhere = counts["counts"], counts.all_counts
    with np.errstate(divide="ignore", invalid="ignore"):
        r = everywhere / tokens.sum()
        lift = np.log2(c / tokens / r)
    lift = np.where((everywhere > 0) & (tokens > 0), lift, np.nan)
    squares = (
        counts["counts_squared"]
        - 2 * r * counts["counts_tokens"]
        + r**2 * counts["tokens_squared"][:, None, None]
    )
    excess, total = c - r * tokens, documents.sum()
    variance = np.maximum(documents * squares.sum(axis=0) / np.maximum(total, 1), squares)
    above, below = counts["largest_count"], r * counts["largest_document"].max(initial=0)
    p = 2 * bennett_tail(np.abs(excess), variance, np.where(excess > 0, above, below))
    tested = (documents > 0) & (documents < total) & (everywhere > 0)
    p = np.where(tested, np.minimum(p, 1), np.nan)
    lift, p = lift.swapaxes(0, 1), p.swapaxes(0, 1)
    return Lifts(counts.subject.layers, counts.labels, lift, p, false_discovery(p))
