"""Generation as a stream of events.

    for event in stream(model, "Once upon a time"):
        if isinstance(event, Token):
            print(event.text, end="")

Decoding keeps the accelerator busy: while the host handles token n, token n + 1 is already being
computed (``mx.async_eval``). With a guide (:class:`~.guides.Guide`: grammar, thinking budget) the
host must first see token n to know what may follow, so only the logits are computed ahead; the
guide's mask is made meanwhile.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..errors import ContextError, GenerationError
from ..model.cache import expect
from .caches import PromptCache
from .events import Alternative, Finish, Progress, Token
from .guides import Guide, Guides
from .memory import check_memory, chunk_for, under_way
from .prefill import Prompt, SoftTokens, prefill, turn_places
from .sampling import SamplingOptions, likeliest, make_processors, make_sampler
from .stopping import AnswerText, stop_token_ids

Event = Progress | Token | Finish


def stream(
    model,
    inputs,
    *,
    options: SamplingOptions | Mapping[str, Any] | None = None,
    cache: PromptCache | None = None,
    constraint: Guide | None = None,
    guides: Sequence[Guide] = (),
    cancel: threading.Event | None = None,
    alternatives: int = 0,
    progress: bool = True,
    prefill_chunk: int | None = None,
    sampler: Callable[[mx.array], mx.array] | None = None,
    media_features: MutableMapping | None = None,
    memory_guard: bool | None = None,
    beyond_context: bool = False,
    text: AnswerText | None = None,
) -> Iterator[Event]:
    """Generate in the calling thread, yielding Progress, Token and finally one Finish.

    Args:
        model: a loaded :class:`~gemma4_mlx.model.gemma4.Model`.
        inputs: a ``ModelInputs``, token ids, or raw text (``<bos>`` is put before it).
        options: how to sample and stop; a dict overrides single options. By default the
            checkpoint's ``generation_config.json``.
        cache: where keys and values are kept. What it has in common with the prompt is not
            computed again; afterwards it holds prompt and answer, exactly as far as they were
            computed, also after a cancellation or an exception.
        constraint, guides: host-side rules on which token may come next.
        cancel: set it from any thread, and generation ends within one token (or one prefill
            chunk) with a Finish of reason "cancelled". The same call made again goes on.
        alternatives: how many of the likeliest tokens to report with each token.
        progress: False leaves out the Progress events.
        prefill_chunk: prompt tokens computed at once; None: 2,048, with layers on disk more.
        sampler: an mlx-lm sampler, logprobs (1, V) -> token (1,), in place of the options'.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        memory_guard: False skips the estimate of memory; None: as GEMMA4_MLX_MEMORY_GUARD says.
        beyond_context: allow more tokens than the model was made for.
        text: turns the tokens into text up to a stop string of the options, in place of one that
            begins where the prompt ends.

    Raises:
        ContextError: the prompt is empty, longer than the context, or will not fit in memory.
        GenerationError: options, a prompt or token ids that make no sense, text for a model without
            tokenizer, or a model, cache, constraint or guide of a wrong type.
    """
    if not hasattr(model, "config"):
        raise GenerationError(
            f"stream takes a loaded model, such as g4.load(...), not {type(model).__name__}."
        )
    if prefill_chunk is not None and (not isinstance(prefill_chunk, int) or prefill_chunk < 1):
        raise GenerationError(f"prefill_chunk must be 1 token or more, not {prefill_chunk!r}.")
    run = _Run(model, inputs, options, constraint, guides, alternatives, sampler, beyond_context)
    run.text = text or AnswerText(model.tokenizer, run.options.stop, run.prompt.tokens)
    run.cancelled = cancel.is_set if cancel is not None else (lambda: False)
    run.cache = _checked_cache(cache, model)
    prefill_chunk = chunk_for(model, len(run.prompt), prefill_chunk)
    claimed = run.make_room(prefill_chunk, memory_guard)
    with under_way(model, run.cache, claimed, prefill_chunk):
        with run.cache.in_use():
            try:
                run.reused = run.cache.reuse(run.prompt.inputs)
                expect(run.cache.entries, len(run.prompt))
                if progress:
                    yield Progress(run.reused, len(run.prompt), run.seconds())
                soft = SoftTokens(model, run.prompt, run.reused, media_features)
                for done in prefill(
                    model, run.cache, run.prompt, soft, chunk=prefill_chunk, cancelled=run.cancelled
                ):
                    run.keep_turn()
                    if progress:
                        yield Progress(done, len(run.prompt), run.seconds())
                if not run.cancelled():
                    yield from run.decode(soft)
            finally:
                run.cache.settle()
        run.cache.snapshot()
        yield run.finish()


def _checked_cache(cache: PromptCache | None, model) -> PromptCache:
    if cache is None:
        return PromptCache(model, snapshot_bytes=0)  # nobody will come back to it
    if not isinstance(cache, PromptCache):
        raise GenerationError(f"cache takes a PromptCache(model), not {type(cache).__name__}.")
    if cache.model is not model:
        raise GenerationError("The cache belongs to another model.")
    if cache.busy:
        raise GenerationError("The cache is in use by another generation.")
    return cache


def _checked_guides(guides: Sequence[Guide], constraint: Guide | None) -> list[Guide]:
    if not isinstance(guides, Sequence):
        raise GenerationError(f"guides takes a list of guides, not {type(guides).__name__}.")
    found = [*guides, *([constraint] if constraint is not None else [])]
    for guide in found:
        if not hasattr(guide, "allowed"):
            raise GenerationError(
                f"{guide!r:.80} is no guide: a schema goes to Constraint.of(schema, "
                "model.tokenizer), and that to constraint."
            )
    return found


def resolve_options(model, options: SamplingOptions | Mapping | None) -> SamplingOptions:
    """The options as given, or the model's defaults with the given overrides."""
    if isinstance(options, SamplingOptions):
        return options
    config = getattr(model, "generation_config", None)
    return SamplingOptions.from_generation_config(config, **(options or {}))


