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
    atlas: Any = None,
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
        atlas: an atlas of the model, for changes by label
        changes: dicts ``{"layer", "expert", "action"}``, all made at once; ``action`` is "drop"
            (its output counts nothing), "around" (the router cannot choose it, the others
            renormalise), "swap" (with ``other``) or "boost" (``factor`` is added to its router
            score); or ``{"label", "above", "action"}``: the same, but for "swap", with every expert
            of any layer that is chosen ``above`` times as often for a label of the atlas, by more
            than chance, as one intervention (:mod:`gemma4_mlx.studies.interventions`)
        everywhere: change the reading of the prompt as well, not only the answer
        progress: told the share of the answers done

    Returns what :func:`.side_by_side` does.

    Raises TraceError for no change, for one by label without an atlas, and for a prompt with media
    without ``inputs``, InterventionError for experts or layers that do not exist, StudyError for a
    label that has no such experts, ContextError for a prompt longer than the model's context.
    """
    if not changes:
        raise TraceError("nothing is changed: choose at least one expert")
    prompt = prompt_of(model, trace, inputs)
    single = [_checked(change) for change in changes if "label" not in change]
    label = [_label_checked(change) for change in changes if "label" in change]
    whole = [_label_experts(atlas, **change) for change in label]
    for intervention in map(_intervention, single):
        intervention.observer(model)  # raises here, before a control is looked for
    controls = control_changes(trace.routing, single)
    random = [some.control() for some in whole]
    says = "; ".join(dict.fromkeys(map(_says, [*single, *label])))
    made = _change(trace.routing, single, whole, f"{says}. Load ")
    control = _change(
        trace.routing, controls, random, "the same with experts of the nearest load: "
    )
    control = control._replace(name=f"Control: {control.name}")
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


def _change(routing, single: list[dict], whole: list, note: str) -> Change:
    """Changes of single experts and of labels' experts, made together; ``note``: before loads."""
    loads = [_load(routing, change) for change in single]
    for some in whole:
        share = sum(some.loads.values()) / len(some.loads)
        loads.append(f"{share:.2f} experts a token of the label in each of these layers")
    return Change(
        "; ".join(filter(None, [_name(single), *map(_label_name, whole)])),
        note + ", ".join(loads),
        [*map(_intervention, single), *whole],
    )


def _label_checked(change: dict) -> dict:
    """A change by label with all its fields, from the browser's message or a person's."""
    action = change.get("action", "around")
    if action not in ("drop", "around", "boost"):
        raise TraceError(f"action {action!r}; by label there are 'drop', 'around' and 'boost'")
    return {
        "label": str(change["label"]),
        "above": float(change.get("above", 2.0)),
        "action": action,
        "factor": float(change.get("factor", 3.0)),
    }


def _label_experts(atlas, label: str, above: float, action: str, factor: float):
    """A label's experts of all layers, dropped or boosted: a ``LabelExperts``."""
    from ..studies import boost, drop

    if atlas is None:
        raise TraceError("experts are chosen by label with an atlas: Routing(trace, atlas=atlas)")
    if action == "boost":
        return boost(atlas, label, factor, above)
    return drop(atlas, label, above, _MODES[action])


def _label_name(some) -> str:
    """A ``LabelExperts`` in a few words: "without code (12 experts in 6 layers)"."""
    count, layers = sum(map(len, some.experts.values())), len(some.experts)
    return f"{some.name} ({count} expert{'s' * (count > 1)} in {layers} layer{'s' * (layers > 1)})"


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


def _intervention(change: dict):
    from ..tracing import Ablate, Boost, Swap

    action, layer, expert = change["action"], change["layer"], change["expert"]
    if action == "swap":
        return Swap(layer=layer, a=expert, b=change["other"])
    if action == "boost":
        return Boost(layer=layer, experts=(expert,), amount=change["factor"])
    return Ablate(layer=layer, experts=(expert,), mode=_MODES[action])


#: Modes of ``Ablate``.
_MODES = {"drop": "contribution", "around": "route_around"}
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
