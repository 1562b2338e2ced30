"""What is to be explained: one token, or it against another, a span, a function of the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import index

import mlx.core as mx
import numpy as np

from ..errors import AttributionError
from ..generation.prefill import turn_places
from ..tracing.data.tokens import Tokens

#: Rows of logits held at once, of a span whose sum is explained.
ROWS = 64


@dataclass(frozen=True)
class Target:
    """A score of the logits that say the tokens at ``start`` to ``stop``.

    One token: its logit, less that of ``against`` if there is one. A span: the sum of its tokens'
    logits, so that a token is a span of one, shares of spans add up, and nothing saturates as
    probabilities do. All before the soft cap. A function: of the logits as the model gives them,
    float32 and capped, (V,), or (m, V) for a span of m.

    ``ids``: of the tokens; empty for a function, and for the likeliest token until it is known.
    """

    start: int
    stop: int
    ids: tuple[int, ...] = ()
    against: int | None = None
    function: Callable | None = None
    whole: bool = False

    @property
    def queries(self) -> range:
        """The positions whose outputs say the tokens."""
        return range(self.start - 1, self.stop - 1)

    @property
    def one_token(self) -> bool:
        return self.function is None and not self.whole

    def described(self, model, tokens: Tokens) -> dict:
        """The attributes that say it in an Attribution."""
        if self.function is not None:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            target = (None, name)
        elif self.whole:
            target = (None, "".join(tokens.texts[self.start : self.stop]))
        else:
            target = (self.ids[0], text_of(model, self.ids[0]))
        against = None if self.against is None else (self.against, text_of(model, self.against))
        return {"target": target, "against": against, "position": self.start, "stop": self.stop}

    def known(self, model, hidden: mx.array) -> "Target":
        """With the likeliest token where none was named. ``hidden``: (m, H) after the final norm.

        Raises AttributionError for a token that is compared with itself.
        """
        target = self
        if self.one_token and not self.ids:
            target = replace(self, ids=(mx.argmax(_uncapped(model, hidden[:1])[0]).item(),))
        if target.one_token and target.ids[0] == target.against:
            raise AttributionError(
                f"{text_of(model, target.against)!r} is compared with itself: give another token "
                "as against="
            )
        return target

    def score(self, model, hidden: mx.array, rows: slice = slice(None)) -> mx.array:
        """The score, (), of hidden states (m, H) after the final norm; of a span or one token also
        the part of some ``rows`` of them.

        Raises AttributionError for a function whose value is not one number of MLX's.
        """
        if self.function is not None:
            logits = model.changes()("logits", model.language_model.head(hidden[None]))[0]
            return _one_number(self.function(logits if self.whole else logits[0]))
        logits = _uncapped(model, hidden[rows])
        ids = mx.array(self.ids)[rows][:, None]
        score = mx.take_along_axis(logits, ids, axis=-1).sum()
        return score if self.against is None else score - logits[0, self.against]

    def derivative(self, model, normed: Callable, x: mx.array) -> tuple[float, mx.array]:
        """The score's value, and its derivative by x, float32.

        ``normed``: makes of x the hidden states (m, H) after the final norm.

        Raises AttributionError for a value that is not finite.
        """
        m = self.stop - self.start
        blocks = [slice(None)]
        if self.function is None:
            blocks = [slice(i, min(i + ROWS, m)) for i in range(0, m, ROWS)]
        total, derivative = 0.0, mx.zeros(x.shape)
        for rows in blocks:
            score = mx.value_and_grad(lambda x, rows=rows: self.score(model, normed(x), rows))
            value, d = score(x)
            total, derivative = total + value.item(), derivative + d
            mx.eval(derivative)
        if not np.isfinite(total):
            raise AttributionError(f"what is explained is not finite ({total}): nothing sums")
        return total, derivative


def _uncapped(model, hidden: mx.array) -> mx.array:
    return model.language_model.uncapped(hidden)


def _one_number(value) -> mx.array:
    if not isinstance(value, mx.array) or value.size != 1:
        said = f"shape {value.shape}" if isinstance(value, mx.array) else type(value).__name__
        raise AttributionError(
            "a function as target computes one number from an mx.array of logits, with mlx.core's "
            f"operations; this one returned {said}"
        )
    return value.reshape(()).astype(mx.float32)


def target_of(model, tokens: Tokens, target, against, position) -> Target:
    """What is to be explained in a prompt of these tokens.

    Without a ``position``: in a conversation that ends in an answer, where the answer says
    ``target`` first (the answer's first token without one, and for a function); else the next
    token's.

    Raises AttributionError for what is no token of the vocabulary, what the answer does not say,
    a position that does not exist, and a span or function that is compared with a token.
    """
    begin = turn_places(tokens.ids, model.tokenizer)[1]
    if callable(target):
        start, stop, whole = _place(position, len(tokens), begin)
        found = Target(start, stop, function=target, whole=whole)
    else:
        ids = () if target is None else ids_of(model, target)
        found = _said(model, tokens, ids, target, position, begin)
    if against is None:
        return found
    if not found.one_token:
        raise AttributionError(
            "against= is for one token: give a function of the logits as target to compare more"
        )
    return replace(found, against=token_of(model, against))


def _said(model, tokens: Tokens, ids: tuple[int, ...], target, position, begin: int) -> Target:
    """A token or a span at its place."""
    n = len(tokens)
    if position is not None:
        start, stop, whole = _place(position, n, begin)
        if len(ids) > 1 and not whole:
            stop, whole = start + len(ids), True
        there = tuple(tokens.ids[start:stop].tolist())
        if whole and (ids or there) != there:
            raise AttributionError(
                f"at {start} stands {''.join(tokens.texts[start:stop])!r}, not {target!r}"
            )
        if whole:
            return Target(start, stop, there, whole=True)
        return Target(start, stop, ids or there)
    if not ids:
        return Target(begin, begin + 1, tuple(tokens.ids[begin : begin + 1].tolist()))
    if begin == n and len(ids) == 1:
        return Target(n, n + 1, ids)
    if begin == n:
        pieces = ", ".join(repr(text_of(model, i)) for i in ids)
        raise AttributionError(
            f"{target!r} is not one token but {len(ids)} ({pieces}), and there is no answer yet "
            "that says them: give one of them, or a prompt that ends in an answer"
        )
    for start in range(begin, n - len(ids) + 1):
        if tuple(tokens.ids[start : start + len(ids)].tolist()) == ids:
            return Target(start, start + len(ids), ids, whole=len(ids) > 1)
    # In a sentence a word may be another token than by itself.
    for place in tokens.find(target) if isinstance(target, str) else ():
        if place.start >= begin:
            there = tuple(tokens.ids[place].tolist())
            return Target(place.start, place.stop, there, whole=len(there) > 1)
    said = (
        repr(target) if isinstance(target, str) else repr("".join(text_of(model, i) for i in ids))
    )
    raise AttributionError(
        f"the answer does not say {said}: give position=..., the place ({begin} to {n}) at which "
        "it might have"
    )


def _place(position, n: int, begin: int) -> tuple[int, int, bool]:
    """Start and stop of a place, and whether it is a span."""
    if position is None:
        return begin, begin + 1, False
    if isinstance(position, slice):
        position = position.indices(n)[:2]
    span = isinstance(position, Sequence) and not isinstance(position, str)
    try:
        places = [index(x) + (n if index(x) < 0 else 0) for x in (position if span else [position])]
    except TypeError:
        places = []
    if len(places) != (2 if span else 1):
        raise AttributionError(
            f"position {position!r} is no whole number, and no pair of start and stop"
        )
    if span and not 1 <= places[0] < places[1] <= n:
        raise AttributionError(
            f"position {position}: a span of {n} tokens starts at 1 or later, stops at {n} or "
            "earlier, and holds a token"
        )
    if not 1 <= places[0] <= n:
        raise AttributionError(
            f"position {position}: of {n} tokens those at 1 to {n - 1} can be explained, and the "
            f"next one, at {n}"
        )
    return places[0], places[1] if span else places[0] + 1, span


def ids_of(model, given) -> tuple[int, ...]:
    """The ids of a token or span, given by an id, several, or text.

    Raises AttributionError for an id outside the vocabulary, and for text that is none, or that a
    model without tokenizer cannot read.
    """
    if isinstance(given, str):
        if model.tokenizer is None:
            raise AttributionError(
                f"{given!r} needs a tokenizer, and this model has none; give an id"
            )
        ids = model.tokenizer.encode(given, allow_special=True)
    elif isinstance(given, Sequence | np.ndarray):
        ids = [_checked(model, one) for one in given]
    else:
        ids = [_checked(model, given)]
    if not len(ids):
        raise AttributionError(f"{given!r} is no token, and no span of tokens")
    return tuple(ids)


def token_of(model, given) -> int:
    """The id of one token. Errors as of :func:`ids_of`, and for more than one."""
    ids = ids_of(model, given)
    if len(ids) > 1:
        pieces = ", ".join(repr(text_of(model, i)) for i in ids)
        raise AttributionError(
            f"{given!r} is not one token but {len(ids)} ({pieces}): give one of them, or an id"
        )
    return ids[0]


def _checked(model, given) -> int:
    size = model.config.text.vocab_size
    try:
        token = index(given)
    except TypeError:
        raise AttributionError(
            f"a target is a token's id or its text, a span of them, or a function of the logits, "
            f"not a {type(given).__name__}"
        ) from None
    if not 0 <= token < size:
        raise AttributionError(f"token {token} does not exist: ids go from 0 to {size - 1}")
    return token


def text_of(model, token: int) -> str:
    """A token as a reader sees it."""
    return f"<{token}>" if model.tokenizer is None else model.tokenizer.token_text(token)
