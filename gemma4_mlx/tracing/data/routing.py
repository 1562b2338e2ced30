"""Which experts the tokens of a trace went to, and statistics of that.

Arrays have the axes (layer, token, k): k experts for each token, strongest first. Layers are
addressed by the model's layer index.
"""

from functools import cached_property

import numpy as np

from ...errors import TraceError
from .tokens import Tokens


class RoutingData:
    """The routing of a trace.

    Attributes:
        layers: traced layers
        experts: (layers, n, k) uint8 (uint16 above 256 experts), strongest first
        weights: (layers, n, k) float32, by which each expert's output was multiplied: its share
            of the gate (:meth:`gate`) times the expert's learned scale, so it can exceed 1
        probabilities: (layers, n, E) float32 softmax over all experts, or None
        scale: (layers, E) float32 learned scale of each expert, or None where it was not recorded
        norms: (layers, n, k) float32 Euclidean norm of each chosen expert's output before it is
            multiplied by its weight, or None
        num_experts: E
    """

    def __init__(
        self,
        layers,
        experts,
        weights,
        num_experts,
        tokens: Tokens,
        probabilities=None,
        scale=None,
        norms=None,
    ):
        self.layers = tuple(int(i) for i in layers)
        self.experts, self.weights, self.probabilities = experts, weights, probabilities
        self.scale, self.norms = scale, norms
        self.num_experts = int(num_experts)
        self.tokens = tokens

    @property
    def n(self) -> int:
        return self.experts.shape[1]

    @property
    def k(self) -> int:
        """Experts per token."""
        return self.experts.shape[2]

    def _at(self, layer: int) -> int:
        if layer not in self.layers:
            known = ", ".join(map(str, self.layers))
            raise TraceError(f"layer {layer} has no routing in this trace; traced: {known}")
        return self.layers.index(layer)

    def _expert(self, expert: int) -> int:
        if not 0 <= expert < self.num_experts:
            raise TraceError(f"expert {expert}: there are experts 0 to {self.num_experts - 1}")
        return int(expert)

    def at(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """One layer's experts and weights, both (n, k).

        Raises TraceError for a layer that was not traced.
        """
        i = self._at(layer)
        return self.experts[i], self.weights[i]

    def gate(self, layer: int, tokens=None) -> np.ndarray:
        """Each chosen expert's share of the gate, (n, k) float32; a token's shares sum to 1.

        These are the router's probabilities of the k chosen experts, divided by their sum, before
        the learned scale of each expert. Where the scale was not recorded, the weights divided by
        their sum. ``tokens``: a slice or a mask.

        Raises TraceError for a layer that was not traced.
        """
        i, chosen = self._at(layer), slice(None) if tokens is None else tokens
        share = np.asarray(self.weights[i, chosen], np.float32)
        if self.scale is not None:
            scale = self.scale[i][self.experts[i, chosen]]
            share = np.divide(share, scale, where=scale != 0, out=np.zeros_like(share))
        total = share.sum(axis=-1, keepdims=True)
        return np.divide(share, total, where=total > 0, out=np.zeros_like(share))

    def load(self, layer: int | None = None, tokens=None) -> np.ndarray:
        """Share of tokens that each expert worked on: (layers, E), or (E,) for one layer.

        Widgets, exported pages and comparisons show this number as *load*. A row sums to k, for
        every token goes to k experts; evenly used experts have k / E.
        ``tokens``: a bool mask or indices.

        Raises TraceError for a layer that was not traced, and if ``tokens`` chooses none.
        """
        chosen = self.experts if layer is None else self.experts[self._at(layer)][None]
        chosen = chosen if tokens is None else chosen[:, _mask(tokens, self.n)]
        if not chosen.shape[1]:
            raise TraceError("the load of no tokens is undefined")
        share = expert_counts(chosen, self.num_experts) / chosen.shape[1]
        return share if layer is None else share[0]

    def entropy(self, layer: int | None = None):
        """Entropy of the load in bits, log2(E) for evenly used experts: (layers,) or a float.

        Raises TraceError for a layer that was not traced.
        """
        p = self.load(layer) / self.k
        bits = -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)
        return bits if layer is None else float(bits)

    def token_entropy(self, layer: int) -> np.ndarray:
        """Entropy of the router's distribution at every token, in bits: (n,).

        Over all experts if the probabilities were kept, else over the weights of the chosen k.

        Raises TraceError for a layer that was not traced.
        """
        i = self._at(layer)
        p = self.weights[i] if self.probabilities is None else self.probabilities[i]
        p = p / p.sum(axis=-1, keepdims=True)
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)

    def unused(self, layer: int) -> list[int]:
        """Experts that no token of this trace went to.

        Raises TraceError for a layer that was not traced.
        """
        return np.flatnonzero(self.load(layer) == 0).tolist()

    def coactivation(self, layer: int) -> np.ndarray:
        """Number of tokens that went to both of two experts: (E, E), on the diagonal to the one.

        Raises TraceError for a layer that was not traced.
        """
        chosen = self.experts[self._at(layer)]
        return pair_counts(chosen, chosen, self.num_experts)

    def paths(self, layer: int) -> np.ndarray:
        """Number of tokens that went to an expert of this layer and to one of the next traced
        layer: (E, E), the former first.

        Raises TraceError for a layer that was not traced, and for the last one.
        """
        i = self._at(layer)
        if i + 1 == len(self.layers):
            raise TraceError(f"no layer was traced behind layer {layer}")
        return pair_counts(self.experts[i], self.experts[i + 1], self.num_experts)

    def top_tokens(self, layer: int, expert: int, top: int = 10, order: str = "count") -> list:
        """The token texts that went to an expert, each once, as a list of dicts.

        ``text``, ``id`` (of its first occurrence), ``first`` (position of that), ``count`` (how
        often it went to the expert), ``share`` (``count`` over its occurrences), ``lift``
        (``share`` over the expert's load), ``gate`` (mean share of the gate when it did).
        ``order``: "count", or "lift" for texts typical of the expert (``count`` times the logarithm
        of ``lift``).

        Raises TraceError for a layer that was not traced, an expert that does not exist, and
        another order.
        """
        if order not in ("count", "lift"):
            raise TraceError(f"top tokens are ordered by 'count' or 'lift', not {order!r}")
        expert = self._expert(expert)
        chosen = self.experts[self._at(layer)] == expert
        here = chosen.any(axis=-1)
        if not here.any():
            return []
        codes, first, total = self._texts
        counts = np.bincount(codes[here], minlength=len(first))
        gate = np.bincount(codes[here], self.gate(layer, here)[chosen[here]], len(first))
        share = counts / total
        lift = share / here.mean()
        score = counts if order == "count" else counts * np.log2(np.maximum(lift, 1e-9))
        best = np.lexsort((-share, -score))[:top]
        return [
            {
                "text": self.tokens.texts[first[i]],
                "id": int(self.tokens.ids[first[i]]),
                "first": int(first[i]),
                "count": int(counts[i]),
                "share": float(share[i]),
                "lift": float(lift[i]),
                "gate": float(gate[i] / counts[i]),
            }
            for i in best
            if counts[i]
        ]

    @cached_property
    def _texts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each token's text as a number (n,), first occurrence and count of each text."""
        known: dict[str, int] = {}
        codes = np.fromiter((known.setdefault(t, len(known)) for t in self.tokens.texts), np.int64)
        first = np.unique(codes, return_index=True)[1]
        return codes, first, np.bincount(codes)

    def share_by_kind(self, layer: int) -> dict[str, np.ndarray]:
        """The load among the tokens of each kind (text, image, ...) in the trace: (E,) each.

        Raises TraceError for a layer that was not traced.
        """
        from .tokens import KINDS

        masks = {kind: self.tokens.of_kind(kind) for kind in KINDS}
        return {kind: self.load(layer, mask) for kind, mask in masks.items() if mask.any()}

    def specialisation(self, by="script"):
        """Which groups of tokens each expert prefers: a :class:`.specialisation.Specialisation` by
        "script", "kind", "part" or "role" of the tokens, or by :class:`.groups.Groups` of your own.

        Raises TraceError for another ``by``, and if a trace has no tokens.
        """
        from .groups import Groups, token_groups
        from .specialisation import Specialisation

        groups = by if isinstance(by, Groups) else token_groups(self.tokens, by)
        if not self.n:
            raise TraceError("the load of no tokens is undefined")
        E, G = self.num_experts, len(groups.names)
        row = groups.codes[:, None].astype(np.int64) * E
        counts = [np.bincount((row + c).ravel(), minlength=G * E) for c in self.experts]
        return Specialisation(self.layers, groups, np.stack(counts).reshape(-1, G, E))

    def mutual_information(self, labels, layer: int | None = None, tokens=None):
        """Mutual information of expert and label, in bits: (layers,) or a float.

        Each token counts once for each of its k experts. ``labels`` (n,): anything comparable,
        such as ``trace.tokens.roles``; or of the tokens chosen by ``tokens`` only. The value is
        at most log2 of the smaller number of labels or experts, and 0 for independence; a few
        tokens give a positive value by chance (about (labels - 1)(E - 1) / (2 n k ln 2) bits).

        Raises TraceError if there are not as many labels as tokens, for a layer that was not
        traced, and for tokens outside the trace.
        """
        rows = np.arange(self.n) if tokens is None else np.arange(self.n)[_mask(tokens, self.n)]
        labels = np.asarray(labels)
        if len(labels) != len(rows):
            raise TraceError(f"{len(labels)} labels for {len(rows)} tokens")
        names, codes = np.unique(labels, return_inverse=True)
        layers = self.layers if layer is None else (layer,)
        bits = np.array([self._information(codes, len(names), self._at(i), rows) for i in layers])
        return bits if layer is None else float(bits[0])

    def _information(self, codes, names: int, i: int, rows) -> float:
        chosen = self.experts[i][rows].astype(np.int64)
        flat = codes[:, None] * self.num_experts + chosen
        joint = np.bincount(flat.ravel(), minlength=names * self.num_experts)
        joint = joint.reshape(names, self.num_experts) / flat.size
        independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        seen = joint > 0
        return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())

    def to_dataframe(self, library: str = "pandas"):
        """One row for each (layer, token, rank): see :func:`.frames.routing_frame`.

        Raises TraceError if that library is not installed or not known.
        """
        from .frames import routing_frame

        return routing_frame(self, library)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays = {"experts": self.experts, "weights": self.weights}
        if self.probabilities is not None:
            arrays["probabilities"] = self.probabilities
        if self.scale is not None:
            arrays["scale"] = self.scale
        if self.norms is not None:
            arrays["norms"] = self.norms
        return arrays, {"layers": list(self.layers), "num_experts": self.num_experts}

    @classmethod
    def from_arrays(cls, arrays, meta, tokens: Tokens) -> "RoutingData":
        """From what a trace's file holds. Raises ValueError if the arrays do not belong together,
        or an expert is named that does not exist."""
        experts, weights, count = arrays["experts"], arrays["weights"], meta["num_experts"]
        if experts.ndim != 3 or experts.shape[:2] != (len(meta["layers"]), len(tokens)):
            raise ValueError(f"experts of shape {experts.shape} for {len(tokens)} tokens")
        if weights.shape != experts.shape:
            raise ValueError(f"weights of shape {weights.shape}, experts of {experts.shape}")
        if experts.size and not 0 <= experts.min() <= experts.max() < count:
            raise ValueError(f"expert {experts.max()} of {count}")
        scale = arrays.get("scale")
        if scale is not None and scale.shape != (len(meta["layers"]), count):
            raise ValueError(f"scales of shape {scale.shape} for {count} experts")
        norms = arrays.get("norms")
        if norms is not None and norms.shape != experts.shape:
            raise ValueError(f"norms of shape {norms.shape}, experts of {experts.shape}")
        return cls(
            meta["layers"],
            experts,
            weights,
            count,
            tokens,
            arrays.get("probabilities"),
            scale,
            norms,
        )


