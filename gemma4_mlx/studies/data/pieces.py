"""Documents as the model read them: pieces, and several of them one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...tracing.data.routing import RoutingData
from ...tracing.data.trace import Trace


@dataclass(frozen=True)
class Written:
    """Sums of the outputs of some experts: ``rows`` (r,) layer * E + expert, each once, ``sums``
    (r, hidden) and ``tokens`` (r,), the number of outputs in each."""

    rows: np.ndarray
    sums: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Piece:
    """A document, or a stretch of a long one, as the model read it.

    Attributes:
        trace: with the routing of all layers.
        predicted: positions (m,) at which the model's likeliest next tokens are known, and their
            ids (m,); or None.
        early: (step, rank) how many of the chosen experts had which place in the order in which the
            next layer's router puts all experts when it reads the stream that this layer's router
            reads; or None.
        written: sums of what the experts put out, in one or several parts.
    """

    trace: Trace
    predicted: tuple[np.ndarray, np.ndarray] | None = None
    early: np.ndarray | None = None
    written: tuple[Written, ...] = ()


class Pieces:
    """The pieces of some documents one behind the other, so that what is counted of each token is
    counted of all at once.

    Attributes:
        pieces: all of them; ``count`` documents.
        piece, document, position: (n,) of every token the piece, the document, and the place in its
            piece.
    """

    def __init__(self, documents: Sequence[Sequence[Piece]]):
        self.pieces = [piece for pieces in documents for piece in pieces]
        self.count = len(documents)
        lengths = np.array([piece.trace.n for piece in self.pieces], np.int64)
        whose = np.repeat(np.arange(self.count), [len(pieces) for pieces in documents])
        self.starts = np.cumsum(lengths) - lengths
        self.piece = np.repeat(np.arange(len(lengths)), lengths)
        self.document = whose[self.piece]
        self.position = np.arange(len(self.piece)) - self.starts[self.piece]

    @cached_property
    def ids(self) -> np.ndarray:
        """Token ids (n,)."""
        return np.concatenate([piece.trace.tokens.ids for piece in self.pieces])

    @cached_property
    def normed(self) -> np.ndarray:
        """Of which tokens norms were recorded: bool (n,)."""
        known = [piece.trace.routing.norms is not None for piece in self.pieces]
        return np.array(known)[self.piece]

    @cached_property
    def routing(self) -> RoutingData:
        """Of all tokens; norms are those of the tokens of which they were recorded."""
        parts = [piece.trace.routing for piece in self.pieces]
        experts, weights = (
            np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("experts", "weights")
        )
        norms = [part.norms for part in parts if part.norms is not None]
        return RoutingData(
            parts[0].layers,
            experts,
            weights,
            parts[0].num_experts,
            self.pieces[0].trace.tokens,
            None,
            parts[0].scale,
            np.concatenate(norms, axis=1) if norms else None,
        )
