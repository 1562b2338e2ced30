"""The whole model against itself: what must come out alike, however the tokens are given.

How much two sound runs may differ is measured, not assumed: what every layer computes is disturbed
by its type's rounding, and what that does to the logits is what rounding explains.
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ..model import ops
from ..model.attention import dequantized
from . import plain
from .layers import Probe, compared
from .plain import exactly
from .report import Finding
from .weights import Weights

#: A kernel may go wrong past some length; Metal's one-query kernel splits the keys from 1,024 on.
LENGTH = 1200
_LAST = 16  # positions whose logits are compared
#: What a layer rounds: what becomes of the disturbance of these is what rounding explains.
_ROUNDED = (
    "queries", "keys", "values", "head_outputs", "attention_output", "feedforward_output",
    "per_layer_output", "layer_output",
)  # fmt: skip


def layers(model, weights: Weights, tokens: np.ndarray, dtype: str) -> Iterator[Finding]:
    """Every layer's mechanisms in a whole prompt, in the tokens after it and in a chunk."""
    cache = model.make_cache()
    parts = (
        ("whole prompt", tokens[:-6]),
        ("next token", tokens[-6:-5]),
        ("chunk of 5", tokens[-5:]),
    )
    for part, piece in parts:
        probe = Probe(model, weights, part, dtype)
        ends = Ends(model, weights, part, dtype)
        with model.observe(probe, ends):
            mx.eval(model(mx.array(piece)[None], cache=cache))
        yield from ends.entering
        yield from probe.findings
        yield from ends.leaving


class Ends:
    """An observer of what comes before the layers, and after."""

    def __init__(self, model, weights: Weights, part: str, dtype: str):
        self.model, self.weights, self.part = model, weights, part
        self.round, self.unit = plain.rounding(dtype), plain.UNIT[dtype]
        self.entering: list[Finding] = []
        self.leaving: list[Finding] = []
        self._tokens = self._hidden = self._last = self._embeddings = None

    def __call__(self, name, layer, value, geometry) -> None:
        text, root = self.model.config.text, "language_model.model."
        if name == "tokens":
            self._tokens = np.array(value)[0][-_LAST:]
        elif name == "embeddings":
            self._embeddings = self._numpy(value)
            table = self.weights(root + "embed_tokens.weight", self._tokens)
            scale = np.sqrt(text.hidden_size)
            made = [r(r(table) * r(np.array(scale, table.dtype))) for r in (exactly, self.round)]
            self._check(self.entering, "embeddings", self._embeddings, *made)
        elif name == "per_layer_inputs":
            made = [self._per_layer_inputs(r) for r in (exactly, self.round)]
            self._check(self.entering, "per-layer inputs", self._numpy(value), *made)
        elif name == "layer_output" and layer == text.num_hidden_layers - 1:
            self._last = self._numpy(value)
        elif name == "final_hidden":
            weight = self.weights(root + "norm.weight")
            self._hidden = self._numpy(value)
            made = [plain.norm(self._last, weight, text.rms_norm_eps, r)
                    for r in (exactly, self.round)]  # fmt: skip
            self._check(self.leaving, "final norm", self._hidden, *made)
        elif name == "logits":
            made = [self._logits(r) for r in (exactly, self.round)]
            self._check(self.leaving, "head", self._numpy(value), *made)

    def _numpy(self, value: mx.array) -> np.ndarray:
        with mx.stream(mx.cpu):
            return np.array(value[0, -_LAST:].astype(mx.float32)).astype(self.weights.wide)

    def _check(self, found: list, mechanism: str, fast, true, rounded) -> None:
        rows = (x.reshape(len(x), -1) for x in (fast, true, rounded))
        with np.errstate(all="ignore"):
            found.append(compared(*rows, self.unit, self.part, None, mechanism))

    def _per_layer_inputs(self, r) -> np.ndarray:
        text, root = self.model.config.text, "language_model.model."
        L, P = text.num_hidden_layers, text.hidden_size_per_layer_input
        table = self.weights(root + "embed_tokens_per_layer.weight", self._tokens)
        looked_up = r(table * r(np.array(np.sqrt(P), table.dtype))).reshape(-1, L, P)
        projection = self.weights(root + "per_layer_model_projection.weight")
        projected = r(plain.linear(self._embeddings, projection, r) * text.hidden_size**-0.5)
        weight = self.weights(root + "per_layer_projection_norm.weight")
        normed = plain.norm(projected.reshape(-1, L, P), weight, text.rms_norm_eps, r)
        return r(r(normed + looked_up) * 2**-0.5)

    def _logits(self, r) -> np.ndarray:
        """Some of the vocabulary at a time."""
        text, parts, step = self.model.config.text, [], 16384
        for start in range(0, text.vocab_size, step):
            rows = slice(start, min(start + step, text.vocab_size))
            weight = self.weights("language_model.model.embed_tokens.weight", rows)
            parts.append(plain.linear(self._hidden, weight, r))
        logits, cap = np.concatenate(parts, -1), text.final_logit_softcapping
        return logits if cap is None else cap * np.tanh(logits / cap)


