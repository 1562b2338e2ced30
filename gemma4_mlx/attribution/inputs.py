"""What a position puts into the model, and how far that is from another prompt's or a baseline's.

The input is the embedding or soft token, and the looked-up half of the per-layer inputs; the other
half is projected from the embedding, see :meth:`..model.decoder.TextDecoder.per_layer_inputs`.
"""

from collections.abc import Callable

import mlx.core as mx

from .run import Run, Span

#: Makes of a span its inputs: embeddings (1, n, H) and looked-up per-layer inputs (1, n, L, P), or
#: None without these.
Inputs = Callable[[Span], tuple[mx.array, mx.array | None]]


def inputs_of(run: Run) -> Inputs:
    """What stood at each position of a run."""
    return lambda span: (run.embeddings[span], lookups(run.model, run.tokens(span)))


def baseline_of(run: Run, token: int) -> Inputs:
    """A token in place of every text token and soft token of a run. Control tokens and the markers
    of media stay, so that what is left is the same conversation with nothing said in it."""
    model, tokenizer = run.model, run.model.tokenizer
    stay = {model.config.text.bos_token_id}
    stay |= set() if tokenizer is None else set(tokenizer.special_ids.values())
    stay = mx.array(sorted(stay - set(model.config.soft_token_ids)))

    def at(span: Span):
        tokens = run.tokens(span)
        tokens = mx.where((tokens[..., None] == stay).any(axis=-1), tokens, token)
        return model.language_model.model.embed(tokens), lookups(model, tokens)

    return at


def difference(inputs: Inputs, other: Inputs | None = None) -> Inputs:
    """Inputs less others (None: less nothing), float32."""

    def at(span: Span):
        here = [None if x is None else x.astype(mx.float32) for x in inputs(span)]
        there = other(span) if other is not None else (0, 0)
        return tuple(None if x is None else x - y for x, y in zip(here, there))

    return at


def lookups(model, tokens: mx.array) -> mx.array | None:
    """The part of per-layer inputs (1, n, L, P) that is looked up by tokens (1, n): all of them
    where the embeddings are zero, since the other part is a norm of their projection."""
    text, decoder = model.config.text, model.language_model.model
    if not text.hidden_size_per_layer_input:
        return None
    nothing = mx.zeros((*tokens.shape, text.hidden_size), model.dtype)
    return decoder.per_layer_inputs(model.per_layer_tokens(tokens), nothing)
