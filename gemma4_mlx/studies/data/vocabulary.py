"""Which tokens each expert works on, by the token read, the one that follows, or the one predicted.

A large vocabulary is counted in :data:`.counts.BUCKETS` buckets, an id in the bucket of its hash.
How often each id occurred is known exactly, so a bucket's count bounds that of an id in it: no
more than the bucket's, and no less than that less the other ids' occurrences. Ids that make up
nearly all of their bucket are known nearly exactly; what the measures below say rests on those.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import StudyError
from .counts import VOCABULARIES, Counts

#: An id is known if it makes up at least this share of what its bucket counted.
PURE = 0.9
#: Occurrences from which on an id says something about experts.
LEAST = 20


@dataclass(frozen=True)
class Among:
    """How much every expert works on some tokens.

    Attributes:
        count: (layers, E) how many of their occurrences went to it, at least (the other ids of the
            buckets are taken off).
        share: (layers, E) of the occurrences that are counted.
        lift: (layers, E) the share over the expert's load.
        counted: share of their occurrences that can be counted.
    """

    count: np.ndarray
    share: np.ndarray
    lift: np.ndarray
    counted: float


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of every expert.

    Attributes:
        name: "input", "next" or "predicted".
        layers: indices of the layers.
        seen: (V,) occurrences of each id, in the tokens that were counted.
        counts: (layers, E, buckets) how many of a bucket's tokens went to each expert.
        buckets: (V,) each id's bucket.
    """

    name: str
    layers: tuple[int, ...]
    seen: np.ndarray
    counts: np.ndarray
    buckets: np.ndarray

    @classmethod
    def of(cls, counts: Counts, name: str) -> "Vocabulary":
        """Raises StudyError for another name."""
        if name not in VOCABULARIES:
            raise StudyError(f"no vocabulary {name!r}; there are {', '.join(VOCABULARIES)}")
        buckets = counts.subject.bucket(np.arange(counts.subject.vocabulary))
        layers = counts.subject.layers
        return cls(name, layers, counts[f"{name}_seen"], counts[f"{name}_counts"], buckets)

    def known(self, least: int = LEAST) -> np.ndarray:
        """Ids that occurred ``least`` times and make up :data:`PURE` of their bucket."""
        return self._pure[self.seen[self._pure] >= max(1, least)]

    @cached_property
    def _pure(self) -> np.ndarray:
        """Ids that occurred and make up :data:`PURE` of their bucket."""
        whole = self._occurrences[self.buckets]
        return np.flatnonzero((self.seen > 0) & (self.seen >= PURE * whole))

    @cached_property
    def _occurrences(self) -> np.ndarray:
        """Tokens of each bucket."""
        return np.bincount(self.buckets, self.seen, self.counts.shape[-1])

    def share(self, id: int) -> tuple[np.ndarray, np.ndarray]:
        """Share of an id's occurrences that went to each expert, at least and at most: two (layers,
        E), equal where no other id is in the bucket.

        OLMoE's vocabulary specialisation, N(e, x) / N(x): Muennighoff et al., "OLMoE: Open
        Mixture-of-Experts Language Models" (2024), section 5.

        Raises StudyError for an id that did not occur.
        """
        if not 0 <= id < len(self.seen) or not self.seen[id]:
            raise StudyError(f"token {id} did not occur among the {self.name} tokens")
        n, bucket = int(self.seen[id]), self.buckets[id]
        others = int(self.seen[self.buckets == bucket].sum()) - n
        here = self.counts[:, :, bucket].astype(np.int64)
        return np.maximum(here - others, 0) / n, np.minimum(here, n) / n

    def specialisation(self, least: int = LEAST) -> np.ndarray:
        """How well a token tells its expert: (layers,), nan without known ids.

        ``sum over x of max over e of N(e, x)`` over ``sum over x of N(x)``: the share of
        occurrences that go to the expert that most of the token's occurrences go to, weighted by
        occurrences. 1: every token has an expert that it always goes to. Compare it with the
        largest load of the layer, which is its value if tokens made no difference.

        After the vocabulary specialisation of Muennighoff et al. (2024), see :meth:`share`.
        """
        ids = self.known(least)
        total = self.seen[ids].sum()
        best = self.counts[:, :, self.buckets[ids]].max(axis=1)
        best = np.minimum(best, self.seen[ids]).sum(axis=-1)
        return best / total if total else np.full(len(self.layers), np.nan)

    def consistency(self, least: int = LEAST) -> tuple[np.ndarray, np.ndarray]:
        """How consistently each known id is routed: ids (m,) and (layers, m).

        ``sum over e of N(e, x) (N(e, x) - 1)`` over ``k N(x) (N(x) - 1)``: the share of experts
        that two occurrences of the token have in common, over all pairs of occurrences. 1: always
        the same k experts. In a bucket with other ids it is theirs, too, to a tenth at most.
        """
        ids = self.known(max(2, least))
        n = self.counts[:, :, self.buckets[ids]].astype(np.float64)
        occurrences = self._occurrences[self.buckets[ids]]
        pairs = (n * (n - 1)).sum(axis=1)
        return ids, pairs / (n.sum(axis=1) * (occurrences - 1))

    def top(self, layer: int, expert: int, n: int = 10, least: int = LEAST) -> list[dict]:
        """The known tokens most typical of an expert, as a list of dicts.

        ``id``, ``count`` (occurrences that went to the expert, at most; the bucket's others are a
        tenth at most), ``share`` (of its occurrences), ``lift`` (share over the expert's load).
        Ordered by count times the logarithm of lift, as :meth:`.RoutingData.top_tokens`.
        """
        ids, i = self.known(least), self.layers.index(layer)
        count = np.minimum(self.counts[i, expert, self.buckets[ids]], self.seen[ids])
        load = self.counts[i, expert].sum() / max(1, self._occurrences.sum())
        share = count / self.seen[ids]
        lift = share / load if load else np.zeros(len(ids))
        score = count * np.log2(np.maximum(lift, 1e-9))
        best = [j for j in np.lexsort((ids, -score))[:n] if count[j] and lift[j] > 1]
        return [
            {
                "id": int(ids[j]),
                "count": int(count[j]),
                "share": float(share[j]),
                "lift": float(lift[j]),
            }
            for j in best
        ]

    def among(self, ids) -> "Among":
        """How much every expert works on some tokens.

        They are counted where they make up :data:`PURE` of their buckets, or in all of their
        buckets where that is nowhere so: rare ids are hidden by frequent ones.

        Raises StudyError if none of them occurred.
        """
        ids = np.unique(np.asarray(ids, np.int64))
        here = np.bincount(self.buckets[ids], self.seen[ids], self.counts.shape[-1])
        if not (total := int(here.sum())):
            raise StudyError(f"none of these {len(ids)} tokens occurred")
        inside = (here > 0) & (here >= PURE * self._occurrences)
        inside = inside if inside.any() else here > 0
        counted = int(here[inside].sum())
        others = int(self._occurrences[inside].sum()) - counted
        # By the layer, and by a product: seven times as fast as picking many buckets of all.
        picked = inside.astype(np.uint32)
        there = np.stack([(layer * picked).sum(axis=-1, dtype=np.int64) for layer in self.counts])
        count = np.maximum(there - others, 0)
        share = count / counted
        lift = np.divide(share, self._load, where=self._load > 0, out=np.zeros(share.shape))
        return Among(count, share, lift, counted / total)

    @cached_property
    def _load(self) -> np.ndarray:
        return self.counts.sum(axis=-1, dtype=np.int64) / max(1, int(self.seen.sum()))

    def experts(self, ids, n: int = 10) -> list[dict]:
        """The experts that work on some tokens more than on others, as a list of dicts.

        ``layer``, ``expert``, ``count``, ``share`` and ``lift`` as of :class:`Among`, ordered by
        count times the logarithm of lift.

        Raises StudyError if none of them occurred.
        """
        return self.best(self.among(ids), n)

    def best(self, among: "Among", n: int) -> list[dict]:
        """The first ``n`` rows of :meth:`experts`, of what :meth:`among` gives."""
        count, share, lift = among.count, among.share, among.lift
        score = count * np.log2(np.maximum(lift, 1e-9))
        best = np.argsort(-score, axis=None, kind="stable")[:n]
        rows = zip(*np.unravel_index(best, score.shape))
        return [
            {
                "layer": self.layers[i],
                "expert": int(e),
                "count": int(count[i, e]),
                "share": float(share[i, e]),
                "lift": float(lift[i, e]),
            }
            for i, e in rows
            if score[i, e] > 0
        ]
