"""Which experts of a layer are held in memory, and which one makes room for another."""

from collections.abc import Iterable

import numpy as np

#: What an expert's use counts for after one more step of the layer. 1 would be the least
#: frequently used, 0 the least recently used one that goes.
KEPT = 0.98


class Slots:
    """A layer's E experts in ``size`` places.

    Attributes:
        place: (E,) int32, slot of each expert, -1 for one that is not held.
        held: (size,) int32, expert in each slot, -1 for an empty one.
    """

    def __init__(self, experts: int, size: int, kept: float = KEPT):
        self.place = np.full(experts, -1, np.int32)
        self.held = np.full(size, -1, np.int32)
        self._use = np.zeros(experts)
        self._kept = kept
        self._busy: set[int] = set()  # slots that are being written

    def used(self, experts: np.ndarray) -> None:
        """Count one step in which these experts were chosen."""
        self._use *= self._kept
        self._use[experts] += 1

    def make_room(self, wanted: Iterable[int], needed: np.ndarray) -> list[tuple[int, int]]:
        """(expert, slot) for each wanted expert that is not held and for which there is a slot.

        What stood in these slots is held no longer: they are busy until :meth:`fill` or
        :meth:`empty`. Experts that are ``needed`` stay.
        """
        wanted = [expert for expert in wanted if self.place[expert] < 0]
        value = np.where(self.held < 0, -1.0, self._use[self.held])
        value[np.isin(self.held, needed) & (self.held >= 0)] = np.inf
        value[list(self._busy)] = np.inf
        order = np.argsort(value, kind="stable")
        free = order[: np.count_nonzero(value < np.inf)].tolist()
        found = list(zip(wanted, free))
        for _, slot in found:
            if self.held[slot] >= 0:
                self.place[self.held[slot]] = self.held[slot] = -1
            self._busy.add(slot)
        return found

    def fill(self, expert: int, slot: int) -> None:
        """A busy slot holds this expert now."""
        self._busy.discard(slot)
        self.held[slot], self.place[expert] = expert, slot

    def empty(self, slot: int) -> None:
        """A busy slot could not be filled."""
        self._busy.discard(slot)

    @property
    def whole(self) -> bool:
        """Whether every expert is held."""
        return bool((self.place >= 0).all())
