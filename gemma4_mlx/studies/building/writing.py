"""What an expert writes: the tokens that its average output makes likelier and less likely."""

import mlx.core as mx
import numpy as np

from ..data.counts import UNIT, Counts

#: Tokens kept on each side.
KEPT = 10
#: Experts whose logits are held at once.
ROWS = 64


def promoted_tokens(model, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that each expert promotes and of those that it suppresses, strongest first:
    two (layers, E, 10) int32; -1 for an expert of which no output was added up.

    The expert's mean output m, times the scales of the two norms behind the experts
    (``post_feedforward_layernorm_2``, ``post_feedforward_layernorm``), goes through the final norm
    and the head as if it were the whole residual stream; what it does to every token alike, the
    mean over the vocabulary, is left out of the ranking by ranking itself. This is an
    approximation, for three reasons: what an expert writes differs from token to token, the norms
    would divide by the whole stream's size, and later layers read it before the head does.

    Geva et al., "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the
    Vocabulary Space" (2022).
    """
    L, E, _ = counts["written"].shape
    shape = (2, L, E, KEPT)
    found = np.full(shape, -1, np.int32)
    kept = min(KEPT, counts.subject.vocabulary)
    for i, layer in enumerate(counts.subject.layers):
        experts = np.flatnonzero(counts["written_tokens"][i])
        for start in range(0, len(experts), ROWS):
            some = experts[start : start + ROWS]
            number = counts["written_tokens"][i, some, None] * UNIT
            mean = mx.array((counts["written"][i, some] / number).astype(np.float32))
            logits = _logits(model, layer, mean)
            for side, signed in enumerate((-logits, logits)):
                best = mx.argpartition(signed, kept - 1, axis=-1)[:, :kept]
                order = mx.argsort(mx.take_along_axis(signed, best, axis=-1), axis=-1)
                best = mx.take_along_axis(best, order, axis=-1)
                found[side, i, some, :kept] = np.array(best).astype(np.int32)
    return found[0], found[1]


def _logits(model, layer: int, mean: mx.array) -> mx.array:
    """Mean outputs (r, H) of a layer's experts -> logits (r, V), float32."""
    behind, decoder = model.layers[layer], model.language_model.model
    for norm in (behind.post_feedforward_layernorm_2, behind.post_feedforward_layernorm):
        mean = mean * norm.weight.astype(mx.float32)
    size = mx.sqrt(mx.mean(mean**2, axis=-1, keepdims=True))
    direction = (mean / mx.maximum(size, 1e-30)).astype(model.dtype)
    return model.language_model.uncapped(decoder.norm(direction))
