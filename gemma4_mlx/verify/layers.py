"""Every mechanism of every layer, on the numbers that the model itself put in, against plain NumPy.

A :class:`Probe` observes a run of the model as it is: its device, its type, its caches. When a
layer is done, each mechanism's result is compared with what :mod:`.plain` makes of that
mechanism's own input, for some of the positions; then the layer's values are let go. So an error
is found where it is made, and memory holds one layer.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from . import plain
from .plain import exactly
from .report import LIMIT, Finding
from .weights import Weights

#: Positions compared in a long call.
ROWS = 48
#: What is kept until a layer is done.
TAPS = (
    "layer_input", "attention_input", "queries", "keys", "values", "head_outputs",
    "attention_output", "attention_residual", "mlp_output", "router_logits", "expert_indices",
    "expert_weights", "expert_outputs", "moe_output", "feedforward_output", "per_layer_input",
    "per_layer_output", "layer_output",
)  # fmt: skip
#: Those with positions on their third axis; all others have them on their second.
_BY_HEAD = ("queries", "head_outputs")


class Probe:
    """An observer; :attr:`findings` grows layer by layer.

    ``part`` names the run in the findings; ``dtype`` is the model's.
    """

    def __init__(self, model, weights: Weights, part: str, dtype: str):
        self.config, self.weights, self.part = model.config.text, weights, part
        self.round, self.unit, self.wide = plain.rounding(dtype), plain.UNIT[dtype], weights.wide
        self.findings: list[Finding] = []
        self._seen: dict[str, np.ndarray] = {}
        self._unpacked: dict[str, np.ndarray] = {}
        self._geometry = self._rows = self._blocks = None

    def __call__(self, name, layer, value, geometry) -> None:
        if geometry is not None and name == "layer_input":
            self._geometry, n = geometry, geometry.n
            self._rows = np.unique(np.linspace(0, n - 1, min(n, ROWS)).round().astype(int))
            blocks = geometry.blocks
            self._blocks = None if blocks is None else np.array(blocks)[0]
        if layer is not None and name in TAPS:
            self._seen[name] = self._kept(name, value)
            if name == "layer_output":
                self._compare(layer)
                self._seen, self._unpacked = {}, {}

    def _kept(self, name: str, value: mx.array) -> np.ndarray:
        with mx.stream(mx.cpu):
            if name in _BY_HEAD:
                value = value[:, :, mx.array(self._rows)]
            elif name not in ("keys", "values"):
                value = value[:, mx.array(self._rows)]
            if mx.issubdtype(value.dtype, mx.floating):
                value = value.astype(mx.float32)
            value = np.array(value[0])
        return value.astype(self.wide) if value.dtype == np.float32 else value

    # Comparing

    def _check(self, layer: int, mechanism: str, got: str, make: Callable, axis: int = 0) -> None:
        """``make(round)`` against the tap ``got``; ``axis``: where that has its positions."""
        fast = self._seen[got]
        with np.errstate(all="ignore"):
            true, rounded = make(exactly), make(self.round)
            rows = [np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in
                    (fast, true, rounded)]  # fmt: skip
            self.findings.append(compared(*rows, self.unit, self.part, layer, mechanism))

    def _fault(self, layer: int, mechanism: str, note: str, fine: bool = False) -> None:
        self.findings.append(Finding(self.part, layer, mechanism, note=note, fine=fine))

    def _compare(self, layer: int) -> None:
        seen = self._seen
        if not np.isfinite(seen["layer_input"]).all():
            return  # named where it arose
        self._at, self._unpacked = f"language_model.model.layers.{layer}.", {}
        self.weights.hold(self._at)
        self._attention(layer)
        self._feed_forward(layer)
        x = seen["attention_residual"] + seen["feedforward_output"]
        if "per_layer_output" in seen:
            x = x + self._per_layer(layer, x)
        scalar = self.weights(self._at + "layer_scalar")
        self._check(layer, "layer_scalar", "layer_output", lambda r: r(r(x) * scalar))

    def _w(self, name: str, expert: int | None = None) -> np.ndarray:
        """One of the layer's matrices, unpacked once; an expert's each time."""
        path = f"{self._at}{name}.weight"
        if expert is not None:
            return self.weights(path, expert)
        if name not in self._unpacked:
            self._unpacked[name] = self.weights(path)
        return self._unpacked[name]

    def _attention(self, layer: int) -> None:
        text, seen, g = self.config, self._seen, self._geometry
        eps, full, D = text.rms_norm_eps, text.is_full(layer), text.head_dim_of(layer)
        rope, heads = text.rope[text.layer_types[layer]], text.num_attention_heads
        kv_heads, h = text.kv_heads_of(layer), seen["attention_input"]
        here = g.query_start + self._rows

        def projected(name, count, r):
            return plain.linear(h, self._w(f"self_attn.{name}"), r).reshape(len(h), count, D)

        def turned(name, normed, count, r):
            x = plain.norm(projected(name, count, r), self._w(f"self_attn.{normed}"), eps, r)
            return plain.rotary(x.swapaxes(0, 1), here, rope, r)

        entering = seen["layer_input"]
        self._check(layer, "input_layernorm", "attention_input",
                    lambda r: plain.norm(entering, self._w("input_layernorm"), eps, r))  # fmt: skip
        self._check(layer, "queries", "queries",
                    lambda r: turned("q_proj", "q_norm", heads, r), axis=1)  # fmt: skip
        # The model's own positions of keys; what it should have is worked out from the window.
        window = None if full else text.sliding_window
        k, v = seen["keys"], seen["values"]
        m = k.shape[1]
        first = g.query_start + g.n - m
        needed = 0 if window is None else max(0, g.query_start - window + 1)
        if first > needed:
            self._fault(layer, "cache", f"keys from {first} on, the window needs {needed}")
        if layer < text.first_kv_shared_layer:
            own = here - first
            seen["new keys"], seen["new values"] = k[:, own], v[:, own]
            values = "k_proj" if text.k_eq_v(layer) else "v_proj"
            self._check(layer, "keys", "new keys",
                        lambda r: turned("k_proj", "k_norm", kv_heads, r), axis=1)  # fmt: skip
            self._check(layer, "values", "new values",
                        lambda r: plain.norm(projected(values, kv_heads, r), None, eps, r)
                        .swapaxes(0, 1), axis=1)  # fmt: skip
        visible = self._visible(here, np.arange(first, first + m), window)
        q = seen["queries"]
        self._check(layer, "attention", "head_outputs",
                    lambda r: plain.attention(q, k, v, visible, r), axis=1)  # fmt: skip
        joined = seen["head_outputs"].swapaxes(0, 1).reshape(len(h), -1)
        self._check(layer, "o_proj", "attention_output",
                    lambda r: plain.norm(plain.linear(joined, self._w("self_attn.o_proj"), r),
                                         self._w("post_attention_layernorm"), eps, r))  # fmt: skip
        self._check(layer, "residual", "attention_residual",
                    lambda r: r(entering + seen["attention_output"]))  # fmt: skip

    def _visible(self, queries: np.ndarray, keys: np.ndarray, window: int | None) -> np.ndarray:
        i, j = queries[:, None], keys[None]
        seen = j <= i
        if window is None:
            return seen
        if self._blocks is not None:
            start = self._geometry.query_start
            blocks = np.full(int(keys[-1]) + 1, -1)
            blocks[start : start + len(self._blocks)] = self._blocks
            seen = seen | ((blocks[i] == blocks[j]) & (blocks[i] >= 0))
        return seen & (j > i - window)

    def _feed_forward(self, layer: int) -> None:
        seen, eps, moe = self._seen, self.config.rms_norm_eps, self.config.enable_moe_block
        x = seen["attention_residual"]

        def dense(r):
            h = plain.norm(x, self._w("pre_feedforward_layernorm"), eps, r)
            gate, up, down = (self._w(f"mlp.{name}_proj") for name in ("gate", "up", "down"))
            after = "post_feedforward_layernorm" + ("_1" if moe else "")
            return plain.norm(plain.gated(h, gate, up, down, r), self._w(after), eps, r)

        self._check(layer, "mlp", "mlp_output", dense)
        if not moe:
            return
        self._router(layer, x)
        self._experts(layer, plain.norm(x, self._w("pre_feedforward_layernorm_2"), eps, self.round))
        chosen, share = seen["expert_outputs"], seen["expert_weights"][..., None]

        def summed(r):
            y = r((r(chosen * share)).sum(-2))
            return plain.norm(y, self._w("post_feedforward_layernorm_2"), eps, r)

        self._check(layer, "expert sum", "moe_output", summed)
        both = seen["mlp_output"] + seen["moe_output"]
        self._check(layer, "feed-forward sum", "feedforward_output",
                    lambda r: plain.norm(r(both), self._w("post_feedforward_layernorm"),
                                         eps, r))  # fmt: skip

    def _router(self, layer: int, x: np.ndarray) -> None:
        text, seen = self.config, self._seen
        scale = self.weights(self._at + "router.scale")

        def scores(r):
            z = r(r(plain.norm(x, None, text.rms_norm_eps, r) * scale) * text.hidden_size**-0.5)
            return plain.linear(z, self._w("router.proj"), r)

        self._check(layer, "router", "router_logits", scores)
        logits, chosen = seen["router_logits"], seen["expert_indices"].astype(int)
        picked = np.take_along_axis(logits, chosen, -1)
        others = logits.copy()
        np.put_along_axis(others, chosen, -np.inf, -1)
        best = (picked.min(-1) >= others.max(-1)).all()
        different = (np.diff(np.sort(chosen, -1), axis=-1) > 0).all()
        right = bool(best and different)
        note = "" if right else f"not the {text.top_k_experts} of the highest scores"
        self._fault(layer, "choice of experts", note, fine=right)
        each = self.weights(self._at + "router.per_expert_scale")[chosen]
        self._check(layer, "expert weights", "expert_weights",
                    lambda r: r(plain.softmax(picked) * each))  # fmt: skip

    def _experts(self, layer: int, h: np.ndarray) -> None:
        """Expert by expert, so that one's float32 weights are in memory."""
        chosen = self._seen["expert_indices"].astype(int)
        names = [f"experts.switch_glu.{name}_proj" for name in ("gate", "up", "down")]
        true, rounded = (np.zeros((*chosen.shape, h.shape[-1]), self.wide) for _ in range(2))
        for expert in np.unique(chosen):
            rows, places = np.nonzero(chosen == expert)
            matrices = [self._w(name, int(expert)) for name in names]
            for out, r in ((true, exactly), (rounded, self.round)):
                out[rows, places] = plain.gated(h[rows], *matrices, r)
        made = {True: true, False: rounded}
        self._check(layer, "experts", "expert_outputs", lambda r: made[r is exactly])

    def _per_layer(self, layer: int, x: np.ndarray) -> np.ndarray:
        own, eps = self._seen["per_layer_input"], self.config.rms_norm_eps

        def added(r):
            gate = r(plain.gelu(plain.linear(r(x), self._w("per_layer_input_gate"), r)))
            y = plain.linear(r(gate * own), self._w("per_layer_projection"), r)
            return plain.norm(y, self._w("post_per_layer_input_norm"), eps, r)

        self._check(layer, "per-layer embedding", "per_layer_output", added)
        return self._seen["per_layer_output"]


def compared(fast, true, rounded, unit, part, layer, mechanism) -> Finding:
    """Rows (n, d) that the model made, the truth and the truth rounded: the worst row's error.

    Errors are root mean squares over a row, relative to the row; what rounding explains is at
    least a few of the type's units, and at least a typical row's.
    """
    if not np.isfinite(fast).all():
        return Finding(part, layer, mechanism, note="values that are no numbers")
    if not np.isfinite(true).all():
        return Finding(part, layer, mechanism, note="the weights give no numbers")
    size = np.sqrt((true**2).mean(-1)) + 1e-30
    error = np.sqrt(((fast - true) ** 2).mean(-1)) / size
    explained = np.sqrt(((rounded - true) ** 2).mean(-1)) / size
    explained = np.maximum(explained, np.median(explained)) + 4 * unit
    worst = int((error / explained).argmax())
    return Finding(
        part, layer, mechanism, float(error[worst]), float(explained[worst]),
        fine=bool(error[worst] <= LIMIT * explained[worst]),
    )  # fmt: skip
