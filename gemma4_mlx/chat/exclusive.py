"""One answer at a time, however the one before it ended.

A lock that a generator takes and gives back can stay taken: an interrupt may arrive on the very
line that would give it back. Here nothing is given back. A conversation is busy while the
generator that answers is alive, and Python itself ends a generator that an exception leaves.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from ..errors import ChatError

#: A weak reference to a generator.
Itself = Callable[[], GeneratorType | None]


class Answering:
    """Which generator answers now, and what to do about one that left things undone.

    Attributes:
        stopped: the answer was stopped, so its generator is closed if it still waits for somebody
            to ask it for its next event when the next one begins.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._claims: list[Itself] = []  # the first whose generator lives has the conversation
        self._undone: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        return any(map(_lives, list(self._claims)))

    def begin(self, itself: Itself) -> None:
        """This generator answers from here on.

        Raises ChatError while another does.
        """
        for claim in list(self._claims):
            generator = claim()
            if self.stopped and generator is not None and not generator.gi_running:
                generator.close()
            if not _lives(claim):
                self._remove(claim)
        self.stopped = False
        self._claims.append(itself)
        if next(filter(_lives, list(self._claims)), None) is not itself:
            self._remove(itself)
            raise ChatError("this chat is answering already: wait for it, or call chat.stop().")
        self.put_right()

    def _remove(self, claim: Itself) -> None:
        with contextlib.suppress(ValueError):  # another thread did
            self._claims.remove(claim)

    def leave(self, undo: Callable[[], None] | None) -> None:
        """What puts things right if the generator is left from here on; None: nothing has to."""
        self._undone = undo

    def end(self, itself: Itself) -> None:
        """The answer is complete; a generator that only has to say so is not waited for."""
        self._undone = None
        self._remove(itself)

    def put_right(self) -> None:
        """Undo what a generator that was left in the middle has begun."""
        undo = self._undone
        if undo is not None:
            undo()
        self._undone = None


def _lives(claim: Itself) -> bool:
    generator = claim()
    return generator is not None and generator.gi_frame is not None


def knowing_itself(make: Callable[[Itself], Iterator[Any]]) -> Iterator[Any]:
    """The generator that ``make`` gives, which is handed a weak reference to itself."""
    found: list[Itself] = []

    def itself() -> GeneratorType | None:
        return found[0]() if found else None

    generator = make(itself)
    found.append(weakref.ref(generator))
    return generator
