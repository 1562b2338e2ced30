"""Direct attribution: a logit as the sum of what every part wrote towards it.

The residual stream that the final norm reads is a sum: the token's embedding, and in each layer
what attention, the feed-forward part and the per-layer embedding add, all of it multiplied by the
layer's ``layer_scalar`` and those of the layers after it. A logit before the soft cap is a row of
the head times the normed stream. So each part's share is its own vector, times the scalars from
its layer on, times the final norm's scale, along that row; and the shares sum to the logit.

*Norms.* An RMS norm divides by the root mean square of its whole input. With that one number taken
as it was in this run, the norm is linear: ``norm(a + b) = w * (a + b) / rms = w * a / rms + w * b /
rms``, and what several parts send through it is shared out without rest. That is how the final
norm shares among all parts, ``post_attention_layernorm`` among a layer's heads (the part of each
in ``o_proj``, which is linear too), ``post_feedforward_layernorm_2`` among the chosen experts (the
output of each times its weight), and ``post_feedforward_layernorm`` among these and the dense MLP.

*What it does not tell.* Had a part been silent, the norms' scales would have been others, and so
would what later layers made of it. ``Attribution.check`` does silence it. And a share says what a
part wrote at the last position, not from which earlier token it took it.

After Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021).
"""

import mlx.core as mx
import numpy as np

from ..errors import AttributionError
from .question import Question
from .reading import Reading


def direct(question: Question):
    """Generator for the engine: yields Progress, returns direct attribution's shares.

    Raises AttributionError for a span and for a function: they have no one logit that sums.
    """
    model, target = question.model, question.target
    if not target.one_token:
        raise AttributionError(
            "method 'direct' takes one token's logit apart; a span or a function needs 'gradient', "
            "'integrated' or 'patching'"
        )
    reading = Reading(question)
    yield from reading.before()
    seen = _Row(reading.row)
    with model.observe(seen):
        hidden = yield from reading.hidden()
    target = target.known(model, hidden)
    total, direction = target.derivative(model, lambda h: h, hidden)
    return question.answer("direct", target, total, **_shares(model, seen.values, direction[0]))


class _Row:
    """An observer that keeps, of one position, what the parts are made of."""

    HEADS = "head_outputs"
    TAPS = (
        "embeddings", HEADS, "mlp_output", "expert_indices", "expert_weights", "expert_outputs",
        "per_layer_output", "layer_output",
    )  # fmt: skip

    def __init__(self, row: int):
        self._row = row
        self.values: dict[int | None, dict[str, mx.array]] = {}  # layer -> tap -> value

    def __call__(self, name, layer, value, geometry) -> None:
        if name in self.TAPS:
            value = value[0, :, self._row] if name == self.HEADS else value[0, self._row]
            whole = mx.issubdtype(value.dtype, mx.integer)
            self.values.setdefault(layer, {})[name] = value if whole else _wide(value)
        if name == "layer_output":
            mx.eval(self.values)  # one layer's intermediates at a time


def _shares(model, seen: dict, direction: mx.array) -> dict:
    """Every part's share along a direction (H,) of the normed hidden state."""
    text, decoder = model.config.text, model.language_model.model
    found = {"heads": [], "mlp": [], "experts": [], "per_layer": []}
    weights, ids = [], []
    last = len(decoder.layers) - 1
    direction = direction * _gain(decoder.norm, seen[last]["layer_output"])
    for layer, values in zip(reversed(decoder.layers), (seen[i] for i in range(last, -1, -1))):
        direction = direction * _wide(layer.layer_scalar)
        found["heads"].append(_by_head(layer, values) @ direction)
        mlp = values["mlp_output"]
        if text.enable_moe_block:
            mlp, experts = _by_expert(layer, values)
            found["experts"].append(experts @ direction)
            weights.append(values["expert_weights"])
            ids.append(values["expert_indices"])
        found["mlp"].append(mlp @ direction)
        if text.hidden_size_per_layer_input:
            found["per_layer"].append(values["per_layer_output"] @ direction)
    embedding = (seen[None]["embeddings"] @ direction).item()
    shares = {name: _stacked(parts) for name, parts in found.items() if parts}
    if weights:
        weights, ids = _stacked(weights), _stacked(ids).astype(np.int32)
        order = np.argsort(-weights, axis=-1, kind="stable")
        ranked = {"experts": shares["experts"], "expert_ids": ids, "expert_weights": weights}
        shares |= {k: np.take_along_axis(v, order, axis=-1) for k, v in ranked.items()}
    return {"embedding": embedding, **shares}


def _by_head(layer, values: dict) -> mx.array:
    """What each head adds to the stream: (heads, H)."""
    outputs = values[_Row.HEADS]  # (heads, D)
    heads = outputs.shape[0]
    alone = mx.eye(heads)[:, :, None] * outputs[None]  # row h: head h, the others silent
    written = layer.self_attn.o_proj(alone.reshape(heads, -1))
    return written * _gain(layer.post_attention_layernorm, written.sum(axis=0))


def _by_expert(layer, values: dict) -> tuple[mx.array, mx.array]:
    """What the dense MLP (H,) and each chosen expert (k, H) add to the stream."""
    mlp, experts = values["mlp_output"], values["expert_outputs"]
    experts = experts * values["expert_weights"][:, None]
    experts = experts * _gain(layer.post_feedforward_layernorm_2, experts.sum(axis=0))
    gain = _gain(layer.post_feedforward_layernorm, mlp + experts.sum(axis=0))
    return mlp * gain, experts * gain


def _gain(norm, x: mx.array) -> mx.array:
    """What a norm multiplies each element by when its input is x (H,)."""
    return _wide(norm.weight) * mx.rsqrt(mx.mean(x * x) + norm.eps)


def _wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def _stacked(layers: list[mx.array]) -> np.ndarray:
    """Arrays of the layers, last layer first, as one (layers, ...)."""
    return np.array(mx.stack(layers[::-1]))