def ways(model, tokens: np.ndarray, dtype: str) -> Iterator[Finding]:
    """Whole prompt against chunks, cache against none, quantized cache packed against unpacked."""
    whole = _logits(model, tokens, [len(tokens)], cache=False)
    if not np.isfinite(whole).all():
        yield Finding("ways", None, "logits", note="values that are no numbers")
        return
    with model.observe(_disturbance(model, plain.UNIT[dtype])):
        disturbed = _logits(model, tokens, [len(tokens)], cache=False)
    window = model.config.text.sliding_window
    ways = {
        "cache": [len(tokens)],
        "chunks": [max(1, len(tokens) // 3 + 1)],
        "window and 1": [window, 1, len(tokens) - window - 9] if window + 16 < len(tokens) else [1],
    }
    for name, sizes in ways.items():
        got = _logits(model, tokens, [*sizes, 1], cache=True)
        yield compared(got, whole, disturbed, plain.UNIT[dtype], "ways", None, name)
    yield from packed(model, tokens, dtype)


def _logits(model, tokens, sizes: list[int], cache: bool) -> np.ndarray:
    """Log probabilities at the last positions, fed in pieces; the last size repeats."""
    entries, at, out, sizes = model.make_cache() if cache else None, 0, [], list(sizes)
    while at < len(tokens):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        logits = model(mx.array(tokens[at : at + size])[None], cache=entries)[0, -_LAST:]
        with mx.stream(mx.cpu):
            out = [*out, *np.array(logits.astype(mx.float32))][-_LAST:]
        at += size
    out = np.stack(out).astype(np.float64)
    return out - out.mean(-1, keepdims=True)


def _disturbance(model, unit: float):
    """An observer that rounds what a layer computes once more, one way or the other at random."""
    keys = iter(mx.random.split(mx.random.key(0), len(_ROUNDED) * len(model.layers)))

    def disturb(name, layer, value, geometry):
        if name not in _ROUNDED:
            return None
        noise = mx.random.normal(value.shape, key=next(keys))
        return (value.astype(mx.float32) * (1 + 2 * unit * noise)).astype(value.dtype)

    return disturb


def packed(model, tokens: np.ndarray, dtype: str, bits: int = 8) -> Iterator[Finding]:
    """A quantized cache's contents read packed, as a GPU does for few queries, and unpacked."""
    text, r = model.config.text, plain.rounding(dtype)
    full = [i for i in range(text.first_kv_shared_layer) if text.is_full(i)]
    size = next((g for g in (64, 32) if text.global_head_dim % g == 0), None)
    if not full or size is None:
        return
    cache, seen = model.make_cache(kv_bits=bits, kv_group_size=size), {}

    def watch(name, layer, value, geometry):
        if name == "queries" and layer in full:
            seen[layer] = value

    mx.eval(model.hidden(mx.array(tokens[:-1])[None], cache))
    with model.observe(watch):
        mx.eval(model.hidden(mx.array(tokens[-1:])[None], cache))
    for layer in full:
        q, entry = seen[layer], cache[layer]
        kv = tuple(tuple(x[..., : entry.offset, :] for x in part) for part in
                   (entry.keys, entry.values))  # fmt: skip
        if ops.on_cpu():
            # A GPU's kernel sums in float32 and rounds once. MLX's for the CPU, which the model
            # does not use there, sums in the type that it is given: five roundings of a bfloat16
            # are common. So the same contents are read in float32.
            q, dtype, r = q.astype(mx.float32), "float32", plain.rounding("float32")
            kv = tuple((codes, *(x.astype(mx.float32) for x in scales)) for codes, *scales in kv)
        fast = ops.packed_product(q, kv, entry)
        k, v = (dequantized(part, entry, mx.float32) for part in kv)
        q, k, v, fast = (np.array(x.astype(mx.float32))[0] for x in (q, k, v, fast))
        everything = np.ones((1, k.shape[1]), bool)
        rows = (
            x.reshape(1, -1)
            for x in (
                fast,
                plain.attention(q, k, v, everything, exactly),
                plain.attention(q, r(k), r(v), everything, r),
            )
        )
        # Codes and biases are multiplied apart, and their products nearly cancel: float32's last
        # digits count several times over. Seen: 2.1e-6 on the CPU backend.
        unit = max(plain.UNIT[dtype], 8 * plain.UNIT["float32"])
        yield compared(*rows, unit, f"{bits}-bit cache", layer, "packed attention")
