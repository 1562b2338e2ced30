"""Integrated gradients of a prompt's positions.

Between a baseline x' and the prompt's inputs x lies the straight line x(a) = x' + a (x - x'). A
position's share is its part of

    (x - x') . integral from 0 to 1 of d score / d x(a) da,

and by the fundamental theorem all shares sum to score(x) - score(x'), whatever the model does in
between (Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017). That holds for any
piece of the line as well, so how far a sum of points misses is known piece by piece. Each piece has
Gauss and Legendre's sum of :data:`POINTS` points, and the one that misses most is halved until all
together miss less than :data:`ENOUGH` of the rise: where heads make up their minds the score bends
within a short piece, and elsewhere few points do. What the shares still miss is the Attribution's
``remainder``.

*Experts.* Which experts are chosen jumps along the line, and a jump has no derivative. So along the
whole line, baseline included, each position keeps the experts that the prompt chose: ``base`` is
the baseline's score with those.
"""

from itertools import pairwise

import mlx.core as mx
import numpy as np

from .backward import Backward
from .gradient import position_shares, run_of, scored
from .inputs import Inputs, baseline_of, difference, inputs_of
from .question import Question
from .run import Run, Span
from .target import Target

#: Points in a piece, and pieces to begin with. On the teaching model 24 to 48 points do; one sum
#: over the whole line took up to 128.
POINTS, PIECES = 6, 4
#: Share of the rise that may be missed, each piece counted without its sign.
ENOUGH = 0.005
#: At most so many pieces are halved, and not so many without use: in 16 bits rounding is missed.
HALVINGS, PATIENCE = 20, 4


def integrated(question: Question, baseline: int, steps: int | None):
    """Generator for the engine: yields Progress, returns integrated gradients as an
    Attribution.

    steps: points on the whole line, in one piece; None: as many as it takes.
    """
    run = run_of(question)
    yield from run.read()
    target, total, _ = scored(run, question.target)
    way = difference(inputs_of(run), baseline_of(run, baseline))
    run.drop_layers()
    line = _Line(question, run, way, target)
    base = yield from line.score(0.0)
    if steps is None:
        shares = yield from _in_pieces(line, base, total)
    else:
        shares = yield from line.shares(0.0, 1.0, steps)
    positions = position_shares(question, shares)
    return question.answer("integrated", target, total, base=base, positions=positions)


def _in_pieces(line: "_Line", base: float, total: float):
    """Generator: what each position gives the whole line (n,), whose scores go from ``base`` to
    ``total``, with points where they are needed."""
    scores = {0.0: base, 1.0: total}
    pieces = {}  # (from, to) -> its shares, and by how much they miss its rise
    new, missed = list(pairwise(np.linspace(0, 1, PIECES + 1).tolist())), []
    while True:
        for a, b in new:
            for end in {a, b} - scores.keys():
                scores[end] = yield from line.score(end)
            shares = yield from line.shares(a, b, POINTS)
            pieces[a, b] = shares, abs(scores[b] - scores[a] - shares.sum())
        missed.append(sum(miss for _, miss in pieces.values()))
        idle = len(missed) > PATIENCE and missed[-1] > 0.9 * missed[-1 - PATIENCE]
        if missed[-1] <= ENOUGH * abs(total - base) or idle or len(missed) == HALVINGS:
            return sum(shares for shares, _ in pieces.values())
        a, b = max(pieces, key=lambda piece: pieces[piece][1])
        del pieces[a, b]
        new = [(a, (a + b) / 2), ((a + b) / 2, b)]


class _Line:
    """The straight line from the baseline's inputs to the prompt's. Its methods are generators that
    yield Progress."""

    def __init__(self, question: Question, run: Run, way: Inputs, target: Target):
        self._question, self._run, self._way, self._target = question, run, way, target

    def _at(self, point: float):
        run = run_of(self._question, inputs=_Between(self._run, self._way, point))
        yield from run.read()
        return run, scored(run, self._target)

    def score(self, point: float):
        """Returns the score at a point."""
        _, (_, score, _) = yield from self._at(point)
        return score

    def shares(self, a: float, b: float, count: int):
        """Returns what each position (n,) gives the piece from a to b, by a sum of ``count``
        points."""
        points, weights = np.polynomial.legendre.leggauss(count)  # on [-1, 1]
        total = np.zeros(self._run.stop, np.float64)
        for point, weight in zip(points, weights):
            run, (_, _, direction) = yield from self._at(float(a + (b - a) * (point + 1) / 2))
            found = yield from Backward(run, self._way, parts=False)(direction)
            total += (b - a) * weight / 2 * found.positions
        return total


class _Between:
    """Gives a run the inputs at a point of the line, and the experts that the prompt chose."""

    def __init__(self, run: Run, way: Inputs, point: float):
        self._run, self._way, self._missing = run, way, 1 - point

    def __call__(self, name: str, layer: int | None, value: mx.array, span: Span) -> mx.array:
        if name == "expert_indices":
            return self._run.experts[layer][span]
        which = ("embeddings", "per_layer_inputs").index(name)
        given = self._run.embeddings[span] if name == "embeddings" else value
        return (given - self._missing * self._way(span)[which]).astype(value.dtype)
