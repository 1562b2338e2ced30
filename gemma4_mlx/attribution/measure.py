"""What really removing sources does: the prompt is read again without them.

*Parts.* "direct" says what a part wrote at the one position before the explained token, so there it
is silenced; "gradient" speaks of all positions, so it is silenced at all of them. "patching" says
what a corrupt run's part would do, so what it writes is that run's. The embeddings take with them
what is projected from them to per-layer embeddings; what is looked up by token stays.

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
from ..tracing.recording.scale import Scale
from .data import Part
from .question import Question
from .reading import Reading

#: Where a part's value stands that is its own alone, by kind.
TAPS = {
    "embedding": "embeddings",
    "head": "head_outputs",
    "expert": "expert_outputs",
    "mlp": "mlp_output",
    "per_layer": "per_layer_output",
}


def removal(part: Part, tokens: tuple[int, int] | None = None):
    """The intervention that takes a source out of a run. A part is silenced, at some positions or
    with None at all; a position is hidden from all that read it."""
    if part.kind == "position":
        return Knockout(None, keys=[part.index])
    if part.kind == "head":
        return ScaleHeads(part.layer, (part.index,), tokens=tokens)
    if part.kind == "expert":
        return Ablate(part.layer, (part.index,), tokens=tokens)
    return Scale(part.layer, TAPS[part.kind], tokens=tokens)


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
        removals = [_silenced(part, reading, method) for part in parts]

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


def _silenced(part: Part, reading: Reading, method: str) -> tuple[int, object]:
    """The first position that changes, and the intervention that removes a source."""
    if part.kind == "position":
        return reading.begin(part.index), removal(part)
    if method != "direct":
        return 0, removal(part)
    query = reading.queries.start
    return reading.begin(query), removal(part, (query, query + 1))


def _corruptions(question: Question, reading: Reading, parts: Sequence[Part], corrupt: Prompt):
    """Generator: the same for each source as it is in the corrupt run."""
    model = question.model
    other = Reading(replace(question, prompt=corrupt))
    theirs = _Written(part for part in parts if part.kind != "position")
    with model.observe(theirs):
        if theirs.kept:
            yield from other.before(0)
            yield from other.hidden()
    pairs = zip(question.prompt.tokens, corrupt.tokens)
    pictures = [span.start for span in corrupt.inputs.media]
    first = min([*pictures, *(i for i, (a, b) in enumerate(pairs) if a != b)], default=0)
    soft = SoftTokens(model, corrupt, 0, question.media_features)
    found = []
    for part in parts:
        if part.kind == "position":
            at = part.index, part.index + 1
            tokens = mx.array(corrupt.tokens[slice(*at)])[None]
            given = _Input(part.index, _input(model, tokens, soft.between(*at)))
            found.append((reading.begin(part.index), given))
        else:
            place = reading.begin(min(first, reading.queries.start))
            found.append((place, _replaced(part, theirs.value(part))))
    return found


def _replaced(part: Part, value: mx.array):
    """The intervention by which a part writes another run's value, see :class:`_Written`."""
    if part.kind == "embedding":
        return _Input(0, {TAPS[part.kind]: value})
    if part.kind == "expert":
        return _Expert(part.layer, part.index, value)
    heads = (part.index,) if part.kind == "head" else None
    source = value[0].astype(mx.float32)
    return Patch(part.layer, source, tap=TAPS[part.kind], heads=heads)


class _Written:
    """An observer that keeps what some parts of a run write: the embeddings, what a head outputs, a
    dense MLP and a per-layer embedding add, and an expert's output times its weight."""

    def __init__(self, parts):
        self.kept: dict[Part, list[mx.array]] = {part: [] for part in parts}
        self._chosen: dict[str, mx.array] = {}

    def __call__(self, name, layer, value, geometry) -> None:
        if name in ("expert_indices", "expert_weights"):
            self._chosen[name] = value
        for part, kept in self.kept.items():
            if TAPS[part.kind] == name and part.layer == layer:
                kept.append(self._of(part, value))
                mx.eval(kept[-1])

    def _of(self, part: Part, value: mx.array) -> mx.array:
        if part.kind == "head":
            return value[:, part.index : part.index + 1]
        if part.kind == "expert":
            here = self._chosen["expert_indices"] == part.index
            weights = mx.where(here, self._chosen["expert_weights"], 0)
            return (value * weights[..., None]).sum(axis=-2).astype(value.dtype)
        return value

    def value(self, part: Part) -> mx.array:
        """(1, n, H); of a head (1, 1, n, D)."""
        return mx.concatenate(self.kept[part], axis=-2)


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
    """An intervention: other inputs from one position on, by tap, (1, m, ...)."""

    start: int
    values: dict[str, mx.array]

    @property
    def key(self) -> str:
        return f"other inputs from {self.start} on"

    def observer(self, model):
        """A function for ``model.intervene``."""

        def observe(name, layer, value, geometry):
            if name not in self.values:
                return None
            given, first = self.values[name], self.start - geometry.query_start
            low, high = max(first, 0), min(first + given.shape[1], value.shape[1])
            if low >= high:
                return None
            parts = [value[:, :low], given[:, low - first : high - first], value[:, high:]]
            return mx.concatenate(parts, axis=1)

        return observe


@dataclass(frozen=True, eq=False)
class _Expert:
    """An intervention: an expert's part in its layer's sum is what another run has, (1, n, H).

    What the run itself has of it gets weight 0, and the other's joins the sum as one more output.
    """

    layer: int
    expert: int
    value: mx.array

    @property
    def key(self) -> str:
        return f"another output of expert {self.expert} in layer {self.layer}"

    def observer(self, model):
        """A function for ``model.intervene``."""
        indices, start = None, 0

        def observe(name, layer, value, geometry):
            nonlocal indices, start
            if geometry is not None:
                start = geometry.query_start
            if layer != self.layer:
                return None
            if name == "expert_indices":
                indices = value
            if name == "expert_weights":
                others = mx.where(indices == self.expert, 0, value)
                return mx.concatenate([others, mx.ones_like(value[..., :1])], axis=-1)
            if name == "expert_outputs":
                given = self.value[:, start : start + value.shape[1], None]
                return mx.concatenate([value, given], axis=-2)
            return None

        observe.late = True  # what others change is about the experts that were chosen
        return observe
