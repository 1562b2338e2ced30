"""Do two pieces of text use different experts? Two traces' routing, with a permutation test.

The load of each (layer, expert) in A minus that in B is set against what relabelling the tokens
at random gives. A token keeps its experts and whole blocks of neighbouring tokens change sides
together, for neighbours are not independent: a test that shuffled single tokens would call
ordinary texts different far too often.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import TraceError
from .routing import RoutingData, _mask


@dataclass(frozen=True)
class RoutingComparison:
    """Load differences of two traces, A - B.

    ``difference`` (layers, E): load in A minus load in B. ``p_values`` (layers, E): share of
    random relabellings with a difference at least as large somewhere among all experts of all
    layers (the largest-statistic correction, so 0.05 holds for the whole table at once).
    ``distance`` (layers,): half the summed absolute difference, divided by k; 0 the same load, 1
    disjoint experts. ``p_value``: of the distance summed over layers.
    """

    layers: tuple[int, ...]
    load_a: np.ndarray
    load_b: np.ndarray
    difference: np.ndarray
    p_values: np.ndarray
    distance: np.ndarray
    p_value: float
    permutations: int
    block: int

    def significant(self, level: float = 0.05) -> list[dict]:
        """The experts whose load differs, largest difference first."""
        found = [
            {
                "layer": self.layers[i],
                "expert": int(e),
                "load_a": float(self.load_a[i, e]),
                "load_b": float(self.load_b[i, e]),
                "difference": float(self.difference[i, e]),
                "p_value": float(self.p_values[i, e]),
            }
            for i, e in zip(*np.nonzero(self.p_values <= level))
        ]
        return sorted(found, key=lambda row: -abs(row["difference"]))


def different_models(mine: dict, theirs: dict) -> TraceError:
    """The error for two traces whose ``model`` facts are of different models."""
    return TraceError(
        f"these traces are of different models: {mine.get('source')!r} and "
        f"{theirs.get('source')!r}; their experts have nothing in common"
    )


def compare_routing(
    a,
    b,
    tokens_a=None,
    tokens_b=None,
    permutations: int = 999,
    block: int = 16,
    seed: int = 0,
) -> RoutingComparison:
    """Compare the routing of two traces of one model (or of two spans of one trace).

    ``a``, ``b``: the traces, or the ``routing`` of each. ``tokens_a``, ``tokens_b``: masks, indices
    or slices, None for all tokens. ``block``: neighbouring tokens that change sides together. The
    smallest p-value possible is 1 / (permutations + 1).

    Raises TraceError for what has no routing, for traces of models that differ, for texts of fewer
    than two blocks each, and for fewer than one permutation or token of a block.
    """
    mine, theirs = getattr(a, "model", None), getattr(b, "model", None)
    a, b = getattr(a, "routing", a), getattr(b, "routing", b)
    if not isinstance(a, RoutingData) or not isinstance(b, RoutingData):
        raise TraceError(
            "two traces with routing are compared; a trace without routing cannot be, nor a path "
            "(open_trace reads one)"
        )
    if mine and theirs and mine.get("fingerprint") != theirs.get("fingerprint"):
        raise different_models(mine, theirs)
    if block < 1 or permutations < 1:
        raise TraceError(f"{permutations} permutations of blocks of {block} tokens test nothing")
    if (a.num_experts, a.layers, a.k) != (b.num_experts, b.layers, b.k):
        raise TraceError(
            f"these traces are of different models or layers: {a.num_experts} experts, {a.k} a "
            f"token, layers {a.layers} against {b.num_experts}, {b.k}, {b.layers}"
        )
    counts, sizes, side = [], [], []
    for which, routing, chosen in ((0, a, tokens_a), (1, b, tokens_b)):
        mask = np.ones(routing.n, bool) if chosen is None else _mask(chosen, routing.n)
        experts = routing.experts[:, mask]
        cuts = range(0, experts.shape[1], block)
        if len(cuts) < 2:
            raise TraceError(
                f"{experts.shape[1]} tokens make {len(cuts)} blocks of {block}: a permutation "
                "test needs at least two on each side; take longer texts or a smaller block"
            )
        for start in cuts:
            part = experts[:, start : start + block]
            counts.append(np.stack([np.bincount(c.ravel(), minlength=a.num_experts) for c in part]))
            sizes.append(part.shape[1])
            side.append(which)
    counts, sizes = np.stack(counts).astype(np.float64), np.array(sizes, np.float64)
    side = np.array(side, bool)
    flat = counts.reshape(len(counts), -1)

    def difference(is_b):
        load_a = flat[~is_b].sum(0) / sizes[~is_b].sum()
        load_b = flat[is_b].sum(0) / sizes[is_b].sum()
        return load_a, load_b

    load_a, load_b = difference(side)
    observed = np.abs(load_a - load_b)
    rng = np.random.default_rng(seed)
    largest, whole = np.empty(permutations), np.empty(permutations)
    for t in range(permutations):
        one, other = difference(rng.permutation(side))
        gap = np.abs(one - other)
        largest[t], whole[t] = gap.max(), gap.sum()
    slack = 1e-12
    exceeds = (largest[:, None] >= observed[None] - slack).sum(0)
    shape = (len(a.layers), a.num_experts)
    return RoutingComparison(
        layers=a.layers,
        load_a=load_a.reshape(shape),
        load_b=load_b.reshape(shape),
        difference=(load_a - load_b).reshape(shape),
        p_values=((exceeds + 1) / (permutations + 1)).reshape(shape),
        distance=observed.reshape(shape).sum(1) / (2 * a.k),
        p_value=float(((whole >= observed.sum() - slack).sum() + 1) / (permutations + 1)),
        permutations=permutations,
        block=block,
    )
