"""Documents read by the model, and what an atlas counts of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ...errors import StudyError
from ...generation import Progress, SamplingOptions, Token, stream
from ...generation.prefill import CHUNK, KEPT_BYTES, Prompt, SoftTokens
from ...model import ops
from ...model.cache import expect
from ...processing.inputs import ModelInputs
from ...processing.template import render
from ...tracing.data.routing import RoutingData
from ...tracing.data.trace import Trace
from ...tracing.recording.lens import LOGITS
from ...tracing.recording.plans import RoutingPlan
from ...tracing.recording.recorder import model_facts
from ...tracing.recording.routing import HELD, RoutingRecorder, expert_scales
from ...tracing.recording.run import inputs_of
from ...tracing.recording.tokens import media_of, tokens_of
from ..data.pieces import Piece, Written

#: Tokens that are read at once, at most, if they are not of one piece; and the share of a batch
#: that is text at least, the rest being what fills its rows up.
AREA, FULL = 2048, 0.75

#: Of every so many tokens one is looked at for the predicted token and for early routing, for
#: these cost a product with the vocabulary and with another layer's router.
LOOKED_AT = 16
#: Of every so many tokens the outputs of one are added to the sums of what experts write.
ADDED_UP = 128
#: The first token of both samples. It is a place in the piece, not in the corpus, so that what is
#: counted of a document does not depend on the others.
FIRST = 8


def prepared(model, document, answers: int) -> ModelInputs:
    """A document as the model reads it; with its own answer, of at most so many tokens, where
    ``answers`` is not 0 and the document is a conversation that does not end in one.

    Raises StudyError for text where the model has no tokenizer, ChatError for messages that the
    template refuses, GenerationError for ids outside the vocabulary.
    """
    if isinstance(document, str) and model.tokenizer is None:
        raise StudyError("text needs a tokenizer, and this model has none; give token ids")
    answered = True
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if model.tokenizer is None:
            raise StudyError("messages need a tokenizer, and this model has none; give token ids")
        answered = not answers or document[-1].get("role") in ("assistant", "model")
        rendered = render(
            document, add_generation_prompt=not answered, template=model.chat_template
        )
        document = rendered.encode(model.tokenizer)
    elif hasattr(document, "inputs"):
        answered, document = not answers, inputs_of(model, document)
    inputs = Prompt.of(model, document).inputs
    if answered:
        return inputs
    options = SamplingOptions(temperature=0.0, max_tokens=answers)
    events = stream(model, inputs, options=options, progress=False)
    said = [event.id for event in events if isinstance(event, Token)]
    types = np.append(inputs.token_types, np.zeros(len(said), np.uint8))
    return replace(inputs, tokens=[*inputs.tokens, *said], token_types=types)


def cut(inputs: ModelInputs, size: int, bos: int) -> Iterator[ModelInputs]:
    """A document in pieces of about ``size`` tokens, each begun anew; a picture is never cut."""
    if len(inputs) <= size:
        yield inputs
        return
    head = inputs.tokens[:1] if inputs.tokens[0] == bos else []
    for start, stop in inputs.chunks(size - 1, len(head)):
        shift = start - len(head)
        media = [
            replace(span, start=span.start - shift, stop=span.stop - shift)
            for span in inputs.media
            if start <= span.start < stop
        ]
        types = np.append(np.zeros(len(head), np.uint8), inputs.token_types[start:stop])
        yield ModelInputs([*head, *inputs.tokens[start:stop]], types, media)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Which pieces are read at once, as rows of one batch: those of a like length.

    >>> list(batches([30, 900, 40, 32, 2000]))
    [[4], [1], [2, 3, 0]]
    """
    batch, tokens = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        area = (len(batch) + 1) * lengths[batch[0] if batch else i]
        if area > AREA or tokens + lengths[i] < FULL * area:
            if batch:
                yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch


class Texts(dict):
    """Token id -> the text of that token alone, of a model."""

    def __init__(self, model):
        super().__init__()
        self._tokenizer = model.tokenizer

    def __missing__(self, id: int) -> str:
        known = self._tokenizer is not None
        text = self[id] = self._tokenizer.token_text(id) if known else f"<{id}>"
        return text


