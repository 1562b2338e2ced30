"""Reading a prompt up to one position, whose step can then be computed again and again."""

import mlx.core as mx

from ..generation import Progress
from ..generation.prefill import SoftTokens
from ..model.cache import expect
from .question import Question


class Reading:
    """A prompt up to the position whose output says the token that is asked about.

    What stands before is read once into a cache; :meth:`hidden` computes the rest, which is one
    position, or the picture around it, whose positions see each other.
    """

    def __init__(self, question: Question):
        self.model, self.prompt = question.model, question.prompt
        self.query, self._chunk = question.target.start - 1, question.chunk
        self.start, self.stop = self.prompt.picture(self.query) or (self.query, self.query + 1)
        self._soft = SoftTokens(self.model, self.prompt, 0, question.media_features)
        self._cache = self.model.make_cache()
        expect(self._cache, self.stop)

    @property
    def row(self) -> int:
        """Where the query is among the positions that :meth:`hidden` computes."""
        return self.query - self.start

    def before(self):
        """Generator: read what stands before the last step, with a Progress after each chunk."""
        start = 0
        while start < self.start:
            stop = min(self.prompt.chunk_end(start, self._chunk), self.start)
            tokens = mx.array(self.prompt.tokens[start:stop])[None]
            self.model.read(tokens, self._cache, self._soft.between(start, stop))
            mx.eval([entry.state for entry in self._cache])
            mx.clear_cache()
            start = stop
            yield Progress(stop, self.stop, 0.0)
        self._kept = [entry.snapshot() for entry in self._cache]
        mx.eval([kept["state"] for kept in self._kept if kept])

    def hidden(self) -> mx.array:
        """Hidden state (1, H) of the query after the final norm, as the model computes it now."""
        for entry, kept in zip(self._cache, self._kept):
            if kept is None:
                entry.rewind(self.start)
            else:
                entry.restore(kept)
        tokens = mx.array(self.prompt.tokens[self.start : self.stop])[None]
        features = self._soft.between(self.start, self.stop)
        hidden = self.model.hidden(tokens, self._cache, features)[:, self.row]
        mx.eval(hidden)
        return hidden
