"""What really removing sources does: the prompt is read again without them.

*Parts.* "direct" says what a part wrote at the one position before the explained token, so there it
is silenced; "gradient" speaks of all positions, so it is silenced at all of them. "patching" says
what a corrupt run's part would do, so a head's outputs are that run's.

*Positions.* One is removed by hiding it from all queries, in all layers and heads (:class:`.
Knockout`): a picture's patch or a word that nobody reads. For "patching" its input is the corrupt
prompt's.

What stands before the first position that changes is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..errors import AttributionError
from ..generation import Progress
from ..generation.prefill import Prompt, SoftTokens
from ..tracing.recording.interventions import Ablate, ScaleHeads
from ..tracing.recording.knockout import Knockout
from ..tracing.recording.patch import Patch
from ..tracing.recording.rerun import SameModel
from .data import Part
from .question import Question
from .reading import Reading


class Measure:
    """Removes sources from a run, one at a time, and says what that changes.

    Args:
        question: with the target's ids.
        method: what found the shares.
        corrupt: for "patching", the other prompt.
    """

    def __init__(self, question: Question, method: str, corrupt: Prompt | None = None):
        self._then, self._question = SameModel(question.model), replace(question, model=None)
        self._method, self._corrupt = method, corrupt

    def __call__(self, parts: Sequence[Part], progress=None) -> list[float]:
        """By how much the target's score falls when each source is removed.

        Raises AttributionError if the model is not what it was.
        """
        if obstacle := self._then.obstacle():
            raise AttributionError(f"nothing can be removed: {obstacle}")
        question = replace(self._question, model=self._then.model)
        return question.run(progress, _measured, parts, self._method, self._corrupt)


def _measured(question: Question, parts: Sequence[Part], method: str, corrupt: Prompt | None):
    """Generator for the engine: yields Progress, returns what removing each source costs."""
    model, reading = question.model, Reading(question)
    if corrupt is not None:
        removals = yield from _corruptions(question, reading, parts, corrupt)
    else:
        removals = [_removal(part, reading, method) for part in parts]

    def score():
        hidden = yield from reading.hidden()
        return question.target.score(model, hidden).item()

    found, whole = {}, None
    for i in sorted(range(len(parts)), key=lambda i: removals[i][0]):
        place, intervention = removals[i]
        yield from reading.before(place)
        whole = (yield from score()) if whole is None else whole
        with model.intervene(intervention):
            found[i] = whole - (yield from score())
        yield Progress(reading.stop, reading.stop, 0.0)
    return [found[i] for i in range(len(parts))]


def _removal(part: Part, reading: Reading, method: str) -> tuple[int, object]:
    """The first position that changes, and the intervention that removes a source."""
    if part.kind == "position":
        return reading.begin(part.index), Knockout(None, keys=[part.index])
    kind = ScaleHeads if part.kind == "head" else Ablate
    if method != "direct":
        return 0, kind(part.layer, (part.index,))
    query = reading.queries.start
    return reading.begin(query), kind(part.layer, (part.index,), tokens=(query, query + 1))


def _corruptions(question: Question, reading: Reading, parts: Sequence[Part], corrupt: Prompt):
    """Generator: the same for each source as it is in the corrupt run."""
    model = question.model
    other = Reading(replace(question, prompt=corrupt))
    heads = _Heads({(part.layer, part.index) for part in parts if part.kind == "head"})
    with model.observe(heads):
        if heads.wanted:
            yield from other.before(0)
            yield from other.hidden()
    pairs = zip(question.prompt.tokens, corrupt.tokens)
    pictures = [span.start for span in corrupt.inputs.media]
    first = min([*pictures, *(i for i, (a, b) in enumerate(pairs) if a != b)], default=0)
    soft = SoftTokens(model, corrupt, 0, question.media_features)
    found = []
    for part in parts:
        if part.kind == "head":
            source = heads.outputs(part.layer, part.index)
            patch = Patch(part.layer, source, tap="head_outputs", heads=(part.index,))
            found.append((reading.begin(min(first, reading.queries.start)), patch))
        else:
            at = part.index, part.index + 1
            tokens = mx.array(corrupt.tokens[slice(*at)])[None]
            given = _Input(reading, part.index, _input(model, tokens, soft.between(*at)))
            found.append((reading.begin(part.index), given))
    return found


class _Heads:
    """An observer that keeps what some heads of a run output."""

    def __init__(self, wanted: set[tuple[int, int]]):
        self.wanted = wanted
        self._kept: dict[tuple[int, int], list[mx.array]] = {head: [] for head in wanted}

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "head_outputs":
            for head in (h for of, h in self.wanted if of == layer):
                self._kept[layer, head].append(value[:, head : head + 1])
                mx.eval(self._kept[layer, head][-1])

    def outputs(self, layer: int, head: int) -> mx.array:
        """(1, n, D) float32."""
        return mx.concatenate(self._kept[layer, head], axis=2)[0].astype(mx.float32)


def _input(model, tokens: mx.array, features: mx.array | None) -> dict[str, mx.array]:
    """What a position puts in, as the model has it at these taps: its embedding or soft token
    (1, 1, H), and its per-layer inputs (1, 1, L, P)."""
    decoder = model.language_model.model
    x = decoder.embed(tokens) if features is None else features[None].astype(model.dtype)
    found = {"embeddings": x}
    if model.config.text.hidden_size_per_layer_input:
        tokens = model.per_layer_tokens(tokens)
        found["per_layer_inputs"] = decoder.per_layer_inputs(tokens, x)
    return found


@dataclass(frozen=True, eq=False)
class _Input:
    """An intervention: another input at one position of what is read."""

    reading: Reading
    position: int
    values: dict[str, mx.array]

    @property
    def key(self) -> str:
        return f"another input at {self.position}"

    def observer(self, model):
        """A function for ``model.intervene``."""

        def observe(name, layer, value, geometry):
            start, stop = self.reading.span
            if name not in self.values or not start <= self.position < stop:
                return None
            at = self.position - start
            return mx.concatenate([value[:, :at], self.values[name], value[:, at + 1 :]], axis=1)

        return observe