@dataclass(frozen=True)
class Known:
    """What is worked out once for a model: the facts of :func:`.recorder.model_facts`, the
    experts' scale of :func:`.routing.expert_scales`, and texts."""

    facts: dict
    scale: np.ndarray
    texts: Texts

    @classmethod
    def of(cls, model) -> "Known":
        layers = tuple(range(model.config.text.num_hidden_layers))
        return cls(model_facts(model), expert_scales(model, layers), Texts(model))


def read(model, pieces: Sequence[ModelInputs], known: Known):
    """Generator for the engine: reads pieces, yields Progress, returns a :class:`.Piece` of each.

    Each piece is a row of its own, which begins at position 0 and sees no other; what fills the
    rows of a batch up stands behind the text, where no token sees it.
    """
    found: dict[int, Piece] = {}
    for batch in batches([len(piece) for piece in pieces]):
        rows = _Rows(model, [pieces[i] for i in batch], known)
        with model.observe(rows):
            yield from rows.run()
        found |= zip(batch, rows.pieces())
    return [found[i] for i in range(len(pieces))]


class _Rows:
    """Pieces as rows of one batch, and an observer of what their experts do."""

    def __init__(self, model, pieces: list[ModelInputs], known: Known):
        self.model, self.known = model, known
        self.prompts = [Prompt.of(model, piece) for piece in pieces]
        self.n = max(map(len, pieces))
        self.routing = RoutingRecorder(model, RoutingPlan(norms=True), known.scale)
        self.sampled = _Sampled(model, [len(piece) for piece in pieces])
        self.taps = {*self.routing.TAPS}

    def run(self):
        """Reads the batch; one row of more than a chunk in chunks, with a cache."""
        model, whole = self.model, [(0, self.n)]
        cache = None
        if len(self.prompts) == 1 and self.n > CHUNK:
            whole, cache = list(self.prompts[0].inputs.chunks(CHUNK)), model.make_cache()
            expect(cache, self.n)
        soft = [SoftTokens(model, prompt, 0, None) for prompt in self.prompts]
        for start, stop in whole:
            ids = np.full((len(soft), stop - start), model.config.text.pad_token_id, np.int32)
            for row, prompt in zip(ids, self.prompts):
                some = prompt.tokens[start:stop]
                row[: len(some)] = some
            features = [each.between(start, stop) for each in soft]
            features = [each for each in features if each is not None]
            features = mx.concatenate(features) if features else None
            mx.eval(model.hidden(mx.array(ids), cache, features))
            if mx.get_cache_memory() > KEPT_BYTES:
                mx.clear_cache()
            yield Progress(stop, self.n, 0.0)

    def __call__(self, name, layer, value, geometry) -> None:
        self.sampled(name, layer, value, geometry)
        if name == "tokens":
            self.routing.begin()
        elif name in self.taps:  # rows one behind the other
            self.routing.observe(name, layer, value.reshape(1, -1, *value.shape[2:]))
        elif name == "final_hidden":
            self.routing.settle()

    def pieces(self) -> Iterator[Piece]:
        """What was seen of each row. What was summed over all of them is the first one's."""
        whole, sampled, begin = self.routing.result(None), self.sampled, 0
        interventions = tuple(map(str, self.model.interventions))
        early, written = sampled.early, tuple(sampled.written)
        for i, prompt in enumerate(self.prompts):
            n = len(prompt)
            ids = np.array(prompt.tokens, np.int32)
            texts = [self.known.texts[id] for id in prompt.tokens]
            tokens = tokens_of(self.model, ids, prompt.inputs, texts)
            at = slice(i * self.n, i * self.n + n)
            parts = (part[:, at] for part in (whole.experts, whole.weights, whole.norms))
            experts, weights, norms = parts
            routing = RoutingData(
                whole.layers, experts, weights, whole.num_experts, tokens, None, whole.scale, norms
            )
            media = media_of(prompt.inputs)
            trace = Trace(
                tokens, routing, model=self.known.facts, media=media, interventions=interventions
            )
            places = np.arange(FIRST, n, LOOKED_AT)
            said = np.array(sampled.predicted[begin : begin + len(places)], np.int64)
            begin += len(places)
            yield Piece(trace, (places, said), early, written)
            early, written = None, ()


