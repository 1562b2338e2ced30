"""Logit lens: the next tokens that each layer's residual stream predicts, if the final norm and
output head are applied to it.

After nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

import numpy as np

from ...errors import TraceError


class LensData:
    """The next tokens that layers of a trace predict.

    ``layers``, ``positions``: where the lens was applied. ``ids`` (layers, positions, top) int32
    and ``probabilities`` float32: the likeliest next tokens, best first. ``next_probability``
    (layers, positions): of the token that does follow in the trace, nan after the last one.
    ``texts``: {id: text} of every id that occurs.
    """

    def __init__(self, layers, positions, ids, probabilities, next_probability, texts):
        self.layers, self.positions = tuple(layers), np.asarray(positions)
        self.ids, self.probabilities = ids, probabilities
        self.next_probability = next_probability
        self.texts = {int(i): text for i, text in texts.items()}

    def guesses(self, position: int) -> list[dict]:
        """For one token position, each layer's guesses: ``layer`` and (text, probability) pairs.

        Raises TraceError for a position the lens did not look at.
        """
        p = self._position(position)
        return [
            {
                "layer": layer,
                "guesses": [
                    (self.texts[int(i)], float(q))
                    for i, q in zip(self.ids[row, p], self.probabilities[row, p])
                ],
            }
            for row, layer in enumerate(self.layers)
        ]

    def rises_at(self, position: int, level: float = 0.5) -> int | None:
        """The first layer that gives the actual next token at least this probability, or None.

        Raises TraceError for a position the lens did not look at.
        """
        probable = self.next_probability[:, self._position(position)] >= level
        return self.layers[int(probable.argmax())] if probable.any() else None

    def _position(self, position: int) -> int:
        found = np.flatnonzero(self.positions == position)
        if not len(found):
            raise TraceError(
                f"the lens did not look at position {position}; it has {len(self.positions)} "
                f"positions from {self.positions.min()} to {self.positions.max()}"
            )
        return int(found[0])

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays = {
            "positions": self.positions.astype(np.int32),
            "ids": self.ids,
            "probabilities": self.probabilities,
            "next_probability": self.next_probability,
        }
        return arrays, {"layers": list(self.layers), "texts": self.texts}

    @classmethod
    def from_arrays(cls, arrays, meta) -> "LensData":
        """From what a trace's file holds.

        Raises ValueError if the arrays do not belong together, or an id has no text.
        """
        names = ("positions", "ids", "probabilities", "next_probability")
        data = cls(meta["layers"], *(arrays[n] for n in names), meta["texts"])
        shape = (len(data.layers), *data.positions.shape)
        shapes = (data.ids.shape[:2], data.probabilities.shape[:2], data.next_probability.shape)
        if set(shapes) != {shape} or data.ids.shape != data.probabilities.shape:
            raise ValueError(f"a lens of shapes {shapes}, expected {shape}")
        if unknown := set(np.unique(data.ids).tolist()) - data.texts.keys():
            raise ValueError(f"the lens guesses token {min(unknown)}, which has no text")
        return data
