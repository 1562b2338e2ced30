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

from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..errors import AttributionError, ContextError
from ..generation import Progress, engine
from ..generation.prefill import CHUNK, Prompt
from ..tracing.recording.interventions import Ablate, ScaleHeads
from ..tracing.recording.recorder import model_facts
from ..tracing.recording.rerun import SameModel
from ..tracing.recording.run import inputs_of
from ..tracing.recording.tokens import media_of, tokens_of
from .data import Attribution, Part
from .reading import Reading
from .target import place, text_of, token_of

METHODS = ("direct",)


def attribute(
    model,
    prompt,
    target: int | str | None = None,
    *,
    against: int | str | None = None,
    position: int | None = None,
    method: str = "direct",
    chunk: int = CHUNK,
    media_features=None,
    progress=None,
) -> Attribution:
    """Why the model says a token: the parts of every layer that spoke for it and against it.

    Args:
        model: a loaded model.
        prompt: what :func:`gemma4_mlx.trace` takes: text, token ids, a ``ModelInputs``, chat
            messages, or a chat. A chat that ends in an answer is read as it would be read again,
            answer included.
        target: the token to be explained, its id or its text (one token). None: the one that
            stands at the position, or, where none does, the likeliest.
        against: another token; what is explained is then the logit of ``target`` less its.
        position: the explained token's place among the prompt's tokens, from 1 on (negative:
            from the end), or their number for the next one. None: in a chat that ends in an
            answer, where the answer first says ``target``; else the next token.
        method: "direct", as this module explains.
        chunk: tokens read at once.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        progress: called with a ``Progress`` after every chunk.

    Only the one position before the explained token is taken apart, so memory is that of reading
    the prompt. Where ``model.intervene`` is in force, the changed run is explained.

    Raises:
        AttributionError: a target that is not one token of the vocabulary or that the answer does
            not say, one that is compared with itself, a position or method that does not exist, or
            ``model`` is none.
        TraceError: text or messages for a model without tokenizer.
        ContextError: the prompt is empty, or longer than the model's context.
        MediaError: the prompt holds media that the model cannot take.
        GenerationError: a token id in the prompt is outside the vocabulary.
        ChatError: messages that the chat template refuses.
    """
    if not hasattr(model, "observe"):
        raise AttributionError(
            f"attribute takes a loaded model and then a prompt; {type(model).__name__} is no model"
        )
    if method not in METHODS:
        raise AttributionError(f"method {method!r}; there is {', '.join(map(repr, METHODS))}")
    if chunk < 1:
        raise AttributionError(f"a chunk of {chunk} tokens reads nothing")
    prompt = Prompt.of(model, inputs_of(model, prompt))
    context = model.config.text.max_position_embeddings
    if len(prompt) > context:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens, the model's context is {context:,}."
        )
    target = None if target is None else token_of(model, target)
    against = None if against is None else token_of(model, against)
    position = place(model, prompt.tokens, target, position)
    if target is None and position < len(prompt):
        target = prompt.tokens[position]
    how = model, prompt, position - 1, chunk, media_features
    found = _run(progress, _explained, how, target, against)
    return replace(found, measure=_Measure(how, found))


def _run(progress, generator, how: tuple, *arguments):
    """What ``generator(how, *arguments)``, which yields Progress, returns; run by the engine."""
    model = how[0]
    mx.eval(model.parameters())  # lazy arrays belong to the thread that made them
    job = engine().submit(generator, how, *arguments)
    for event in job.events():
        if progress is not None:
            progress(event)
    return job.result()


def _explained(how: tuple, target: int | None, against: int | None):
    """Generator for the engine: yields Progress, returns the Attribution."""
    model, prompt, query, *_ = how
    reading = Reading(*how)
    yield from reading.before()
    seen = _Row(reading.row)
    with model.observe(seen):
        hidden = reading.hidden()
    if target is None:
        target = int(mx.argmax(model.language_model.uncapped(hidden)[0]).item())
    if target == against:
        raise AttributionError(
            f"{text_of(model, target)!r} is compared with itself: give another token as against="
        )
    total = _score(model, hidden, target, against).item()
    if not np.isfinite(total):
        raise AttributionError(f"the model's logits are not finite there ({total}): nothing sums")
    direction = mx.grad(lambda h: _score(model, h, target, against))
    shares = _shares(model, seen.values, direction(mx.zeros(hidden.shape))[0])
    return Attribution(
        (target, text_of(model, target)),
        None if against is None else (against, text_of(model, against)),
        query + 1,
        total,
        **shares,
        tokens=tokens_of(model, np.array(prompt.tokens), prompt.inputs),
        media=media_of(prompt.inputs),
        model=model_facts(model),
        interventions=tuple(map(str, model.interventions)),
    )


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


def _score(model, hidden: mx.array, target: int, against: int | None) -> mx.array:
    """The logit before the cap, or the difference of two, of a normed hidden state (1, H)."""
    logits = model.language_model.uncapped(hidden)[0]
    return logits[target] if against is None else logits[target] - logits[against]


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


class _Measure:
    """Removes parts of a run, one at a time, and says what that changes."""

    def __init__(self, how: tuple, explained: Attribution):
        model, *self._how = how
        self._then, self._target = SameModel(model), explained.target[0]
        self._against = None if explained.against is None else explained.against[0]

    def __call__(self, parts: list[Part], progress=None) -> list[float]:
        """By how much the logit (difference) falls when each part is silent.

        Raises AttributionError if the model is not what it was.
        """
        if obstacle := self._then.obstacle():
            raise AttributionError(f"nothing can be removed: {obstacle}")
        how = self._then.model, *self._how
        return _run(progress, _measured, how, parts, self._target, self._against)


def _measured(how: tuple, parts: list[Part], target: int, against: int | None):
    """Generator for the engine: yields Progress, returns what each part's silence costs."""
    model, reading = how[0], Reading(*how)
    yield from reading.before()

    def score() -> float:
        return _score(model, reading.hidden(), target, against).item()

    whole, found = score(), []
    for part in parts:
        with model.intervene(_removal(part, reading.query)):
            found.append(whole - score())
        yield Progress(reading.stop, reading.stop, 0.0)
    return found


def _removal(part: Part, query: int):
    """The intervention that silences a head or an expert at one position."""
    kind = ScaleHeads if part.kind == "head" else Ablate
    return kind(part.layer, (part.index,), tokens=(query, query + 1))