class _Sampled:
    """An observer of the predicted token, of early routing and of what experts put out, at a sample
    of places in rows of these ``lengths``."""

    def __init__(self, model, lengths: Sequence[int]):
        text = model.config.text
        self._routers = [layer.router for layer in model.layers]
        self._E, self._lengths = text.num_experts, lengths
        #: (step, rank), as of :class:`Piece`
        self.early = np.zeros((text.num_hidden_layers - 1, self._E), np.int64)
        self.written: list[Written] = []
        self.predicted: list[int] = []
        self._vocabulary = text.vocab_size
        self._head = model.language_model.uncapped
        self._start = self._stop = 0
        self._places: dict[int, mx.array | None] = {}
        self._stream = self._before = self._chosen = None
        self._ranks: list[tuple[int, mx.array]] = []
        self._outputs: list[tuple[int, mx.array, mx.array]] = []

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "tokens":
            self._start, self._stop = self._stop, self._stop + value.shape[1]
            self._places = {every: self._sample(every) for every in (LOOKED_AT, ADDED_UP)}
        elif name == "attention_residual":
            self._before, self._stream = self._stream, self._at(value, LOOKED_AT)
        elif name == "expert_indices":
            self._chosen = self._at(value, ADDED_UP)
            if layer and self._before is not None:
                chosen = self._at(value, LOOKED_AT)
                scores = self._routers[layer].scores(self._before)
                own = mx.take_along_axis(scores, chosen, axis=-1)
                better = scores[..., None, :] > own[..., None]
                self._ranks.append((layer - 1, better.sum(axis=-1)))
        elif name == "expert_outputs" and self._chosen is not None:
            outputs = self._at(value, ADDED_UP).astype(mx.float32)
            if value.nbytes > HELD:  # begun at once, or it would keep the outputs of all tokens
                ops.begun(outputs)
            self._outputs.append((layer, self._chosen, outputs))
        elif name == "final_hidden":
            self._settle(self._at(value, LOOKED_AT))

    def _sample(self, every: int) -> mx.array | None:
        """Where this call's sampled tokens stand, its rows one behind the other; None if it has
        none."""
        first = self._start + (FIRST - self._start) % every
        places = [
            row * (self._stop - self._start) + place - self._start
            for row, length in enumerate(self._lengths)
            for place in range(first, min(self._stop, length), every)
        ]
        return mx.array(places) if places else None

    def _at(self, value: mx.array, every: int) -> mx.array | None:
        """The sampled rows of (B, n, ...) as (1, r, ...); None if this call has none."""
        places = self._places[every]
        return None if places is None else value.reshape(1, -1, *value.shape[2:])[:, places]

    def _settle(self, hidden: mx.array | None) -> None:
        """Convert what was collected; ``hidden`` (1, m, H) after the final norm."""
        best = []
        if hidden is not None:
            rows = max(1, LOGITS // self._vocabulary)
            parts = (hidden[0, i : i + rows] for i in range(0, hidden.shape[1], rows))
            best = [self._head(part).argmax(axis=-1) for part in parts]
        mx.eval(best, [ranks for _, ranks in self._ranks], [s for _, *s in self._outputs])
        self.predicted += [id for part in best for id in part.tolist()]
        for step, ranks in self._ranks:
            self.early[step] += np.bincount(np.array(ranks).ravel(), minlength=self._E)
        for layer, chosen, outputs in self._outputs:
            experts = np.array(chosen).ravel()
            order = np.argsort(experts, kind="stable")
            rows = np.array(outputs).reshape(len(experts), -1)[order].astype(np.float64)
            used, starts, tokens = np.unique(experts[order], return_index=True, return_counts=True)
            sums = np.add.reduceat(rows, starts, axis=0)
            self.written.append(Written(layer * self._E + used.astype(np.int64), sums, tokens))
        self._ranks, self._outputs = [], []
