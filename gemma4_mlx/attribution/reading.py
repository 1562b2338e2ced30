"""Reading a prompt up to some positions, whose step can then be computed again and again."""

import mlx.core as mx

from ..generation import Progress
from ..generation.prefill import SoftTokens
from ..model.cache import expect
from .question import Question


class Reading:
    """A prompt up to the positions whose outputs say the tokens that are asked about.

    What stands before a place is read once into a cache; :meth:`hidden` computes the rest. Unless
    another place is named, that rest is these positions, or the picture around them, whose
    positions see each other.

    Attributes:
        queries: these positions.
        span: (start, stop) of what is computed now.
    """

    def __init__(self, question: Question):
        self.model, self.prompt = question.model, question.prompt
        self.queries, self._chunk = question.target.queries, question.chunk
        self._tail = self.begin(self.queries.start)
        last = self.queries.stop - 1
        self.stop = (self.prompt.picture(last) or (last, last + 1))[1]
        self._soft = SoftTokens(self.model, self.prompt, 0, question.media_features)
        self._cache, self.span = self.model.make_cache(), (0, 0)
        expect(self._cache, self.stop)
        self._place, self._kept = 0, None

    def begin(self, position: int) -> int:
        """Where the step that computes a position begins: there, or where its picture does."""
        return (self.prompt.picture(position) or (position,))[0]

    @property
    def row(self) -> int:
        """Where the first query is among the positions of the last step."""
        return self.queries.start - self._tail

    def before(self, place: int | None = None):
        """Generator: read what stands before a place (None: the last step), which is not before an
        earlier call's, with a Progress after each chunk."""
        if self._kept is not None:
            self._return()
        stop = self._tail if place is None else place
        yield from self._read(self._place, stop)
        self._place = stop
        self._kept = [entry.snapshot() for entry in self._cache]
        mx.eval([kept["state"] for kept in self._kept if kept])

    def hidden(self):
        """Generator: returns hidden states (m, H) of the m queries after the final norm, as the
        model computes them now."""
        self._return()
        yield from self._read(self._place, self._tail)
        self.span = self._tail, self.stop
        hidden = self.model.hidden(*self._inputs())[0, self.row : self.row + len(self.queries)]
        mx.eval(hidden)
        return hidden

    def _read(self, start: int, end: int):
        while start < end:
            stop = min(self.prompt.chunk_end(start, self._chunk), end)
            self.span = start, stop
            self.model.read(*self._inputs())
            mx.eval([entry.state for entry in self._cache])
            mx.clear_cache()
            start = stop
            yield Progress(stop, self.stop, 0.0)

    def _inputs(self):
        """Arguments of the model for the span."""
        tokens = mx.array(self.prompt.tokens[slice(*self.span)])[None]
        return tokens, self._cache, self._soft.between(*self.span)

    def _return(self) -> None:
        """Go back to the place that was read up to."""
        for entry, kept in zip(self._cache, self._kept):
            if kept is None:
                entry.rewind(self._place)
            else:
                entry.restore(kept)
