"""What if experts were missing? Answers to one prompt with and without changes, side by side.

The prompt is read once, unchanged; each answer is generated greedily from a fork of that cache, so
that answers differ by the changes alone. The same changes to other experts of the same layers and
about the same load are the control: a difference that they cause as well says nothing about the
chosen ones.

The divergence at a token is that of the changed model's next-token distribution from the unchanged
model's, given the same text so far: sum of p log(p / q) over the vocabulary, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import TraceError


def answer_start(tokens) -> int:
    """Where a trace's prompt ends and the model's last answer begins; its length if it has none.

    The control tokens that open the model's turn belong to the prompt.
    """
    opened = [
        i for i, t in enumerate(tokens.texts) if t == "<|turn>" and tokens.roles[i] == "model"
    ]
    if not opened:
        return len(tokens)
    for i in range(opened[-1], len(tokens)):
        if "\n" in tokens.texts[i]:
            return i + 1
    return len(tokens)


def what_if(
    model: Any,
    trace: Any,
    inputs: Any = None,
    *,
    changes: Sequence[dict],
    max_tokens: int = 40,
    everywhere: bool = False,
    progress: Callable[[float], None] | None = None,
) -> dict:
    """Generate three answers: unchanged, changed, and changed at random experts of the same load.

    Args:
        trace: gives the prompt: its tokens up to the model's last answer
        inputs: the traced ``ModelInputs`` or chat, needed where the prompt has pictures or sound
        changes: dicts ``{"layer", "expert", "action"}``, all made at once; ``action`` is "drop"
            (its output counts nothing), "around" (the router cannot choose it, the others
            renormalise), "swap" (with ``other``) or "boost" (``factor`` is added to its router
            score)
        everywhere: change the reading of the prompt as well, not only the answer
        progress: told the share of the answers done

    Returns ``{"answers": [{name, note, tokens, parts, divergence, mean}, ...], "note"}``, where
    ``parts`` is the first token that differs from the unchanged answer, or None.

    Raises TraceError for no change and for a prompt with media without ``inputs``,
    InterventionError for experts or layers that do not exist, ContextError for a prompt longer
    than the model's context.
    """
    from ..generation import engine

    if not changes:
        raise TraceError("nothing is changed: choose at least one expert")
    prompt = prompt_of(model, trace, inputs)
    changes = [_checked(change) for change in changes]
    made = [_intervention(**change) for change in changes]
    for intervention in made:
        intervention.observer(model)  # raises here, before anything runs
    controls = control_changes(trace.routing, changes)
    sets = [made, [_intervention(**change) for change in controls]]
    names = (_name(changes), f"Control: {_name(controls)}")
    says = "; ".join(dict.fromkeys(_says(change) for change in changes))
    loads = ", ".join(_load(trace.routing, change) for change in changes)
    others = ", ".join(_load(trace.routing, change) for change in controls)
    notes = (f"{says}. Load {loads}", f"the same with experts of the nearest load: {others}")
    job = engine().submit(_run, model, prompt, sets, names, notes, max_tokens, everywhere)
    for share in job.events():
        if progress is not None:
            progress(share)
    return job.result()


def prompt_of(model, trace, inputs):
    """What the trace's last answer answers, as a ``Prompt``. Errors as of :func:`what_if`."""
    from ..generation.prefill import Prompt
    from ..processing.inputs import ModelInputs

    stop = answer_start(trace.tokens)
    ids = [int(i) for i in trace.tokens.ids[:stop]]
    if inputs is None:
        if (np.asarray(trace.tokens.media[:stop]) >= 0).any():
            raise TraceError(
                "this prompt has pictures or sound, which the trace does not hold: give them as "
                "Routing(trace, model=model, inputs=...)"
            )
        return Prompt.of(model, ids)
    if callable(getattr(inputs, "inputs", None)):  # a chat
        inputs = inputs.inputs()
    if list(inputs.tokens[:stop]) != ids:
        raise TraceError("these inputs are not those of the trace: their tokens differ")
    media = [span for span in inputs.media if span.stop <= stop]
    return Prompt.of(model, ModelInputs(ids, inputs.token_types[:stop], media))


