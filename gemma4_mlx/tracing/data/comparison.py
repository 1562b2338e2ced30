"""A permutation test of whether two pieces of text use different experts.

For each (layer, expert), the load in A minus the load in B is compared with the differences that
result when tokens are assigned to A and B at random. Tokens keep their experts, and blocks of
neighbouring tokens are assigned together, because neighbours are not independent: a test that
shuffled single tokens would call ordinary texts different far too often.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import TraceError
from .ranges import ranges
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
    """The error for traces of different models; ``mine``, ``theirs``: their ``Trace.model``."""
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
    progress: Callable[[float], None] | None = None,
) -> RoutingComparison:
    """Compare the routing of two traces of one model (or of two spans of one trace).

    ``a``, ``b``: the traces, or the ``routing`` of each. ``tokens_a``, ``tokens_b``: masks, indices
    or slices, None for all tokens. ``block``: tokens that are assigned together. The
    smallest p-value possible is 1 / (permutations + 1). ``progress`` is told the share done.

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
            f"token, layers {ranges(a.layers)} against {b.num_experts}, {b.k}, {ranges(b.layers)}"
        )
    chosen = [_chosen(a, tokens_a), _chosen(b, tokens_b)]
    sizes = [_block_sizes(experts.shape[1], block) for experts in chosen]
    side = np.repeat([False, True], [len(part) for part in sizes])
    rng = np.random.default_rng(seed)
    # Row 0 is the traces as they are, each other row one relabelling: which blocks are B's.
    labels = np.stack([side, *(rng.permutation(side) for _ in range(permutations))])
    sizes = np.concatenate(sizes)
    in_b = labels.astype(np.float32)
    all_b = labels @ sizes.astype(np.float64)
    all_a = sizes.sum() - all_b

    loads, largest, whole = [], np.zeros(len(labels)), np.zeros(len(labels))
    for i in range(len(a.layers)):
        counts = np.concatenate([_block_counts(e[i], block, a.num_experts) for e in chosen])
        # Whole numbers below 2^24, so that the products are exact in float32.
        count_b = (in_b @ counts).astype(np.float64)
        load_b = count_b / all_b[:, None]
        load_a = (counts.sum(axis=0, dtype=np.float64) - count_b) / all_a[:, None]
        gap = np.abs(load_a - load_b)
        largest = np.maximum(largest, gap.max(axis=1))
        whole += gap.sum(axis=1)
        loads.append((load_a[0], load_b[0]))
        if progress is not None:
            progress((i + 1) / len(a.layers))
    load_a, load_b = (np.stack(load) for load in zip(*loads))
    observed = np.abs(load_a - load_b)
    slack = 1e-12
    ranked = np.sort(largest[1:])  # how many of the largest gaps reach each observed one
    exceeds = permutations - np.searchsorted(ranked, observed - slack)
    return RoutingComparison(
        layers=a.layers,
        load_a=load_a,
        load_b=load_b,
        difference=load_a - load_b,
        p_values=(exceeds + 1) / (permutations + 1),
        distance=observed.sum(axis=1) / (2 * a.k),
        p_value=float(((whole[1:] >= whole[0] - slack).sum() + 1) / (permutations + 1)),
        permutations=permutations,
        block=block,
    )


def _chosen(routing: RoutingData, tokens) -> np.ndarray:
    """Experts of the tokens to compare: (layers, tokens, k)."""
    if tokens is None:
        return routing.experts
    return routing.experts[:, _mask(tokens, routing.n)]


def _block_sizes(n: int, block: int) -> np.ndarray:
    """Tokens of every block; the last may be shorter."""
    if n <= block:
        raise TraceError(
            f"{n} tokens make {-(-n // block)} blocks of {block}: a permutation test needs at "
            "least two on each side; take longer texts or a smaller block"
        )
    return np.diff(np.minimum(np.arange(0, n + block, block), n))


def _block_counts(experts: np.ndarray, block: int, num_experts: int) -> np.ndarray:
    """How often each expert was chosen in each block, (blocks, E) float32, from (n, k)."""
    where = np.arange(len(experts))[:, None] // block * num_experts + experts
    blocks = -(-len(experts) // block)
    counts = np.bincount(where.ravel(), minlength=blocks * num_experts)
    return counts.reshape(blocks, num_experts).astype(np.float32)
