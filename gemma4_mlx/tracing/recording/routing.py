"""Records routing: chosen experts, their weights, and what else a plan asks for."""

import mlx.core as mx
import numpy as np

from ...model import ops
from ..data.routing import RoutingData
from ..data.tokens import Tokens
from .plans import RoutingPlan

#: Bytes of a layer's expert outputs from which on what needs them is computed at once.
HELD = 4 * 2**20


class RoutingRecorder:
    """Chosen experts and their weights; if asked for, the norms of their outputs and all
    probabilities. ``scale``: of :func:`expert_scales`, if it is known."""

    def __init__(self, model, plan: RoutingPlan, scale: np.ndarray | None = None):
        self.layers = plan.chosen_layers(model)
        self.num_experts = model.config.text.num_experts
        self.scale = expert_scales(model, self.layers) if scale is None else scale
        self.TAPS = ("expert_indices", "expert_weights")
        if plan.norms:
            self.TAPS += ("expert_outputs",)
        if plan.probabilities:
            self.TAPS += ("router_probabilities",)
        self._calls: list[dict] = []  # per call {tap: {layer: array}}
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in self.TAPS}

    def begin(self) -> None:
        self._calls.append({name: {} for name in self.TAPS})

    def observe(self, name, layer, value) -> None:
        if layer in self.layers:
            if name == "expert_outputs":
                value = _norms(value)
            self._calls[-1][name][layer] = value

    def settle(self) -> None:
        whole = len(self.layers)
        calls = [c for c in self._calls if all(len(found) == whole for found in c.values())]
        self._calls = []
        if not calls:
            return
        arrays = {}  # each (layers, tokens, k): one conversion for all that waited
        for name in self.TAPS:
            tokens = [mx.concatenate([c[name][i] for c in calls], axis=1) for i in self.layers]
            arrays[name] = np.array(mx.concatenate(tokens).astype(_WIDE[name]))
        order = np.argsort(-arrays["expert_weights"], axis=-1, kind="stable")
        for name in RANKED & arrays.keys():
            arrays[name] = np.take_along_axis(arrays[name], order, axis=-1)
        id_type = np.uint8 if self.num_experts <= 256 else np.uint16
        arrays["expert_indices"] = arrays["expert_indices"].astype(id_type)
        for name, array in arrays.items():
            self._chunks[name].append(array)

    def step_back(self, position: int) -> None:
        """Forget all but the first ``position`` tokens and the call that has just begun."""
        current = self._calls.pop()
        self.settle()
        for name, parts in self._chunks.items():
            whole = np.concatenate(parts, axis=1)[:, :position]
            self._chunks[name] = [whole]
        self._calls = [current]

    def result(self, tokens: Tokens) -> RoutingData:
        joined = {name: np.concatenate(parts, axis=1) for name, parts in self._chunks.items()}
        return RoutingData(
            self.layers,
            joined["expert_indices"],
            joined["expert_weights"],
            self.num_experts,
            tokens,
            joined.get("router_probabilities"),
            self.scale,
            joined.get("expert_outputs"),
        )


def _norms(outputs: mx.array) -> mx.array:
    """Each chosen expert's output (1, n, k, H) -> its Euclidean norm (1, n, k), float32.

    A long prompt's is begun at once: the outputs of all layers would otherwise wait for it
    together.
    """
    norms = mx.linalg.norm(outputs.astype(mx.float32), axis=-1)
    if outputs.nbytes > HELD:
        ops.begun(norms)
    return norms


def expert_scales(model, layers) -> np.ndarray:
    """The learned scale of every expert: (layers, E) float32."""
    scales = [model.layers[i].router.per_expert_scale.astype(mx.float32) for i in layers]
    return np.stack([np.array(scale) for scale in scales])


#: Taps whose last axis goes over a token's k experts.
RANKED = {"expert_indices", "expert_weights", "expert_outputs"}
_WIDE = {
    "expert_indices": mx.uint32,
    "expert_weights": mx.float32,
    "expert_outputs": mx.float32,
    "router_probabilities": mx.float32,
}