def expert_counts(chosen: np.ndarray, E: int) -> np.ndarray:
    """How many tokens of ``chosen`` (layers, n, k) went to each expert: (layers, E) int64."""
    return np.stack([np.bincount(c.ravel(), minlength=E) for c in chosen])


def pair_counts(a: np.ndarray, b: np.ndarray, E: int) -> np.ndarray:
    """How many tokens went to each expert of ``a`` and each of ``b``, both (n, k): (E, E)."""
    pairs = a.astype(np.int64)[:, :, None] * E + b[:, None, :]
    return np.bincount(pairs.ravel(), minlength=E * E).reshape(E, E)


def _mask(tokens, n: int) -> np.ndarray:
    """A bool mask, indices or a slice as a bool mask (n,)."""
    if isinstance(tokens, slice):
        tokens = np.arange(n)[tokens]
    tokens = np.asarray(tokens)
    if tokens.dtype == bool:
        if len(tokens) != n:
            raise TraceError(f"a mask of {len(tokens)} for {n} tokens")
        return tokens
    if tokens.size and (tokens.min() < -n or tokens.max() >= n):
        raise TraceError(f"tokens up to {tokens.max()} chosen of a trace of {n}")
    mask = np.zeros(n, bool)
    mask[tokens.astype(np.int64)] = True
    return mask
