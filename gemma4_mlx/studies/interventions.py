"""Interventions on the experts of a label: without them, or with more of them.

    without = studies.drop(atlas, "code", above=2)
    with model.intervene(without): ...              # every layer at once
    with model.intervene(without.control(seed=1)): ...  # as many tokens' experts, drawn at random

An expert that many tokens go to is missed whatever it is for. So what dropping a label's experts
does says something about the label only beside a control: others of the same load.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import StudyError
from ..tracing.data.ranges import ranges
from .data.atlas import Atlas
from .data.labels import FALSE, number_of

#: Random orders of the experts that a control is drawn from, and how near its load has to come.
DRAWS, NEAR = 32, 0.1


@dataclass(frozen=True, eq=False)
class LabelExperts:
    """Experts of several layers that are dropped or boosted together; for ``model.intervene``.

    Attributes:
        name: what it does, in words.
        experts: layer -> experts.
        loads: layer -> share of the label's tokens that go to each of these experts, summed: k at
            most.
        make: (layer, experts) -> the intervention on one layer.
        others: layer -> (E,) load of every expert among the label's tokens.
    """

    name: str
    experts: dict[int, tuple[int, ...]]
    loads: dict[int, float]
    make: Callable
    others: dict[int, np.ndarray]

    @property
    def key(self) -> str:
        """A text that is equal for two of them exactly if they do the same."""
        return "; ".join(self.make(layer, some).key for layer, some in self.experts.items())

    def __str__(self):
        layers = ", ".join(f"layer {i}: {ranges(some)}" for i, some in self.experts.items())
        return f"{self.name} ({layers})"

    __repr__ = __str__

    def observer(self, model):
        """For ``model.intervene``. Raises InterventionError for what this model lacks, and for so
        many experts that too few would be left."""
        inner = {layer: self.make(layer, some) for layer, some in self.experts.items()}
        observers = {layer: one.observer(model) for layer, one in inner.items()}

        def observe(name, layer, value, geometry):
            one = observers.get(layer)
            return None if one is None else one(name, layer, value, geometry)

        def look(name, layer, value, geometry):
            if layer in observers:
                observers[layer].looks(name, layer, value, geometry)

        observe.looks = look
        observe.late = any(one.late for one in inner.values())
        return observe

    def control(self, seed: int = 0) -> "LabelExperts":
        """The same with other experts, drawn at random so that in each layer about as many of the
        label's tokens go to them.

        The experts that are not meant are put in a random order, which is cut where their load is
        nearest. The first of :data:`DRAWS` orders is taken that comes within a tenth, or the
        nearest of all; ``loads`` says how near.

        Raises StudyError for a layer without other experts.
        """
        rng, chosen, loads = np.random.default_rng(seed), {}, {}
        for layer, mine in self.experts.items():
            load = self.others[layer]
            rest = np.setdiff1d(np.flatnonzero(load > 0), mine)
            if not len(rest):
                raise StudyError(f"layer {layer} has no other experts to draw a control from")
            orders = rng.permuted(np.tile(rest, (DRAWS, 1)), axis=1)
            sums = np.cumsum(load[orders], axis=1)
            off = np.abs(sums - self.loads[layer])
            near = off.min(axis=1) <= NEAR * self.loads[layer]
            draw = int(near.argmax() if near.any() else off.min(axis=1).argmin())
            last = int(off[draw].argmin())
            chosen[layer] = tuple(sorted(orders[draw, : last + 1].tolist()))
            loads[layer] = float(sums[draw, last])
        name = f"{self.name}, drawn at random"
        return replace(self, name=name, experts=chosen, loads=loads)


def drop(atlas: Atlas, label: str, above: float = 2.0, mode: str = "route_around") -> LabelExperts:
    """Take out every expert that is chosen ``above`` times as often for a label as for all tokens.

    Only lifts that are more than chance count (:meth:`.Lifts.found`). ``mode`` as of ``Ablate``.

    Raises StudyError for a label that does not exist or that no expert prefers so much, and
    InterventionError for another mode.
    """
    from ..tracing.recording.interventions import Ablate

    Ablate(0, (0,), mode)  # says what is wrong with the mode
    return _chosen(
        atlas, label, above, f"without {label}", lambda layer, some: Ablate(layer, some, mode)
    )


def boost(atlas: Atlas, label: str, amount: float = 1.0, above: float = 2.0) -> LabelExperts:
    """Add ``amount`` to the router's scores of the experts that :func:`drop` takes out.

    Raises StudyError as :func:`drop`, and InterventionError for an amount that is not finite.
    """
    from ..tracing.recording.interventions import Boost

    Boost(0, (0,), amount)
    return _chosen(
        atlas,
        label,
        above,
        f"{label} boosted by {amount:g}",
        lambda layer, some: Boost(layer, some, amount),
    )


def _chosen(atlas: Atlas, label: str, above: float, name: str, make: Callable) -> LabelExperts:
    g = number_of(label, atlas.labels)
    if not above > 1:
        raise StudyError(f"experts of a lift above {above}; give a number above 1")
    lifts = atlas.lifts()
    lifts.experts(label)  # says so where there is no other label
    meant = lifts.found(FALSE, 0.0)[:, g] & (lifts.lift[:, g] >= np.log2(above))
    if not meant.any():
        raise StudyError(
            f"no expert is chosen {above:g} times as often for {label!r} by more than chance"
        )
    load = atlas.load(label)
    layers = [i for i in range(len(atlas.layers)) if meant[i].any()]
    experts = {atlas.layers[i]: tuple(np.flatnonzero(meant[i]).tolist()) for i in layers}
    loads = {atlas.layers[i]: float(load[i][meant[i]].sum()) for i in layers}
    return LabelExperts(name, experts, loads, make, {atlas.layers[i]: load[i] for i in layers})
