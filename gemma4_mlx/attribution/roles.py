"""What each attention head does, over many prompts.

*Retrieval* is scored after Wu et al., "Retrieval Head Mechanistically Explains Long-Context
Factuality" (2024): while the model answers, a head copies a token of the needle if the token that
is said next is the one that it weighs most, and that one stands in the needle. Its score is the
share of the needle's tokens that it copies, from 0 to 1. The answer has to repeat the needle for a
head to reach 1.

*Induction* (Olsson et al., "In-context Learning and Induction Heads", 2022), *duplicate* and
*previous token*, *sink*, *picture* and *sound* heads are told by where their weights go. A score is
the mean mass over the queries that see at least one such key, so that a head which looks nowhere
else has 1; a head that looks everywhere alike has the ``chance`` that stands beside it. Soft tokens
of pictures and sounds are no copies of each other. Picture and sound are about queries of text
behind them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..arguments import check_model
from ..errors import AttributionError, ContextError
from ..generation import Token, engine, run_on_engine, stream
from ..generation.prefill import CHUNK, Prompt, SoftTokens
from ..model.cache import expect
from ..processing.inputs import ModelInputs
from ..progress import Counter, Steps, Teller
from ..tracing.data.tokens import Tokens
from ..tracing.recording.plans import AttentionPlan, TracePlan
from ..tracing.recording.recorder import Recorder, model_facts
from ..tracing.recording.run import inputs_of
from ..tracing.recording.tokens import tokens_of
from .roles_data import ROLES, HeadRoles

#: Tokens of an answer that the model gives itself, at most.
ANSWER = 64
#: Bytes of scores that are held at once for the answer's queries.
SCORES = 64 * 2**20


@dataclass(frozen=True)
class Needle:
    """A prompt that hides what the answer has to repeat.

    Attributes:
        prompt: what :func:`gemma4_mlx.trace` takes.
        needle: the text that is to be found, as it stands in the prompt, or its span of positions
            as a slice.
        answer: what the model is to say, as text or ids; None: what it does say, at temperature 0.
    """

    prompt: object
    needle: str | slice
    answer: str | Sequence[int] | None = None


def head_roles(
    model,
    prompts: Iterable,
    *,
    chunk: int = CHUNK,
    media_features=None,
    progress: bool | Callable[[Steps], None] | None = True,
) -> HeadRoles:
    """Score every attention head in every role, over prompts.

    Args:
        model: a loaded model.
        prompts: several prompts, each what :func:`gemma4_mlx.trace` takes; or a :class:`Needle`,
            without which there are no retrieval scores. For pictures and sounds some prompts need
            them. Repeated random tokens are what induction is measured on in the literature.
        chunk: tokens read at once.
        media_features: a dict that keeps encoded pictures and sounds between calls.
        progress: True shows a bar with prompts, rate and time left; False nothing; or it is called
            with a :class:`.Steps` after every prompt.

    Every prompt counts alike. Memory is that of reading a prompt, beside it some numbers for each
    head and query.

    Raises:
        AttributionError: no prompt, one prompt that is given without a list, a needle that does not
            stand in its prompt or stands there twice, an empty answer, or ``model`` is none.
        TraceError: text or messages for a model without tokenizer; attention that an intervention
            changes.
        ContextError: a prompt is empty, or longer than the model's context.
        MediaError: a prompt holds media that the model cannot take.
        GenerationError: a token id in a prompt is outside the vocabulary.
        ChatError: messages that the chat template refuses.
    """
    check_model(model, "head_roles", AttributionError, " and then prompts")
    if isinstance(prompts, str | Needle | ModelInputs) or not isinstance(prompts, Iterable):
        raise AttributionError("head_roles takes a list of prompts, also of one")
    prompts = list(prompts)
    if not prompts or chunk < 1:
        raise AttributionError(f"{len(prompts)} prompts in chunks of {chunk} tokens tell nothing")
    readings = [_reading(model, prompt, media_features) for prompt in prompts]
    mx.eval(model.parameters())  # lazy arrays belong to the thread that made them
    table, count, tell = _Table(model), Counter("prompts"), Teller(progress)
    try:
        for done, reading in enumerate(readings, 1):
            table.add(engine().run(_read, model, reading, chunk, media_features), reading)
            tell(count(done, len(readings)))
    finally:
        tell.end()
    return table.result()


@dataclass(frozen=True)
class _Reading:
    """A prompt with its answer behind it. ``needle``: its span; ``answer``: where that begins."""

    prompt: Prompt
    tokens: Tokens
    needle: slice | None = None
    answer: int = 0


def _reading(model, given, media_features) -> _Reading:
    needle = given if isinstance(given, Needle) else None
    inputs = inputs_of(model, given if needle is None else needle.prompt)
    prompt = Prompt.of(model, inputs)
    context = model.config.text.max_position_embeddings
    span, begin = None, len(prompt)
    if needle is not None:
        span = _span(tokens_of(model, np.array(prompt.tokens, np.int32), prompt.inputs), needle)
        answer = _answer(model, prompt, needle.answer, media_features)
        types = np.pad(prompt.inputs.token_types, (0, len(answer)))
        whole = ModelInputs([*prompt.tokens, *answer], types, prompt.inputs.media)
        prompt = Prompt.of(model, whole)
    if len(prompt) > context:
        raise ContextError(
            f"The prompt has {len(prompt):,} tokens, the model's context is {context:,}."
        )
    tokens = tokens_of(model, np.array(prompt.tokens, np.int32), prompt.inputs)
    return _Reading(prompt, tokens, span, begin)


def _span(tokens: Tokens, needle: Needle) -> slice:
    """Where the needle stands."""
    if isinstance(needle.needle, slice):
        start, stop, step = needle.needle.indices(len(tokens))
        if start >= stop or step != 1:
            raise AttributionError(
                f"the needle {needle.needle} is no span of the prompt's {len(tokens)} tokens"
            )
        return slice(start, stop)
    found = tokens.find(needle.needle) if needle.needle else []
    if len(found) != 1:
        raise AttributionError(
            f"the needle {needle.needle!r} stands in the prompt {len(found)} times: give a text "
            "that stands there once, or its positions as a slice"
        )
    return found[0]


def _answer(model, prompt: Prompt, given, media_features) -> list[int]:
    if given is None:
        options = {"temperature": 0, "max_tokens": ANSWER}
        how = {"options": options, "media_features": media_features}
        events = run_on_engine(stream, model, prompt.inputs, **how)
        answer = [event.id for event in events if isinstance(event, Token)]
    elif isinstance(given, str):
        if model.tokenizer is None:
            raise AttributionError("an answer as text needs a tokenizer; give its ids")
        answer = model.tokenizer.encode(given)
    else:
        answer = [int(token) for token in given]
    if not answer:
        raise AttributionError("the answer to a needle's prompt is empty")
    return answer


def _read(model, reading: _Reading, chunk: int, media_features):
    """One prompt's masses, {summary: (layers, heads, R)} sums over each bin's queries, and its
    copies, (layers, heads) or None; run by the engine."""
    prompt, n = reading.prompt, len(reading.prompt)
    # Of a prompt with media the queries of text are told apart from the others.
    bins = n if prompt.inputs.media else 1
    plan = AttentionPlan(bins=bins, overview=False, columns=False, links=0, retain="none")
    recorder = Recorder(model, TracePlan(attention=plan), n, prompt.inputs)
    copies = None if reading.needle is None else _Copies(model, reading)
    cache = model.make_cache()
    expect(cache, n)
    soft = SoftTokens(model, prompt, 0, media_features)
    with model.observe(recorder, *([] if copies is None else [copies])):
        for start, stop in prompt.inputs.chunks(chunk):
            tokens = mx.array(prompt.tokens[start:stop])[None]
            mx.eval(model.hidden(tokens, cache, soft.between(start, stop)))
            mx.clear_cache()
    parts = recorder.trace().attention.parts
    masses = {name: np.stack([part.statistics[name] for part in parts])
              for name in parts[0].statistics}  # fmt: skip
    return masses, None if copies is None else copies.scores()


class _Copies:
    """An observer that notes which of the needle's tokens each head copies."""

    def __init__(self, model, reading: _Reading):
        self._ids, self._needle = np.array(reading.prompt.tokens), reading.needle
        # The query before a token is the one that says it.
        self._queries = np.arange(reading.answer - 1, len(self._ids) - 1)
        text = model.config.text
        self._copied = [
            [set() for _ in range(text.num_attention_heads)] for _ in range(text.num_hidden_layers)
        ]
        self._q = None

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "queries":
            self._q = value
        if name != "keys":
            return
        first, n = geometry.query_start, geometry.n
        rows = self._queries[(self._queries >= first) & (self._queries < first + n)] - first
        heads, m = self._q.shape[1], value.shape[2]
        size = max(1, SCORES // (4 * heads * m))
        keys = value[0].astype(mx.float32)[:, None].swapaxes(-1, -2)  # (kv heads, 1, D, m)
        for i in range(0, len(rows), size):
            some = rows[i : i + size]
            q = self._q[0][:, mx.array(some)].astype(mx.float32)  # (heads, r, D)
            scores = (q.reshape(keys.shape[0], -1, *q.shape[1:]) @ keys).reshape(heads, -1, m)
            scores = mx.where(geometry.mask(some)[0], scores, -mx.inf)
            most = np.array(scores.argmax(axis=-1)) + geometry.key_start  # (heads, r)
            best = scores.max(axis=-1, keepdims=True)
            copies = np.array((scores == best).sum(axis=-1) == 1)  # weighed alike, none is
            said = self._ids[some + first + 1]
            copies &= (self._ids[most] == said) & (most >= self._needle.start)
            copies &= most < self._needle.stop
            for head, r in np.argwhere(copies):
                self._copied[layer][head].add(int(said[r]))

    def scores(self) -> np.ndarray:
        """Shares of the needle's different tokens that were copied, (layers, heads)."""
        count = len(np.unique(self._ids[self._needle]))
        return np.array([[len(copied) / count for copied in layer] for layer in self._copied])


class _Table:
    """Scores that are summed over prompts."""

    def __init__(self, model):
        text = model.config.text
        self._facts = model_facts(model), tuple(map(str, model.interventions))
        self._types, self._window = tuple(text.layer_types), text.sliding_window
        layers, heads = text.num_hidden_layers, text.num_attention_heads
        self._sums = {role: np.zeros((layers, heads)) for role in ROLES}
        self._chance = {role: np.zeros(layers) for role in ROLES}
        self._prompts = {role: np.zeros(layers, np.int32) for role in ROLES}

    def add(self, found: tuple, reading: _Reading) -> None:
        masses, copies = found
        if copies is not None:
            self._sums["retrieval"] += copies
            self._prompts["retrieval"] += 1
        windows = {kind: None if kind == "full_attention" else self._window
                   for kind in self._types}  # fmt: skip
        targets = {kind: targets_of(reading.tokens, window) for kind, window in windows.items()}
        for layer, kind in enumerate(self._types):
            for role, (names, queries, keys, seen) in targets[kind].items():
                can = queries & (keys > 0)
                if not can.any():
                    continue
                mass = sum(masses[name][layer] for name in names if name in masses)
                if mass.shape[-1] == len(can):  # by query
                    total = mass[:, can].sum(axis=-1)
                else:  # of all; the first token's mass on itself is no choice of the head
                    total = mass.sum(axis=-1) - (role == "sink")
                self._sums[role][layer] += np.clip(total / can.sum(), 0, 1)
                self._chance[role][layer] += (keys[can] / seen[can]).mean()
                self._prompts[role][layer] += 1

    def result(self) -> HeadRoles:
        with np.errstate(invalid="ignore"):
            scores = {role: (sums / self._prompts[role][:, None]).astype(np.float32)
                      for role, sums in self._sums.items()}  # fmt: skip
            chance = {role: (sums / self._prompts[role]).astype(np.float32)
                      for role, sums in self._chance.items()}  # fmt: skip
        return HeadRoles(scores, chance, self._prompts, self._types, *self._facts)


def targets_of(tokens: Tokens, window: int | None) -> dict[str, tuple]:
    """Of each role but retrieval: the summaries that hold its mass, which queries it is about,
    bool (n,), how many of its keys each query sees, and how many keys at all, (n,) each."""
    n = len(tokens)
    at = np.arange(n)
    low = np.zeros(n, int) if window is None else np.maximum(at - window + 1, 0)
    everywhere, seen = np.ones(n, bool), at - low + 1
    soft = {kind: tokens.of_kind(kind) for kind in ("image", "video", "audio")}
    text = ~(soft["image"] | soft["video"] | soft["audio"])
    duplicate, induction = _copies(np.where(text, tokens.ids, -1 - at), low)
    found = {
        "induction": (("induction",), everywhere, induction, seen),
        "duplicate": (("same",), everywhere, duplicate, seen),
        "previous": (("previous",), everywhere, (at - 1 >= low) & (at > 0), seen),
        "sink": (("first",), at > 0, low == 0, seen),
    }
    for role, kinds in (("picture", ("image", "video")), ("sound", ("audio",))):
        before = np.concatenate([[0], np.cumsum(sum(soft[kind] for kind in kinds))])
        found[role] = (kinds, text, before[at + 1] - before[low], seen)
    return found


def _copies(ids: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many earlier copies of its token each position sees from ``low`` on, and how many tokens
    that followed one: (n,) each."""
    duplicate, induction = np.zeros(len(ids), int), np.zeros(len(ids), int)
    order = np.argsort(ids, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        rank = np.arange(len(places))
        duplicate[places] = rank - np.searchsorted(places, low[places])
        induction[places] = rank - np.searchsorted(places + 1, low[places])
    return duplicate, induction
