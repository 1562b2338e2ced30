"""The tokens of a prompt as a trace holds them, made from ids and what the prompt's media are."""

import numpy as np

from ..data.tokens import KINDS, Tokens, roles_of


def tokens_of(model, ids: np.ndarray, inputs=None, texts: list[str] | None = None) -> Tokens:
    """Text, kind, role and place of each of the ids (n,).

    Args:
        inputs: the prompt's ``ModelInputs``, for the places of soft tokens in their media.
        texts: of each token; None: worked out, so that together they are the prompt's text.
    """
    kinds, tokenizer = _kinds(model, ids), model.tokenizer
    if texts is not None:
        texts = list(texts)
    elif tokenizer is None:
        texts = [f"<{i}>" for i in ids]
    else:
        reader = tokenizer.detokenizer()
        texts = [reader.add(int(i)) for i in ids]
        texts[-1] += reader.finish()
    n = len(ids)
    media, labels = np.full(n, -1, np.int16), []
    boxes = np.full((n, 4), np.nan, np.float32)
    times = np.full((n, 2), np.nan, np.float32)
    for i, span in enumerate(inputs.media if inputs is not None else ()):
        at = slice(span.start, min(span.stop, n))
        media[at] = i
        labels.append(span.label)
        if span.boxes is not None:
            boxes[at] = span.boxes[: at.stop - at.start]
        if span.times is not None:
            times[at] = span.times[: at.stop - at.start]
    return Tokens(
        ids,
        texts,
        kinds,
        roles_of(texts, kinds == KINDS.index("special")),
        None if np.isnan(boxes).all() else boxes,
        None if np.isnan(times).all() else times,
        media,
        labels,
    )


def media_of(inputs) -> list[np.ndarray]:
    """What the soft tokens of a prompt were made of: pictures (h, w, 3) and sounds (N,)."""
    return [getattr(s.data, "pixels", getattr(s.data, "samples", None)) for s in inputs.media]


def _kinds(model, ids: np.ndarray) -> np.ndarray:
    config, kinds = model.config, np.zeros(len(ids), np.uint8)
    tokenizer = model.tokenizer
    if tokenizer is not None:
        special = np.array(sorted(tokenizer.special_ids.values()), np.int32)
        kinds[np.isin(ids, special)] = KINDS.index("special")
    for kind in ("image", "video", "audio"):
        kinds[ids == getattr(config, f"{kind}_token_id")] = KINDS.index(kind)
    return kinds
