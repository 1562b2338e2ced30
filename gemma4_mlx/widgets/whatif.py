"""What if experts were missing? Answers to one prompt with and without changes, side by side.

The same changes to other experts of the same layers and about the same load are the control: a
difference that they cause as well says nothing about the chosen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import TraceError
from .side_by_side import Change, prompt_until, side_by_side


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

    Returns what :func:`.side_by_side` does.

    Raises TraceError for no change and for a prompt with media without ``inputs``,
    InterventionError for experts or layers that do not exist, ContextError for a prompt longer
    than the model's context.
    """
    if not changes:
        raise TraceError("nothing is changed: choose at least one expert")
    prompt = prompt_of(model, trace, inputs)
    changes = [_checked(change) for change in changes]
    made = [_intervention(**change) for change in changes]
    for intervention in made:
        intervention.observer(model)  # raises here, before a control is looked for
    controls = control_changes(trace.routing, changes)
    says = "; ".join(dict.fromkeys(_says(change) for change in changes))
    loads = ", ".join(_load(trace.routing, change) for change in changes)
    others = ", ".join(_load(trace.routing, change) for change in controls)
    made = Change(_name(changes), f"{says}. Load {loads}", made)
    control = Change(
        f"Control: {_name(controls)}",
        f"the same with experts of the nearest load: {others}",
        [_intervention(**change) for change in controls],
    )
    return side_by_side(
        model,
        prompt,
        (made, control),
        max_tokens=max_tokens,
        everywhere=everywhere,
        progress=progress,
    )


def prompt_of(model, trace, inputs):
    """What the trace's last answer answers, as a ``Prompt``. Errors as of :func:`what_if`."""
    stop = answer_start(trace.tokens)
    return prompt_until(
        model, trace.tokens, stop, inputs, "Routing(trace, model=model, inputs=...)"
    )


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
