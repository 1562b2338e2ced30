"""What generation tells its caller, one small immutable value at a time.

A stream is any number of :class:`Progress` while the prompt is read, then :class:`Token` after
:class:`Token`, then exactly one :class:`Finish`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ..checkpoints.disk.reads import Reads


class Alternative(NamedTuple):
    """A likely token at the place of a generated one; that one may be among them."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Progress:
    """The prompt is being read.

    Attributes:
        done: prompt tokens whose keys and values are cached, reused ones included.
        total: prompt tokens.
        seconds: since the stream began.
    """

    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: token id.
        text: the text that can be shown now that this token is known. Parts of characters and
            possible beginnings of stop strings are held back, so this often differs from the
            token's own text. The texts of all tokens joined (plus :attr:`Finish.text`) are the
            answer.
        logprob: natural log of the model's probability of this token, before temperature,
            truncation, penalties or a constraint touched the distribution.
        alternatives: the most likely tokens at this place under the same distribution, best
            first; empty unless asked for.
        index: 0 for the first generated token.
        seconds: since the stream began.
        stop: True if this is a stop token; its own text is never part of the answer.
    """

    id: int
    text: str
    logprob: float
    alternatives: tuple[Alternative, ...]
    index: int
    seconds: float
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Generation is over.

    Attributes:
        reason: ``"stop"`` (a stop token, or a constraint that is complete), ``"stop_string"``,
            ``"length"`` (max_tokens or the end of the context), ``"memory"`` (without max_tokens:
            the memory guard's limit), or ``"cancelled"``.
        prompt_tokens: length of the prompt.
        reused_tokens: how many of these were in the cache already.
        generated_tokens: Token events that were sent.
        prefill_seconds: from the start to the first token (to the end, if there is none).
        decode_seconds: from the first token to the end.
        peak_memory: bytes of MLX memory at the highest point.
        text: text still held back when a cancellation ended generation, else "".
        stop_string: the stop string that was met, or None.
        complete: False if a constraint was not yet satisfied, so the output is unfinished.
        thinking_cut: True if a thinking budget closed the thinking channel. ``reason`` does not say
            so: it is about the answer that follows.
        seed: the seed that reproduces this sample, None if nothing was sampled at random.
        reuse_note: why less than half of what was cached could be reused; "" otherwise.
        reads: what was read from disk, where the model has weights there; else None.
    """

    reason: str
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    peak_memory: int
    text: str = ""
    stop_string: str | None = None
    complete: bool = True
    thinking_cut: bool = False
    seed: int | None = None
    reuse_note: str = ""
    reads: Reads | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first; 0 if there was at most one."""
        later = self.generated_tokens - 1
        return later / self.decode_seconds if later > 0 and self.decode_seconds > 0 else 0.0
