"""What is to be explained: which token, against which other, at which place."""

from collections.abc import Sequence
from operator import index

from ..errors import AttributionError
from ..generation.prefill import turn_places


def token_of(model, given) -> int:
    """The id of a token given by its id or its text.

    Raises AttributionError for an id outside the vocabulary, and for a text that is not one token
    or that a model without tokenizer cannot read.
    """
    if isinstance(given, str):
        return _token_of_text(model.tokenizer, given)
    size = model.config.text.vocab_size
    try:
        token = index(given)
    except TypeError:
        raise AttributionError(
            f"a target is a token's id or its text, not a {type(given).__name__}"
        ) from None
    if not 0 <= token < size:
        raise AttributionError(f"token {token} does not exist: ids go from 0 to {size - 1}")
    return token


def _token_of_text(tokenizer, text: str) -> int:
    if tokenizer is None:
        raise AttributionError(f"{text!r} needs a tokenizer, and this model has none; give an id")
    ids = tokenizer.encode(text, allow_special=True)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.token_text(i)) for i in ids) or "nothing"
        raise AttributionError(
            f"{text!r} is not one token but {len(ids)} ({pieces}): give one of them, or an id"
        )
    return ids[0]


def text_of(model, token: int) -> str:
    """A token as a reader sees it."""
    return f"<{token}>" if model.tokenizer is None else model.tokenizer.token_text(token)


def place(model, tokens: Sequence[int], target: int | None, position: int | None) -> int:
    """Place of the explained token among the tokens, their number for the next one.

    Without a ``position``: in a conversation that ends in an answer, where the answer says
    ``target`` first (the answer's first token without one); else the next token's.

    Raises AttributionError if the answer does not say it, or there is no such position.
    """
    n = len(tokens)
    if position is not None:
        try:
            at = index(position)
        except TypeError:
            raise AttributionError(f"position {position!r} is no whole number") from None
        at += n if at < 0 else 0
        if not 1 <= at <= n:
            raise AttributionError(
                f"position {position}: of {n} tokens those at 1 to {n - 1} can be explained, and "
                f"the next one, at {n}"
            )
        return at
    begin = turn_places(tokens, model.tokenizer)[1]
    if begin == n or target is None:
        return begin
    answer = list(tokens[begin:])
    if target not in answer:
        raise AttributionError(
            f"the answer does not say {text_of(model, target)!r}: give position=..., the place "
            f"({begin} to {n}) at which it might have"
        )
    return begin + answer.index(target)
