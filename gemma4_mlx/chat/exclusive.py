"""Lets a chat give one answer at a time, however the one before it ended.

Answers are generators, and a lock is not safe here: a KeyboardInterrupt may arrive on the very line
that would release it, and the chat would be busy for ever. So there is nothing to release. A chat
is busy while the generator of its answer is alive, and Python itself ends a generator that an
exception leaves.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

from ..errors import ChatError

#: Called for a generator, it returns that generator, None once it is gone (a weak reference).
Itself = Callable[[], GeneratorType | None]


class Answering:
    """Which generator answers now, and how to undo one that was abandoned halfway.

    Attributes:
        stopped: the answer was told to stop. If nobody asks its generator for the rest, the next
            answer closes it instead of refusing to begin.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._claims: list[Itself] = []  # the first whose generator lives has the conversation
        self._undone: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        return any(map(_lives, list(self._claims)))

    def begin(self, itself: Itself) -> None:
        """Register the generator that answers from now on; undo an abandoned one before it.

        Raises ChatError while another answers.
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
        with contextlib.suppress(ValueError):  # another thread removed it
            self._claims.remove(claim)

    def undo_if_abandoned(self, undo: Callable[[], None] | None) -> None:
        """From now on, ``undo`` must be called if the generator is abandoned; None: nothing."""
        self._undone = undo

    def end(self, itself: Itself) -> None:
        """The answer is complete. The chat is free even if the last event was not read yet."""
        self._undone = None
        self._remove(itself)

    def put_right(self) -> None:
        """Undo what an abandoned generator has begun, if there is one."""
        undo = self._undone
        if undo is not None:
            undo()
        self._undone = None


def _lives(claim: Itself) -> bool:
    generator = claim()
    return generator is not None and generator.gi_frame is not None


def knowing_itself(make: Callable[[Itself], Iterator[Any]]) -> Iterator[Any]:
    """The generator made by ``make``, which gets a weak reference to that generator as its
    argument: a strong one would keep it alive."""
    found: list[Itself] = []

    def itself() -> GeneratorType | None:
        return found[0]() if found else None

    generator = make(itself)
    found.append(weakref.ref(generator))
    return generator