def control_changes(routing, changes: list[dict]) -> list[dict]:
    """The same changes to other experts of their layers, of about the same load.

    Each is drawn among the three of nearest load that the trace uses and ``changes`` do not touch
    (the same every time); a swap's partner stays.
    """
    taken = {(c["layer"], c["expert"]) for c in changes}
    taken |= {(c["layer"], c["other"]) for c in changes if c["action"] == "swap"}
    found = []
    for change in changes:
        layer, expert = change["layer"], change["expert"]
        load = routing.load(layer)
        free = [e for e in range(routing.num_experts) if (layer, e) not in taken]
        free = [e for e in free if load[e] > 0] or free
        if not free:
            raise TraceError(f"layer {layer} has no other expert left to compare with")
        near = sorted(free, key=lambda e: (abs(load[e] - load[expert]), e))[:3]
        pick = int(np.random.default_rng(layer * 1009 + expert).choice(near))
        taken.add((layer, pick))
        found.append({**change, "expert": pick})
    return found


def _checked(change: dict) -> dict:
    """A change with all its fields, from the browser's message or a person's."""
    action = change.get("action", "drop")
    if action not in _DONE:
        raise TraceError(f"action {action!r}; there are 'drop', 'around', 'swap' and 'boost'")
    return {
        "layer": int(change["layer"]),
        "expert": int(change["expert"]),
        "action": action,
        "other": int(change.get("other", 0)),
        "factor": float(change.get("factor", 3.0)),
    }


def _intervention(action: str, layer: int, expert: int, other: int, factor: float):
    from ..tracing import Ablate, Boost, Swap

    if action == "drop":
        return Ablate(layer=layer, experts=(expert,), mode="contribution")
    if action == "around":
        return Ablate(layer=layer, experts=(expert,), mode="route_around")
    if action == "swap":
        return Swap(layer=layer, a=expert, b=other)
    return Boost(layer=layer, experts=(expert,), amount=factor)


#: What a reader is told about a change: what was done, and what that means.
_DONE = {"drop": "dropped", "around": "routed around", "swap": "swapped", "boost": "boosted"}
_MEANS = {
    "drop": "dropped: the output counts as zero",
    "around": "routed around: the router chooses among the others, whose weights renormalise",
    "swap": "swapped: each computes in the other's place",
    "boost": "boosted: {factor:g} added to the router's score",
}


def _name(changes: list[dict]) -> str:
    """The changes in a few words: "layer 3: experts 5 and 9 dropped"."""
    by: dict[tuple, list[str]] = {}
    for c in changes:
        with_other = f" with {c['other']}" if c["action"] == "swap" else ""
        by.setdefault((c["layer"], _DONE[c["action"]]), []).append(f"{c['expert']}{with_other}")
    return "; ".join(
        f"layer {layer}: expert{'s' if len(experts) > 1 else ''} {', '.join(experts)} {done}"
        for (layer, done), experts in by.items()
    )


def _says(change: dict) -> str:
    return _MEANS[change["action"]].format(**change)


def _load(routing, change: dict) -> str:
    return f"{routing.load(change['layer'])[change['expert']]:.1%}"


def _run(model, prompt, sets, names, notes, max_tokens, everywhere):
    """Generator for the engine: yields the share done after every chunk and token, so that others
    have their turns; returns the answers and their divergences."""
    from ..generation import PromptCache

    features: dict = {}
    cache = PromptCache(model)
    base = yield from _generate(model, prompt, cache, max_tokens, features, 0)
    answers = [_answer("As it is", "the model unchanged", base, base, [])]
    for done, (changes, name, note) in enumerate(zip(sets, names, notes), 1):
        with model.intervene(*changes):
            changed = PromptCache(model) if everywhere else _adopted(cache)
            tokens = yield from _generate(model, prompt, changed, max_tokens, features, done)
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


def _generate(model, prompt, cache, max_tokens: int, features: dict, done: int):
    """Greedy (id, text) tokens, of the answer after ``done`` of the three; a stop token shows as
    its name. Yields the share done."""
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
        yield (done + len(tokens) / max_tokens) / 3
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
