"""What really removing parts does: the prompt is read again without them."""

from dataclasses import replace

from ..errors import AttributionError
from ..generation import Progress
from ..tracing.recording.interventions import Ablate, ScaleHeads
from ..tracing.recording.rerun import SameModel
from .data import Part
from .question import Question
from .reading import Reading


class Measure:
    """Removes parts of a run, one at a time, and says what that changes.

    ``question``: with the target's ids.
    """

    def __init__(self, question: Question):
        self._then, self._question = SameModel(question.model), replace(question, model=None)

    def __call__(self, parts: list[Part], progress=None) -> list[float]:
        """By how much the logit (difference) falls when each part is silent.

        Raises AttributionError if the model is not what it was.
        """
        if obstacle := self._then.obstacle():
            raise AttributionError(f"nothing can be removed: {obstacle}")
        question = replace(self._question, model=self._then.model)
        return question.run(progress, _measured, parts)


def _measured(question: Question, parts: list[Part]):
    """Generator for the engine: yields Progress, returns what each part's silence costs."""
    model, reading = question.model, Reading(question)
    yield from reading.before()

    def score() -> float:
        return question.target.score(model, reading.hidden()).item()

    whole, found = score(), []
    for part in parts:
        with model.intervene(_removal(part, reading.query)):
            found.append(whole - score())
        yield Progress(reading.stop, reading.stop, 0.0)
    return found


def _removal(part: Part, query: int):
    """The intervention that silences a head or an expert at one position."""
    kind = ScaleHeads if part.kind == "head" else Ablate
    return kind(part.layer, (part.index,), tokens=(query, query + 1))
