"""Measures of what an atlas counted: loads, pairs of experts, norms, prediction."""

import numpy as np

from ...errors import StudyError
from ...tracing.data.groups import Groups
from ...tracing.data.ranges import ranges
from ...tracing.data.specialisation import Specialisation
from .counts import GROUPINGS, UNIT, Counts
from .labels import number_of
from .vocabulary import Vocabulary


class Measures:
    """What follows from the counts alone; the base of :class:`.atlas.Atlas`.

    Attributes:
        counts: the sums that everything is computed from.
        scale: (layers, E) float32 learned scale of each expert, or None.
    """

    counts: Counts
    scale: np.ndarray | None

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the layers, in the order of every array's first axis."""
        return self.counts.subject.layers

    @property
    def labels(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return self.counts.labels

    @property
    def tokens(self) -> int:
        """Tokens that were counted."""
        return int(self.counts["tokens"].sum())

    def at(self, layer: int) -> int:
        """Place of a layer among :attr:`layers`. Raises StudyError for one that is not there."""
        if layer not in self.layers:
            raise StudyError(f"layer {layer} is not in this atlas, which has {ranges(self.layers)}")
        return self.layers.index(layer)

    def expert_at(self, expert: int) -> int:
        """The same, if there is such an expert. Raises StudyError if not."""
        if not 0 <= expert < self.counts.subject.num_experts:
            last = self.counts.subject.num_experts - 1
            raise StudyError(f"expert {expert}: there are experts 0 to {last}")
        return int(expert)

    # Load and labels

    def load(self, label: str | None = None) -> np.ndarray:
        """Share of the tokens (of a label) that went to each expert: (layers, E). A row sums to k.

        Of a label it is OLMoE's domain specialisation, N(e, D) / N(D): Muennighoff et al., "OLMoE:
        Open Mixture-of-Experts Language Models" (2024), section 5.

        Raises StudyError for a label that does not exist, and one without documents.
        """
        if label is None:
            return _share(self.counts.all_counts, self.tokens, "this atlas")
        g = number_of(label, self.labels)
        return _share(self.counts["counts"][g], int(self.counts["tokens"][g]), repr(label))

    def by(self, grouping: str) -> Specialisation:
        """Counts, loads and lifts of the experts by "label", or by the "position", "role" or "kind"
        of tokens; groups without tokens have loads of nan.

        Raises StudyError for another grouping.
        """
        if grouping == "label":
            names, tokens, counts = self.labels, self.counts["tokens"], self.counts["counts"]
            counts = counts.swapaxes(0, 1)
        elif grouping in GROUPINGS:
            names, tokens = GROUPINGS[grouping], self.counts[f"{grouping}_tokens"]
            counts = self.counts[f"{grouping}_counts"]
        else:
            known = ", ".join(("label", *GROUPINGS))
            raise StudyError(f"no grouping {grouping!r}; there are {known}")
        some = np.flatnonzero(tokens)
        names = tuple(names[i] for i in some)
        groups = Groups(grouping, names, np.zeros(0, np.uint8), tokens[some])
        return Specialisation(self.layers, groups, counts[:, some])

    def entropy(self, label: str | None = None) -> np.ndarray:
        """Entropy of each layer's load in bits, ``-sum p log2 p`` with ``p = load / k``: (layers,).

        log2(E) where all experts are used alike, log2(k) where only k are (Shannon, 1948).

        Raises StudyError as :meth:`load`.
        """
        p = self.load(label) / self.counts.subject.k
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)

    def evenness(self, label: str | None = None) -> np.ndarray:
        """Entropy over its maximum, log2(E): (layers,), 1 where all experts are used alike.

        Pielou, "The Measurement of Diversity in Different Types of Biological Collections" (1966).

        Raises StudyError as :meth:`load`.
        """
        return self.entropy(label) / np.log2(max(2, self.counts.subject.num_experts))

    # Pairs

    def coactivation(self, layer: int) -> np.ndarray:
        """Share of an expert's tokens that went to another one of its layer as well: (E, E), the
        former first, N(a, b) / N(a); nan for experts without tokens, 1 on the diagonal.

        Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models" (2024), section 5.

        Raises StudyError for a layer that is not in the atlas.
        """
        together = self.counts["together"][self.at(layer)]
        return _ratio(together, np.diag(together)[:, None])

    def paths(self, layer: int) -> np.ndarray:
        """Share of an expert's tokens that went to each expert of the next layer: (E, E), the
        former first; a row sums to k.

        N(a in this layer, b in the next) / N(a); nan for experts without tokens.

        Raises StudyError for a layer that is not in the atlas, and for the last one.
        """
        i = self.at(layer)
        if i + 1 == len(self.layers):
            raise StudyError(f"layer {layer} is the last one: no path leads on from it")
        return _ratio(self.counts["paths"][i], self.counts.all_counts[i][:, None])

    # Norms

    def norm(self) -> np.ndarray:
        """Mean Euclidean norm of what an expert puts out for a token, before it is weighted:
        (layers, E); nan for experts without tokens.

        The mean activation norm of Liu et al., "How to Score Experts for One-Shot MoE Expert
        Pruning" (2026).

        Raises StudyError if norms were not recorded.
        """
        return _ratio(self._normed("norms") / UNIT, self.counts["normed"])

    def reap(self, scaled: bool = True) -> np.ndarray:
        """Mean of an expert's weight times the norm of its output, over its tokens: (layers, E).

        What the model would lose with the expert. ``scaled``: the weight that the model multiplies
        by; else without the learned ``per_expert_scale``, the gate's share alone (nan for a scale
        of 0). nan for experts without tokens.

        Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (2025).

        Raises StudyError if norms, or what ``scaled=False`` needs, were not recorded.
        """
        mean = _ratio(self._normed("weighted_norms") / UNIT, self.counts["normed"])
        if scaled:
            return mean
        if self.scale is None:
            raise StudyError("the learned scale of the experts was not recorded")
        return _ratio(mean, self.scale.astype(np.float64))

    def super_experts(self, percentile: float = 99.5, part: float = 0.1) -> list[tuple[int, int]]:
        """Experts with extreme outputs, as (layer, expert), largest first.

        Those whose largest output is above the percentile of all experts' largest outputs and above
        ``part`` of the very largest. After Su et al., "Unveiling Super Experts in
        Mixture-of-Experts Large Language Models" (2025), with the norm of an output in place of its
        largest entry.

        Raises StudyError if norms were not recorded.
        """
        self._normed("norms")
        largest = self.counts["largest_norm"]
        used = largest[largest > 0]
        if not used.size:
            return []
        extreme = (largest > np.percentile(used, percentile)) & (largest > part * used.max())
        order = np.argsort(-largest, axis=None, kind="stable")[: int(extreme.sum())]
        return [(self.layers[i], int(e)) for i, e in zip(*np.unravel_index(order, largest.shape))]

    def _normed(self, name: str) -> np.ndarray:
        if not self.counts["normed"].any():
            raise StudyError("norms were not recorded: trace with g4.RoutingPlan(norms=True)")
        return self.counts[name]

    # Prediction

    def early_recall(self, m: int | None = None) -> np.ndarray:
        """How early a layer's experts are known: (steps,), from each layer to the next.

        The share of the next layer's experts that are among the ``m`` best (None: k) when its
        router reads the stream that this layer's router reads. Guessing gives m / E. This is what
        fetching experts ahead of time can count on: Eliseev and Mazur, "Fast Inference of
        Mixture-of-Experts Language Models with Offloading" (2023).

        Raises StudyError for less than one, and if it was not recorded.
        """
        m = self.counts.subject.k if m is None else m
        if m < 1:
            raise StudyError(f"recall among the {m} best experts; give a number from 1 on")
        early = self.counts["early"]
        if not early.any():
            raise StudyError("early routing was not recorded: gemma4_mlx.atlas records it")
        return early[:, :m].sum(axis=1) / early.sum(axis=1)

    def vocabulary(self, name: str = "input") -> Vocabulary:
        """The tokens of every expert: those it reads ("input"), those that follow in the text
        ("next"), or those that the model finds likeliest there ("predicted", at a sample of
        places).

        Raises StudyError for another name.
        """
        return Vocabulary.of(self.counts, name)


def _share(counts: np.ndarray, tokens: int, whose: str) -> np.ndarray:
    if not tokens:
        raise StudyError(f"the load of no tokens is undefined: {whose} has no documents")
    return counts / tokens


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """nan where ``below`` is 0."""
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, where=below != 0, out=np.full(shape, np.nan))
