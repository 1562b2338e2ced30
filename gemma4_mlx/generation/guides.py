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
    """The methods that decoding calls."""

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        """A generation begins after this prompt; ``stops`` are the ids that end it."""

    def allowed(self) -> Allowed:
        """Which tokens may come next: None for all, one id, or bool (V,)."""

    def accept(self, token: int) -> None:
        """This token was generated."""

    @property
    def finished(self) -> bool:
        """True: nothing may follow; generation ends without waiting for a stop token."""

    @property
    def complete(self) -> bool:
        """False while ending here would leave the output unfinished."""


class ThinkingBudget:
    """Ends the thinking after a number of tokens.

    Counts the tokens between ``<|channel>`` and ``<channel|>`` over all channels of the model's
    turn, including those already in the prompt (an agent thinks before and after a call). When the
    budget is used up, ``<channel|>`` is forced, with a newline before it unless one was just
    written; the model then answers from what it has thought so far and cannot open another channel.
    Channels' name lines and the two closing tokens are not counted; a budget of 0 closes the first
    channel right after its name line.

    Raises GenerationError for a budget below 0.
    """

    def __init__(self, tokenizer, budget: int):
        if budget < 0:
            raise GenerationError(f"A thinking budget is 0 or more tokens, not {budget}.")
        self.budget = budget
        self._opens = tokenizer.id("<|channel>")
        self._closes = tokenizer.id("<channel|>")
        self._turn = tokenizer.id("<|turn>")
        newline = tokenizer.encode("\n")
        self._newline = newline[0] if len(newline) == 1 else None
        #: the name line, "thought\n", is part of the syntax and not counted
        self._name = tokenizer.encode("thought\n")
        self._reset()

    def _reset(self) -> None:
        self._inside = self._closed = False  # now in a channel; a channel was closed
        self._spent = self._name_left = 0
        self._last: int | None = None
        #: True once the budget has closed the channel
        self.exhausted = False

    def start(self, prompt: list[int], vocab_size: int, stops: frozenset[int]) -> None:
        self._reset()
        begin = len(prompt) - next(
            (back for back, token in enumerate(reversed(prompt)) if token == self._turn),
            len(prompt),
        )
        for token in prompt[begin:]:
            self.accept(token)
        self._no_channel = np.ones(vocab_size, bool)
        self._no_channel[self._opens] = False

    def allowed(self) -> Allowed:
        if self._name_left or self._spent < self.budget:
            return None
        if not self._inside:
            return self._no_channel if self._closed else None
        self.exhausted = True
        if self._newline is not None and self._last != self._newline:
            return self._newline
        return self._closes

    def accept(self, token: int) -> None:
        if token == self._opens:
            self._inside, self._name_left = True, len(self._name)
        elif token == self._closes:
            self._closed |= self._inside
            self._inside, self._name_left = False, 0
        elif self._name_left:
            self._name_left -= 1
        elif self._inside:
            self._spent += 1
        self._last = token

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
        """Whether a budget ended the thinking."""
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
        """Logits (1, V) with those of tokens that are not allowed set to minus infinity."""
        allowed = self.allowed()
        if allowed is None:
            return logits
        if isinstance(allowed, int):
            only = mx.arange(logits.shape[-1])[None] == allowed
            return mx.where(only, mx.maximum(logits, -1e30), -mx.inf)
        return mx.where(mx.array(allowed)[None], logits, -mx.inf)
