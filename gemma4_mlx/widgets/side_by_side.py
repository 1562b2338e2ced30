"""Answers to one prompt with the model as it is and with parts of it changed, side by side.

The prompt is read once, unchanged; each answer is generated greedily from a fork of that cache, so
that answers differ by the changes alone.

The divergence at a token is that of the changed model's next-token distribution from the unchanged
model's, given the same text so far: sum of p log(p / q) over the vocabulary, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import TraceError


class Change(NamedTuple):
    """Interventions that are made together, what they are called, and a note on what they mean."""

    name: str
    note: str
    interventions: Sequence[Any]


def side_by_side(
    model: Any,
    prompt: Any,
    changes: Sequence[Change],
    *,
    max_tokens: int = 40,
    everywhere: bool = False,
    progress: Callable[[float], None] | None = None,
) -> dict:
    """Generate the unchanged answer, and one under each of the changes.

    Args:
        prompt: a ``generation.prefill.Prompt``
        everywhere: change the reading of the prompt as well, not only the answer
        progress: told the share of the answers done

    Returns ``{"answers": [{name, note, tokens, parts, divergence, mean}, ...], "note"}``, where
    ``parts`` is the first token that differs from the unchanged answer, or None.

    Raises InterventionError for parts that the model does not have, ContextError for a prompt
    longer than the model's context.
    """
    from ..generation import engine

    for change in changes:
        for intervention in change.interventions:
            intervention.observer(model)  # raises here, before anything runs
    job = engine().submit(_run, model, prompt, changes, max_tokens, everywhere)
    for share in job.events():
        if progress is not None:
            progress(share)
    return job.result()


def prompt_until(model, tokens, stop: int, inputs, call: str):
    """The first ``stop`` of a trace's ``Tokens`` as a ``Prompt``.

    ``inputs``: the traced ``ModelInputs`` or chat, None if there is none; ``call``: how they are
    given, for the message. Raises TraceError if there are pictures or sound and no inputs, or if
    the inputs are others.
    """
    from ..generation.prefill import Prompt
    from ..processing.inputs import ModelInputs

    ids = [int(i) for i in tokens.ids[:stop]]
    if inputs is None:
        if (np.asarray(tokens.media[:stop]) >= 0).any():
            raise TraceError(
                "this prompt has pictures or sound, which the trace does not hold: give them as "
                f"{call}"
            )
        return Prompt.of(model, ids)
    if callable(getattr(inputs, "inputs", None)):  # a chat
        inputs = inputs.inputs()
    if list(inputs.tokens[:stop]) != ids:
        raise TraceError("these inputs are not those of the trace: their tokens differ")
    media = [span for span in inputs.media if span.stop <= stop]
    return Prompt.of(model, ModelInputs(ids, inputs.token_types[:stop], media))


def _run(model, prompt, changes, max_tokens, everywhere):
    """Generator for the engine: yields the share done after every chunk and token, so that others
    have their turns; returns the answers and their divergences."""
    from ..generation import PromptCache

    features: dict = {}
    cache = PromptCache(model)
    each = 1 / (1 + len(changes))

    def generate(cache, done):
        return _generate(model, prompt, cache, max_tokens, features, done * each, each)

    base = yield from generate(cache, 0)
    answers = [_answer("As it is", "the model unchanged", base, base, [])]
    for done, (name, note, interventions) in enumerate(changes, 1):
        with model.intervene(*interventions):
            changed = PromptCache(model) if everywhere else _adopted(cache)
            tokens = yield from generate(changed, done)
            ids = [t[0] for t in tokens]
            p = _log_probabilities(model, prompt, changed, ids, features)
        q = _log_probabilities(model, prompt, cache.fork(), ids, features)
        divergence = (np.exp(p) * (p - q)).sum(axis=-1).clip(0).tolist() if ids else []
        answers.append(_answer(name, note, tokens, base, divergence))
    where = (
        "reading the prompt and answering" if everywhere else "answering, from one cached prompt"
    )
    note = (
        f"Greedy answers; the changes hold while {where}. Bars under tokens: divergence of the "
        "changed model's next-token distribution from the unchanged one's, given the same text."
    )
    return {"answers": answers, "note": note}


def _adopted(cache):
    """A fork of an unchanged cache that the model goes on with although it is changed now."""
    fork = cache.fork()
    fork.interventions = fork.model.interventions
    return fork


def _generate(model, prompt, cache, max_tokens: int, features: dict, done: float, each: float):
    """Greedy (id, text) tokens; a stop token shows as its name. Yields the share done, of which
    this answer is ``each`` after ``done``."""
    from ..generation import Token, stream

    options = {"temperature": 0.0, "max_tokens": max_tokens}
    events = stream(
        model,
        prompt.inputs,
        options=options,
        cache=cache,
        media_features=features,
    )
    name = model.tokenizer.token_text if model.tokenizer is not None else str
    tokens = []
    for event in events:
        if isinstance(event, Token):
            tokens.append((event.id, name(event.id) if event.stop else event.text))
        yield done + each * len(tokens) / max_tokens
    return tokens


def _log_probabilities(model, prompt, cache, ids: list[int], features: dict) -> np.ndarray:
    """Log-probabilities at each of the answer's tokens, given those before: (len(ids), V)."""
    import mlx.core as mx

    from ..generation.prefill import SoftTokens

    start = cache.reuse(prompt.inputs)
    soft = SoftTokens(model, prompt, start, features)
    tokens = mx.array([*prompt.tokens[start:], *ids[:-1]])[None]
    logits = model(tokens, cache.entries, features=soft.between(start, len(prompt)))
    logits = logits[0, len(prompt) - 1 - start :]
    out = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(out)
    return np.array(out, dtype=np.float32)


def _answer(name: str, note: str, tokens, base, divergence: list[float]) -> dict:
    ids, base_ids = [t[0] for t in tokens], [t[0] for t in base]
    shared = min(len(ids), len(base_ids))
    parts = next((i for i in range(shared) if ids[i] != base_ids[i]), None)
    if parts is None and len(ids) != len(base_ids):
        parts = shared
    return {
        "name": name,
        "note": note,
        "tokens": [text for _, text in tokens],
        "parts": parts,
        "divergence": [float(d) for d in divergence],
        "mean": float(np.mean(divergence)) if divergence else 0.0,
    }
