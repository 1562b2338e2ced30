"""Guides: host-side rules for which token may come next.

A guide sees every generated token and says what is allowed next: everything (None), one token
(its id), or a set (a bool array over the vocabulary). Decoding asks it while the accelerator
already computes the logits that the answer applies to, so a guide costs time only where it is
slower than the model.
"""

from typing import Protocol

import mlx.core as mx
import numpy as np

from ..errors import GenerationError

Allowed = None | int | np.ndarray


class Guide(Protocol):
    """What decoding asks of a guide."""

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        """A generation begins after this prompt; ``stops`` are the ids that end it."""

    def allowed(self) -> Allowed:
        """None, one id, or bool (V,)."""

    def accept(self, token: int) -> None:
        """This token was generated."""

    @property
    def finished(self) -> bool:
        """True: nothing may follow; generation ends without waiting for a stop token."""

    @property
    def complete(self) -> bool:
        """False while ending here would leave the output unfinished."""


class ThinkingBudget:
    """Ends the thinking channel after a number of tokens.

    Counts the tokens between ``<|channel>`` (also one that the prompt left open) and
    ``<channel|>``; when the budget is used up, a newline, unless one was just written, and
    ``<channel|>`` are forced, and the model answers with what it has thought so far. The two
    closing tokens are not counted; a budget of 0 closes the channel right after its name line.

    Raises GenerationError for a budget below 0.
    """

    def __init__(self, tokenizer, budget: int):
        if budget < 0:
            raise GenerationError(f"A thinking budget is 0 or more tokens, not {budget}.")
        self.budget = budget
        self._opens = tokenizer.id("<|channel>")
        self._closes = tokenizer.id("<channel|>")
        newline = tokenizer.encode("\n")
        self._newline = newline[0] if len(newline) == 1 else None
        #: the name line, "thought\n", is part of the syntax and not counted
        self._name = tokenizer.encode("thought\n")
        self._reset()

    def _reset(self) -> None:
        self._spent: int | None = None  # None: not in the channel
        self._last: int | None = None
        #: True once the budget has closed the channel
        self.exhausted = False

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        self._reset()
        opened = [i for i, token in enumerate(prompt) if token in (self._opens, self._closes)]
        if opened and prompt[opened[-1]] == self._opens:
            self._spent = -len(self._name)
            for token in prompt[opened[-1] + 1 :]:
                self._count(token)

    def _count(self, token: int) -> None:
        self._spent += 1
        self._last = token

    def allowed(self) -> Allowed:
        if self._spent is None or self._spent < self.budget:
            return None
        self.exhausted = True
        if self._newline is not None and self._last != self._newline:
            return self._newline
        return self._closes

    def accept(self, token: int) -> None:
        if token == self._opens:
            self._spent, self._last = -len(self._name), token
        elif token == self._closes:
            self._spent = None
        elif self._spent is not None:
            self._count(token)

    @property
    def finished(self) -> bool:
        return False

    @property
    def complete(self) -> bool:
        return True


class Guides:
    """Several guides as one: the first that forces a token wins, sets are intersected."""

    def __init__(self, guides: list[Guide]):
        self._guides = list(guides)

    def __bool__(self) -> bool:
        return bool(self._guides)

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        for guide in self._guides:
            guide.start(prompt, vocab_size, stops)

    def accept(self, token: int) -> None:
        for guide in self._guides:
            guide.accept(token)

    @property
    def finished(self) -> bool:
        return any(guide.finished for guide in self._guides)

    @property
    def complete(self) -> bool:
        return all(guide.complete for guide in self._guides)

    @property
    def thinking_cut(self) -> bool:
        """A budget ended the thinking."""
        return any(getattr(guide, "exhausted", False) for guide in self._guides)

    def allowed(self) -> Allowed:
        mask = None
        for guide in self._guides:
            answer = guide.allowed()
            if isinstance(answer, int):
                return answer
            if answer is not None:
                mask = answer if mask is None else mask & answer
        return mask

    def apply(self, logits: mx.array) -> mx.array:
        """Logits (1, V) with what is not allowed at minus infinity."""
        allowed = self.allowed()
        if allowed is None:
            return logits
        if isinstance(allowed, int):
            only = mx.arange(logits.shape[-1])[None] == allowed
            return mx.where(only, mx.maximum(logits, -1e30), -mx.inf)
        return mx.where(mx.array(allowed)[None], logits, -mx.inf)
