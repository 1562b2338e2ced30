"""Computes queries and keys that a plan did not keep, by reading the prompt again.

Without a layer's queries and keys a trace only holds its pooled map. While the model is in memory,
single weights do not need a second trace: reading the prompt in the same chunks, up to that layer,
gives the queries and keys of the traced run, to the bit. Layers above are not computed, and only
the heads and tokens that are asked for are recorded.
"""

import weakref

import mlx.core as mx

from ...errors import TraceError
from ...generation import Progress, engine
from ...generation.prefill import Prompt, SoftTokens
from ...model.cache import expect
from ..data.layer_attention import Vectors
from .buffers import MappedFile
from .choices import itemsize, text_config
from .room import full_disk
from .vectors import VectorStore


class SameModel:
    """A model that ran, and whether it would compute the same now.

    The reference to the model is weak, so that a result does not keep its model in memory.
    """

    def __init__(self, model):
        self._model = weakref.ref(model)
        self._interventions, self._fingerprint = model.interventions, model.fingerprint

    @property
    def model(self):
        """The model; None once nobody else holds it."""
        return self._model()

    def obstacle(self) -> str | None:
        """Why it cannot run now, as a clause for a message; None if it can."""
        model = self.model
        if model is None:
            return "the model is no longer in memory"
        if model.fingerprint != self._fingerprint:
            return "the model has other weights now"
        if model.interventions != self._interventions:
            return (
                f"the model runs under {_named(model.interventions)} now and ran under "
                f"{_named(self._interventions)} then"
            )
        return None


class Rerun(SameModel):
    """Runs a trace's prompt again.

    Args:
        model, prompt, chunk, media_features: what :func:`.trace` ran

    Attributes:
        folder: where mapped files go; None keeps queries and keys in memory
    """

    def __init__(self, model, prompt: Prompt, chunk: int, media_features):
        super().__init__(model)
        self._prompt, self._chunk, self._media_features = prompt, chunk, media_features
        self.folder: str | None = None

    def bytes_of(self, layer: int, heads: int) -> int:
        """Bytes of one token's keys and of its queries in so many heads."""
        model = self.model
        text = text_config(model)
        return (heads + text.kv_heads_of(layer)) * text.head_dim_of(layer) * itemsize(model)

    def head_dim(self, layer: int) -> int:
        """Numbers of a head's queries and keys."""
        return text_config(self.model).head_dim_of(layer)

    def run(self, wanted: dict, progress=None) -> dict[int, Vectors]:
        """Queries and keys of layers: ``wanted`` {layer: (heads, query span, key span)}.

        ``progress`` is called with a ``Progress`` after every chunk; an exception from it stops
        the run within a chunk, and so does Ctrl-C.

        Raises TraceError if :meth:`obstacle` names one, and where the disk is full.
        """
        if obstacle := self.obstacle():
            raise TraceError(f"queries and keys cannot be computed: {obstacle}")
        model = self.model
        mx.eval(model.parameters())  # lazy arrays belong to the thread that made them
        job = engine().submit(self._run, model, wanted)
        del model
        try:
            for event in job.events():
                if progress is not None:
                    progress(event)
        except BaseException:
            job.cancel()
            job.wait()
            raise
        return job.result()

    def _run(self, model, wanted: dict):
        """Generator for the engine."""
        prompt = self._prompt
        recorder = _UpTo(model, wanted, self.folder)
        cache = model.make_cache()
        soft = SoftTokens(model, prompt, 0, self._media_features)
        needed = max(max(q.stop, k.stop) for _, q, k in wanted.values())
        expect(cache, needed)
        with model.observe(recorder):
            for start, stop in prompt.inputs.chunks(self._chunk):
                if start >= needed:
                    break
                tokens = mx.array(prompt.tokens[start:stop])[None]
                try:
                    model.hidden(tokens, cache, soft.between(start, stop))
                except _Enough:
                    mx.eval([entry.state for entry in cache])
                mx.clear_cache()
                yield Progress(stop, len(prompt), 0.0)
        return recorder.found()


class _Enough(Exception):
    """Ends a call of the model once the last wanted layer's queries and keys are recorded."""


class _UpTo:
    """An observer that records queries and keys and ends each call at the last wanted layer."""

    def __init__(self, model, wanted: dict, folder: str | None):
        self._wanted, self._last, self._folder = wanted, max(wanted), folder
        heads = model.config.text.num_attention_heads
        self._stores = {}
        for layer, (own, queries, keys) in wanted.items():
            file = None if folder is None else MappedFile(folder)  # one per layer: freed alone
            expected = queries.stop - queries.start
            self._stores[layer] = VectorStore(own, heads, expected, file, queries, keys)
        self._queries = None

    def __call__(self, name, layer, value, geometry) -> None:
        if name == "layer_input":
            mx.eval(value)  # one layer's intermediates at a time
        elif layer not in self._wanted:
            return
        elif name == "queries":
            self._queries = value
        elif name == "keys":
            q, self._queries = self._queries, None
            mx.eval(q, value)
            try:
                self._stores[layer].put(q[0], value[0], geometry.query_start, geometry.n)
            except OSError as error:
                raise TraceError(
                    f"queries and keys of layer {layer} cannot be kept: "
                    f"{full_disk(self._folder, error)}"
                ) from None
            if layer == self._last:
                raise _Enough

    def found(self) -> dict[int, Vectors]:
        return {layer: store.vectors() for layer, store in self._stores.items()}


def _named(interventions) -> str:
    return ", ".join(map(str, interventions)) or "none"
