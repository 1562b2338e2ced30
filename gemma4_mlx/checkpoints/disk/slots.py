"""Which experts of a layer are held in memory, and which one makes room for another."""

from collections.abc import Collection, Iterable

import numpy as np

#: What an expert's use counts for after one more step of the layer. 1 would be the least
#: frequently used one that goes, 0 the least recently used one; between them more of what is
#: chosen is held than with either (tests/benchmarks/from_disk.py policy).
KEPT = 0.9


class Slots:
    """A layer's E experts in ``size`` places.

    Attributes:
        place: (E,) int32, slot of each expert, -1 for one that is not held.
        held: (size,) int32, expert in each slot, -1 for an empty one.
    """

    def __init__(self, experts: int, size: int, kept: float = KEPT):
        self.place = np.full(experts, -1, np.int32)
        self.held = np.full(size, -1, np.int32)
        self._use, self._since = [0.0] * experts, [0] * experts  # use, as of which step
        self._step, self._kept = 0, kept
        self._busy: set[int] = set()  # slots that are being written

    def used(self, experts: Iterable[int]) -> None:
        """Count one step in which these experts were chosen."""
        self._step += 1
        for expert in experts:
            self._use[expert], self._since[expert] = self._value(expert) + 1, self._step

    def _value(self, expert: int) -> float:
        return self._use[expert] * self._kept ** (self._step - self._since[expert])

    def make_room(self, wanted: Iterable[int], needed: Collection[int]) -> list[tuple[int, int]]:
        """(expert, slot) for each wanted expert that is not held and for which there is a slot.

        What stood in these slots is held no longer: they are busy until :meth:`fill` or
        :meth:`empty`. Experts that are ``needed`` stay.
        """
        wanted = [expert for expert in wanted if self.place[expert] < 0]
        if not wanted:
            return []
        needed = set(needed)
        free = [
            (-1.0 if expert < 0 else self._value(expert), slot)
            for slot, expert in enumerate(self.held.tolist())
            if slot not in self._busy and expert not in needed
        ]
        found = [(expert, slot) for expert, (_, slot) in zip(wanted, sorted(free))]
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
