"""An answer that is held to a schema, or else calls of tools."""

from typing import Any

import numpy as np

from .constrained import Constraint
from .guides import Allowed


class CallsOrAnswer:
    """A guide: where the answer begins, the model may begin to call tools instead.

    Args:
        answer: what an answer is held to.
        calls: what calls are held to; None leaves them free.
    """

    def __init__(self, answer: Constraint, calls: Constraint | None = None):
        self.answer, self.calls = answer, calls
        self._opens = answer.tokenizer.id("<|channel>")
        self._call = answer.tokenizer.id("<|tool_call>")
        self._chosen: str | None = None  # "answer", "calls"; None before the first word

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
