"""Reading the prompt, in chunks.

A chunk only has to fill the cache (:meth:`Model.read`). So the layers above the last one that owns
keys and values (20 of E2B's 35) are not computed for it, nor is the 262,144-wide output head: that
happens for the prompt's last few tokens alone, in the step that predicts the first new one.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import ContextError, GenerationError
from ..processing.inputs import ModelInputs, encode_media
from .caches import CachedMedia, PromptCache, cached_media

CHUNK = 2048
#: If no more than this many tokens of a prompt are left, they are read in the same pass that
#: predicts the first new token: a short new turn then reads the weights once instead of twice.
AT_ONCE = 32
#: Freed memory that MLX may keep for reuse between two chunks: enough for a short new turn to
#: allocate nothing, while the large arrays of a long prompt's chunks are given back.
KEPT_BYTES = 64 * 2**20


@dataclass
class Prompt:
    """A checked prompt.

    Attributes:
        inputs: tokens and media.
        media: the media as the cache records them.
    """

    inputs: ModelInputs
    media: list[CachedMedia]

    @classmethod
    def of(cls, model, inputs) -> "Prompt":
        """From a ``ModelInputs``, ids, or raw text (which gets ``<bos>`` and nothing else).

        Raises:
            ContextError: the prompt is empty.
            GenerationError: it is none of these, text for a model without tokenizer, or an id is
                outside the vocabulary.
        """
        if isinstance(inputs, str):
            if not inputs:
                raise ContextError("The prompt is empty: give at least one character.")
            if model.tokenizer is None:
                raise GenerationError("This model has no tokenizer: give token ids, not text.")
            inputs = [model.config.text.bos_token_id, *model.tokenizer.encode(inputs)]
        if not isinstance(inputs, ModelInputs):
            try:
                inputs = ModelInputs.of_tokens([int(token) for token in inputs])
            except (TypeError, ValueError):
                raise GenerationError(
                    f"A prompt is text, token ids or ModelInputs, not {inputs!r:.80}; a "
                    "conversation goes to Chat."
                ) from None
        if not inputs.tokens:
            raise ContextError("The prompt is empty: give at least one token.")
        vocab = model.config.text.vocab_size
        low, high = min(inputs.tokens), max(inputs.tokens)
        if low < 0 or high >= vocab:
            bad = low if low < 0 else high
            raise GenerationError(f"The prompt holds token {bad}; ids go from 0 to {vocab - 1}.")
        return cls(inputs, cached_media(inputs))

    @property
    def tokens(self) -> list[int]:
        return self.inputs.tokens

    def __len__(self) -> int:
        return len(self.inputs)

    def picture(self, position: int) -> tuple[int, int] | None:
        """Start and end of the picture whose soft tokens include a position, if there is one."""
        for span in self.inputs.media:
            if span.kind != "audio" and span.start <= position < span.stop:
                return span.start, span.stop
        return None

    @property
    def tail(self) -> int:
        """Where the last step begins: at the last token, or at the start of a picture that it
        belongs to, whose tokens may see each other and must be computed together."""
        last = len(self) - 1
        return (self.picture(last) or (last,))[0]

    def chunk_end(self, start: int, size: int) -> int:
        """End of the chunk of about ``size`` tokens from ``start``. Never inside a picture, whose
        tokens may see each other: one of more than ``size`` tokens makes a longer chunk."""
        end = min(start + size, self.tail)
        if end < len(self) and (inside := self.picture(end)):
            first, last = inside
            if first < end:
                end = first if first > start else last
        return end


def turn_places(tokens: Sequence[int], tokenizer) -> tuple[int, int]:
    """Positions where the user's last turn and the model's answer begin in a conversation's prompt;
    in a prompt without turns, the last token and the end."""
    end = len(tokens)
    mark = tokenizer.special_ids.get("<|turn>") if tokenizer is not None else None
    marks = np.flatnonzero(np.asarray(tokens) == mark) if mark is not None else ()
    if not len(marks):
        return end - 1, end
    user = tokenizer.encode("user")[0]
    said = [i for i in marks if i + 1 < end and tokens[i + 1] == user]
    opening = 1 + len(tokenizer.encode("model\n"))
    return int(said[-1] if said else marks[-1]), min(int(marks[-1]) + opening, end)


class SoftTokens:
    """The soft tokens of a prompt's pictures and sounds, encoded when first needed.

    ``start``: tokens before it are cached, so media among them are not encoded. ``known``: a dict
    that keeps encoded media for later generations.
    """

    def __init__(self, model, prompt: Prompt, start: int, known: MutableMapping | None):
        self._model, self._inputs = model, prompt.inputs
        self._start, self._known = start, known
        self._encoded: list | None = None

    def between(self, start: int, stop: int) -> mx.array | None:
        """Rows (m, H) for the m soft tokens in [start, stop), None where there are none."""
        if not any(s.start < stop and start < s.stop for s in self._inputs.media):
            return None
        if self._encoded is None:
            self._encoded = encode_media(self._model, self._inputs, self._known, self._start)
        return self._inputs.features(self._encoded, start, stop)


def prefill(
    model,
    cache: PromptCache,
    prompt: Prompt,
    soft: SoftTokens,
    *,
    chunk: int = CHUNK,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Compute the prompt from where the cache ends up to its last step; yields the position after
    every chunk. Stops early, with the cache holding what was computed, once ``cancelled()``."""
    start = len(cache)
    while len(prompt) - start > min(AT_ONCE, chunk) and start < prompt.tail and not cancelled():
        stop = prompt.chunk_end(start, chunk)
        tokens = mx.array(prompt.tokens[start:stop])[None]
        model.read(tokens, cache.entries, soft.between(start, stop))
        mx.eval([entry.state for entry in cache.entries])
        cache.commit(prompt.tokens[start:stop], [m for m in prompt.media if m.start < stop])
        cache.snapshot_if_due()
        if mx.get_cache_memory() > KEPT_BYTES:
            mx.clear_cache()
        start = stop
        yield stop
