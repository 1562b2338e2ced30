"""A document read by the model, and what an atlas counts of it."""

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...errors import StudyError
from ...generation import SamplingOptions, Token, stream
from ...generation.prefill import Prompt
from ...model import ops
from ...processing.inputs import ModelInputs
from ...processing.template import render
from ...tracing.recording.lens import LOGITS
from ...tracing.recording.plans import RoutingPlan, TracePlan
from ...tracing.recording.routing import HELD
from ...tracing.recording.run import inputs_of, record
from ..data.counts import Piece, Written

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


def read(model, inputs: ModelInputs, facts: dict):
    """Generator for the engine: reads a piece, yields Progress, returns the :class:`.Piece`.

    ``facts``: the model's, of :func:`.recorder.model_facts`.
    """
    watching, prompt = _Sampled(model), Prompt.of(model, inputs)
    with model.observe(watching):
        trace = yield from record(model, prompt, TracePlan(RoutingPlan(norms=True)), facts=facts)
    predicted = np.arange(FIRST, len(inputs), LOOKED_AT), np.array(watching.predicted, np.int64)
    return Piece(trace, predicted, watching.early, tuple(watching.written))


class _Sampled:
    """An observer of the predicted token, of early routing and of what experts put out, at a sample
    of places."""

    def __init__(self, model):
        text = model.config.text
        self._routers = [layer.router for layer in model.layers]
        self._E = text.num_experts
        #: (step, rank), as of :class:`.Piece`
        self.early = np.zeros((text.num_hidden_layers - 1, self._E), np.int64)
        self.written: list[Written] = []
        self.predicted: list[int] = []
        self._vocabulary = text.vocab_size
        self._head = model.language_model.uncapped
        self._start = self._n = 0
        self._stream = self._before = self._chosen = None
        self._ranks: list[tuple[int, mx.array]] = []
        self._outputs: list[tuple[int, mx.array, mx.array]] = []

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "tokens":
            self._start, self._n = self._start + self._n, value.shape[1]
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
            # A copy, begun at once: a view would keep the outputs of all tokens.
            outputs = mx.contiguous(self._at(value, ADDED_UP).astype(mx.float32))
            if value.nbytes > HELD:
                ops.begun(outputs)
            self._outputs.append((layer, self._chosen, outputs))
        elif name == "final_hidden":
            self._settle(self._at(value, LOOKED_AT))

    def _at(self, value: mx.array, every: int) -> mx.array | None:
        """The sampled rows of (1, n, ...); None if this call has none."""
        first = (FIRST - self._start) % every
        return value[:, first::every] if first < self._n else None

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
