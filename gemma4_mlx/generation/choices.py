"""A guide for agents with a schema: an answer that satisfies it, or calls of tools instead."""

from typing import Any

import numpy as np

from .constrained import Constraint
from .guides import Allowed


class CallsOrAnswer:
    """A guide that lets the model choose, with the first token after any thinking.

    If that token is ``<|tool_call>``, the rest follows ``calls``, else ``answer``.

    Args:
        answer: constraint of an answer.
        calls: constraint of calls; None leaves them free.
    """

    def __init__(self, answer: Constraint, calls: Constraint | None = None):
        self.answer, self.calls = answer, calls
        self._opens = answer.tokenizer.id("<|channel>")
        self._call = answer.tokenizer.id("<|tool_call>")
        self._chosen: str | None = None  # "answer" or "calls"; None until chosen

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        self._chosen = None
        for guide in filter(None, (self.answer, self.calls)):
            guide.start(prompt, vocab_size, stops)

    def allowed(self) -> Allowed:
        if self._chosen == "calls":
            return self.calls.allowed() if self.calls is not None else None
        allowed = self.answer.allowed()
        if self._chosen is None and not self.answer.in_thought:
            allowed = np.array(allowed)
            allowed[self._call] = True
        return allowed

    def accept(self, token: int) -> None:
        thought = self.answer.in_thought or token == self._opens
        if self._chosen is None and not thought:
            self._chosen = "calls" if token == self._call else "answer"
        if self._chosen != "calls":
            self.answer.accept(token)
        if self._chosen != "answer" and self.calls is not None:
            self.calls.accept(token)

    @property
    def called(self) -> bool:
        """Whether the model chose to call."""
        return self._chosen == "calls"

    @property
    def finished(self) -> bool:
        guide = self.calls if self.called else self.answer
        return guide is not None and guide.finished

    @property
    def complete(self) -> bool:
        guide = self.calls if self.called else self.answer
        return guide is None or guide.complete

    @property
    def text(self) -> str:
        """The constrained answer so far."""
        return self.answer.text

    def value(self) -> Any:
        """The finished answer; see :meth:`Constraint.value`."""
        return self.answer.value()
