"""What heads send from one span of tokens to another, from queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import TraceError
from . import tiles
from .layer_attention import LayerAttention, Vectors
from .tiles import checked_span

if TYPE_CHECKING:
    from .queries_keys import QueriesAndKeys


@dataclass(frozen=True)
class Link:
    """A strong attention weight from a query to a key."""

    query: int
    key: int
    weight: float


@dataclass(frozen=True)
class HeadMass:
    """A head's mass from one span to another: mean over the source tokens, and its best link."""

    layer: int
    head: int
    mass: float
    strongest: Link


def mass_between(
    part: LayerAttention, vectors: Vectors, head: int, source: slice, target: slice, blocks
) -> HeadMass:
    """One head's mass, recomputed a few queries at a time.

    ``vectors`` hold the head's queries of ``source`` and keys of ``target``; ``blocks`` as in
    :func:`.visible`.
    """
    total, best = 0.0, Link(source.start, target.start, 0.0)
    normaliser = part.normaliser[part.heads.index(head)]
    step = max(1, tiles.STRIP // (target.stop - target.start))
    k = vectors.keys_of(part.kv_head(head), target)
    for start in range(source.start, source.stop, step):
        rows = slice(start, min(start + step, source.stop))
        q = vectors.queries_of(head, rows)
        w = tiles.weights(q, k, normaliser[rows], rows, target, part.window, blocks)
        total += float(w.sum(dtype=np.float64))
        i, j = np.unravel_index(w.argmax(), w.shape)
        if w[i, j] > best.weight:
            best = Link(start + int(i), target.start + int(j), float(w[i, j]))
    return HeadMass(part.layer, head, total / (source.stop - source.start), best)


def ranked(data: QueriesAndKeys, source, target, compute: bool, progress) -> list[HeadMass]:
    """All heads by their mass, the largest first: see :meth:`.AttentionData.find`."""
    source = checked_span(source, data.n, "source")
    target = checked_span(target, data.n, "target")

    def heads(state: str) -> dict[int, tuple[int, ...]]:
        of_state = {
            part.layer: tuple(h for h in part.heads if data.exactness(part.layer, h) == state)
            for part in data.parts
        }
        return {layer: some for layer, some in of_state.items() if some}

    kept, missing = heads("kept"), heads("on demand") if compute else {}
    fetched = {}
    if missing:
        fetched = data.fetch({i: (own, source, target) for i, own in missing.items()}, progress)
    if not fetched and not kept:
        raise TraceError(data.why_not(data.layers[0]))
    found = []
    for part in data.parts:
        blocks = data.blocks_of(part)
        for head in part.heads:
            if head in kept.get(part.layer, ()):
                vectors = data.at_hand(part, head)
            elif head in missing.get(part.layer, ()):
                vectors = fetched[part.layer]
            else:
                continue
            found.append(mass_between(part, vectors, head, source, target, blocks))
    return sorted(found, key=lambda each: (-each.mass, each.layer, each.head))
