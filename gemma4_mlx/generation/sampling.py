"""Which token comes next: sampling options, and the sampler made from them.

Temperature, top-k, top-p and min-p are applied in the order of transformers
(``generation/utils.py``, ``_get_logits_processor``), for that order is what the numbers in a
checkpoint's ``generation_config.json`` mean. top-k goes first, so everything after it works on k
candidates instead of the vocabulary's 262,144. Penalties are mlx-lm's logits processors.

Randomness comes from a key of its own per token, derived from the seed: the same seed gives the
same tokens, and ``mx.random.seed`` of the user's notebook is neither read nor moved.
"""

import difflib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import mlx.core as mx

from ..errors import GenerationError

#: The keys of generation_config.json that map to options of the same name.
_FROM_FILE = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen and when to stop. All have working defaults (greedy).

    Attributes:
        temperature: 0 is greedy; 1 the model's own distribution.
        top_p: keep the smallest set of tokens with this much probability; 1 keeps all.
        top_k: keep the k likeliest tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the likeliest one's probability.
        repetition_penalty: divide (multiply, if negative) the logits of recent tokens; 1 is none.
        presence_penalty, frequency_penalty: subtract from the logits of recent tokens, once or
            for every time they occurred.
        penalty_context: how many recent tokens the three penalties look at.
        logit_bias: token id -> number added to its logit.
        suppress_tokens: ids that are never chosen.
        seed: makes sampling reproducible; None draws one and reports it in ``Finish.seed``.
        max_tokens: stop after this many; None goes on to the end of the context, or of the memory
            that the guard finds free.
        stop: strings that end the answer; the text before them is kept. Not looked for in thinking
            and tool calls.
        stop_tokens: ids that end generation, besides the model's own end-of-turn tokens.
        ignore_eos: go on after the model's own stop tokens (for measurements).

    Raises:
        GenerationError: a value outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_context: int = 64
    logit_bias: Mapping[int, float] | None = None
    suppress_tokens: tuple[int, ...] = ()
    seed: int | None = None
    max_tokens: int | None = 2048
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self):
        for name in ("stop", "stop_tokens", "suppress_tokens"):
            value = getattr(self, name)
            single = isinstance(value, str | int | float)
            object.__setattr__(self, name, (value,) if single else tuple(value or ()))
        _check(self)

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any] | None, **overrides):
        """Options from a ``generation_config.json``, with keyword overrides.

        ``do_sample: false`` (or absent) means greedy whatever the temperature in the file says,
        unless an override sets a temperature. Raises GenerationError as :meth:`override` does.

        >>> SamplingOptions.from_generation_config({"do_sample": True, "top_k": 64}).top_k
        64
        """
        config = dict(config or {})
        values = {k: config[k] for k in _FROM_FILE if config.get(k) is not None}
        values.setdefault("temperature", 1.0)
        if not config.get("do_sample", False):
            values["temperature"] = 0.0
        if config.get("suppress_tokens"):
            values["suppress_tokens"] = config["suppress_tokens"]
        if config.get("max_new_tokens"):
            values["max_tokens"] = config["max_new_tokens"]
        return cls(**values).override(**overrides)

    def override(self, **changes) -> "SamplingOptions":
        """A copy with changes; an unknown name is an error that lists the known ones.

        Raises GenerationError for that, and for values that make no sense.
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise GenerationError(
                    f"Unknown sampling option {name!r}.{hint} Known are: {', '.join(known)}."
                )
        return replace(self, **changes)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


def _check(o: SamplingOptions) -> None:
    def number(name, low, high, kinds=(int, float)):
        value = getattr(o, name)
        good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not low <= value <= high:
            whole = " whole" if kinds == (int,) else ""
            upper = f" to {high:g}" if high != math.inf else " or more"
            raise GenerationError(f"{name} must be a{whole} number {low:g}{upper}, not {value!r}.")

    number("temperature", 0, math.inf)
    number("top_p", 0, 1)
    number("top_k", 0, math.inf, (int,))
    number("min_p", 0, 1)
    number("presence_penalty", -math.inf, math.inf)
    number("frequency_penalty", -math.inf, math.inf)
    number("penalty_context", 1, math.inf, (int,))
    number("repetition_penalty", 0, math.inf)
    if o.top_p == 0 or o.repetition_penalty == 0:
        name = "top_p" if o.top_p == 0 else "repetition_penalty"
        raise GenerationError(f"{name} must be greater than 0 (1 switches it off).")
    if o.seed is not None:
        number("seed", 0, 2**63 - 1, (int,))
    if o.max_tokens is not None:
        number("max_tokens", 1, math.inf, (int,))
    for text in o.stop:
        if not isinstance(text, str) or not text:
            raise GenerationError(f"stop must hold non-empty strings, not {text!r}.")
    bias = o.logit_bias or {}
    if not isinstance(bias, Mapping):
        raise GenerationError(f"logit_bias must be a dict of token ids to numbers, not {bias!r}.")
    for name in ("stop_tokens", "suppress_tokens", "logit_bias"):
        for token in getattr(o, name) or ():
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise GenerationError(f"{name} must hold token ids, not {token!r}.")
    for token, value in bias.items():
        # Minus infinity rules a token out.
        if not isinstance(value, int | float) or not -math.inf <= value < math.inf:
            raise GenerationError(f"logit_bias of {token} must be a number, not {value!r}.")


Sampler = Callable[..., mx.array]
"""(logits (1, V), index of the token, :func:`likeliest` of these logits or None) -> token (1,)."""
ROW = 128  # logits in a row; see likeliest()


def make_sampler(options: SamplingOptions, vocab_size: int) -> tuple[Sampler, int | None]:
    """The sampler for the options and the seed it uses (None if greedy)."""
    if options.greedy:
        return lambda logits, index, best: mx.argmax(logits, axis=-1), None
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    top_k = options.top_k if 0 < options.top_k < vocab_size else 0

    def sample(logits: mx.array, index: int, best: mx.array | None) -> mx.array:
        ids = None
        if top_k:
            ids = likeliest(logits, top_k) if best is None else best[:, :top_k]  # (1, k)
            logits = mx.take_along_axis(logits, ids, axis=-1)
        logits = logits.astype(mx.float32) * (1.0 / options.temperature)
        if options.top_p < 1:
            logits = keep_top_p(logits, options.top_p)
        if options.min_p > 0:
            floor = mx.max(logits, axis=-1, keepdims=True) + math.log(options.min_p)
            logits = mx.where(logits < floor, -mx.inf, logits)
        choice = mx.random.categorical(logits, key=token_key(seed, index))
        return choice if ids is None else mx.take_along_axis(ids, choice[:, None], axis=-1)[:, 0]

    return sample, seed


def likeliest(logits: mx.array, k: int) -> mx.array:
    """Ids of the k largest logits (1, V), the largest first, of equal ones the lowest id: (1, k).

    The logits are cut into rows of :data:`ROW`. The k largest are all in the k rows with the
    largest maxima, so only the maxima and then these rows are sorted: for k = 64, 2,048 and 8,192
    numbers instead of 262,144.
    """
    V = logits.shape[-1]
    if V % ROW or k >= V // ROW:
        return mx.argsort(-logits, axis=-1)[:, :k]
    rows = logits.reshape(-1, ROW)
    chosen = mx.sort(mx.argsort(-rows.max(axis=-1))[:k])  # in the order of ids
    at = mx.argsort(-rows[chosen].reshape(1, -1), axis=-1)[:, :k]
    return chosen[at // ROW] * ROW + at % ROW


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Logits (1, c), -inf outside the smallest set of tokens with probability ``top_p``.

    The likeliest token always stays, and a token that reaches the threshold belongs to the set.
    """
    ordered = mx.sort(logits, axis=-1)[..., ::-1]  # likeliest first
    probabilities = mx.softmax(ordered, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1, inclusive=False)  # probability of likelier tokens
    kept = mx.maximum((before < top_p).sum(axis=-1, keepdims=True), 1)
    threshold = mx.take_along_axis(ordered, kept - 1, axis=-1)
    return mx.where(logits < threshold, -mx.inf, logits)