class _Run:
    """One generation: what is fixed before it starts, and its decode loop."""

    def __init__(
        self, model, inputs, options, constraint, guides, alternatives, sampler, beyond_context
    ):
        self.started = time.perf_counter()
        self.model = model
        self.prompt = Prompt.of(model, inputs)
        self.turn = turn_places(self.prompt.tokens, model.tokenizer)
        self.options = options = resolve_options(model, options)
        text = model.config.text
        self.vocab = text.vocab_size
        if not 0 <= alternatives <= min(1000, self.vocab):
            raise GenerationError(f"alternatives must be 0 to 1000, not {alternatives!r}.")
        self.alternatives = alternatives
        self.limit = self._limit(text.max_position_embeddings, beyond_context)
        self.at_limit = "length"  # Finish.reason if the limit is reached
        self.stops = stop_token_ids(model, options)
        self.processors = make_processors(options, self.vocab)
        self.sample, self.seed = make_sampler(options, self.vocab)
        if sampler is not None:
            self.seed = None
            self.sample = lambda logits, index, best: sampler(
                logits - mx.logsumexp(logits, keepdims=True)
            )
        self.guides = Guides(_checked_guides(guides, constraint))
        self.reused = self.count = 0
        self.reads = model.on_disk and replace(model.on_disk.reads)  # before this run
        self.reason = "cancelled"
        self.first_token_at: float | None = None

    def _limit(self, context: int, beyond: bool) -> int:
        """How many tokens may be generated. Raises ContextError."""
        n, asked = len(self.prompt), self.options.max_tokens
        if beyond:
            return asked if asked is not None else max(context - n, 2048)
        if n > context:
            raise ContextError(
                f"The prompt has {n:,} tokens, the model's context is {context:,}: shorten the "
                "prompt, or pass beyond_context=True and expect worse answers."
            )
        left = context - n + 1  # the last token need not be read
        return left if asked is None else min(asked, left)

    def make_room(self, chunk: int, guard: bool | None) -> int:
        """Check that there is memory; returns the tokens that must fit. An answer of open length
        (``max_tokens=None``) gets a limit that the free memory allows. Raises ContextError."""
        n = len(self.prompt)
        most = n + self.limit - 1  # the last token need not be read
        least = most if self.options.max_tokens is not None else n
        fits = check_memory(self.model, self.cache, least, most, chunk, enabled=guard)
        if fits < most:
            self.limit, self.at_limit = fits - n + 1, "memory"
        return least

    def keep_turn(self) -> None:
        """Have the cache keep the turn's positions, once the prompt is read that far."""
        if len(self.cache) >= self.turn[0]:
            self.cache.keep_turn(*self.turn)

    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def choose(self, logits: mx.array, index: int) -> tuple[mx.array, ...]:
        """Sample from logits (1, V) and start computing: token (1,), its logprob (1, 1), and if
        asked for the ids and logprobs of the alternatives, (1, k) each."""
        free = logits
        best = None
        if self.alternatives:  # sorted once: the sampler's top_k are the first of these
            best = likeliest(free, max(self.alternatives, min(self.options.top_k, self.vocab)))
        if self.processors:
            logits = mx.array(logits)  # processors write in place
            for processor in self.processors:
                logits = processor(self.recent, logits)
        if self.guides:
            logits = self.guides.apply(logits)
        token = self.sample(logits, index, best if logits is free else None)  # (1,)
        if self.processors:
            self.recent = mx.concatenate([self.recent, token])[-self.options.penalty_context :]
        normaliser = mx.logsumexp(free, axis=-1, keepdims=True)
        chosen = [token, mx.take_along_axis(free, token[:, None], axis=-1) - normaliser]
        if self.alternatives:
            best = best[:, : self.alternatives]
            chosen += [best, mx.take_along_axis(free, best, axis=-1) - normaliser]
        mx.async_eval(*chosen)
        return tuple(chosen)

    def decode(self, soft: SoftTokens) -> Iterator[Token]:
        model, cache, prompt = self.model, self.cache, self.prompt
        self.guides.start(prompt.tokens, self.vocab, self.stops)
        if self.processors:
            tail = prompt.tokens[-self.options.penalty_context :]
            self.recent = mx.array(tail, dtype=mx.uint32)

        start = len(cache)
        tokens = mx.array(prompt.tokens[start:])[None]
        hidden = model.hidden(tokens, cache.entries, soft.between(start, len(prompt)))
        logits = model.head(hidden[:, -1:])[:, 0]  # (1, V)
        if self.guides:
            mx.async_eval(logits)
        step = self.choose(logits, 0)
        mx.eval(step, [entry.state for entry in cache.entries])
        cache.commit(prompt.tokens[start:], prompt.media)
        self.keep_turn()

        index = 0
        while True:
            following = None
            if index + 1 < self.limit:
                cache.expect(step[0])
                logits = model.head(model.hidden(step[0][None], cache.entries))[:, 0]
                if self.guides:
                    mx.async_eval(logits)
                else:
                    following = self.choose(logits, index + 1)
            token = int(step[0].item())
            if index + 1 < self.limit:
                cache.arrived(token)
            if self.first_token_at is None:
                self.first_token_at = self.seconds()
            self.guides.accept(token)
            event, ended = self._event(token, step, index)
            self.count = index + 1
            if ended:
                self.reason = ended
            yield event
            if ended or self.cancelled():
                return
            if index % 256 == 255:
                mx.clear_cache()
            index += 1
            step = following if following is not None else self.choose(logits, index)

    def _event(self, token: int, step: tuple, index: int) -> tuple[Token, str | None]:
        """The Token event and, if this token is the last, the reason."""
        stop = token in self.stops
        text = "" if stop else self.text.add(token)
        ended = None
        if stop or self.guides.finished:
            ended = "stop"
        elif index + 1 == self.limit:
            ended = self.at_limit
        if ended:
            text += self.text.finish()
        if self.text.met is not None:
            ended = "stop_string"
        event = Token(
            id=token,
            text=text,
            logprob=float(step[1].item()),
            alternatives=self._alternatives(*step[2:]) if self.alternatives else (),
            index=index,
            seconds=self.seconds(),
            stop=stop,
        )
        return event, ended

    def _alternatives(self, ids: mx.array, logprobs: mx.array) -> tuple[Alternative, ...]:
        pairs = zip(logprobs[0].tolist(), ids[0].tolist())
        name = self.model.tokenizer.token_text if self.model.tokenizer is not None else str
        best = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        return tuple(Alternative(i, name(i), logprob) for logprob, i in best)

    def finish(self) -> Finish:
        text = ""
        if self.reason == "cancelled":
            text = self.text.finish()
        end = self.seconds()
        first = self.first_token_at if self.first_token_at is not None else end
        return Finish(
            reason=self.reason,
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused,
            generated_tokens=self.count,
            prefill_seconds=first,
            decode_seconds=end - first,
            peak_memory=mx.get_peak_memory(),
            text=text,
            stop_string=self.text.met,
            complete=self.guides.complete,
            thinking_cut=self.guides.thinking_cut,
            seed=self.seed,
            reuse_note=self.cache.reuse_note,
            reads=self.model.on_disk and self.model.on_disk.reads - self.reads,
        )