def token_key(seed: int, index: int) -> mx.array:
    """The random key of one token. Seed and index are mixed (splitmix64's finaliser): with their
    sum as the key, seed 1 would repeat the random numbers of seed 0, one token earlier."""
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return mx.random.key(z ^ (z >> 31))


def make_processors(options: SamplingOptions, vocab_size: int) -> list[Callable]:
    """mlx-lm's logits processors ``(tokens (n,), logits (1, V)) -> logits`` for the options.

    mlx_lm is imported only if a penalty or bias is set (the import takes seconds).

    Raises GenerationError for a token outside the vocabulary.
    """
    # MLX does not check indices; one outside the array can crash the process.
    for name in ("suppress_tokens", "stop_tokens", "logit_bias"):
        for token in getattr(options, name) or ():
            if token >= vocab_size:
                raise GenerationError(
                    f"{name} holds {token}, but the vocabulary ends at {vocab_size - 1}."
                )
    processors = []
    penalties = {
        "repetition_penalty": options.repetition_penalty != 1 and options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    penalties = {name: float(value) for name, value in penalties.items() if value}
    if penalties or options.logit_bias:
        from mlx_lm.sample_utils import make_logits_processors

        contexts = {
            f"{name.removesuffix('penalty')}context_size": options.penalty_context
            for name in penalties
        }
        bias = dict(options.logit_bias) if options.logit_bias else None
        processors += make_logits_processors(logit_bias=bias, **penalties, **contexts)
    if options.suppress_tokens:
        banned = mx.array(sorted(set(options.suppress_tokens)))
        mx.eval(banned)

        def suppress(_, logits):
            logits[:, banned] = -mx.inf
            return logits

        processors.append(suppress)
    return processors
