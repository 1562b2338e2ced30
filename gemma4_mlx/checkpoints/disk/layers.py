"""A model whose decoder layers stay on disk: each is read when it computes, and given back.

For work that reads a prompt once: one pass of the weights for each chunk of the prompt, and then
one for each token that is generated.
"""

import re
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ...config import Gemma4Config
from ...errors import CheckpointError
from ...model.decoder import DecoderLayer
from ...model.gemma4 import Model
from ...model.values import evaluated
from ..files import Stored
from ..layout import Source
from ..packing import Packing
from ..read import Loss, read_all
from .reading import Files, readers
from .reads import Reads

_NAME = re.compile(r"^(language_model\.model\.layers\.(\d+)\.)(.*)$")
#: In place of a matrix that is not in memory.
_GONE = mx.zeros((0, 0))


class _Layer:
    """What a layer on disk reads, and what is read behind it."""

    def __init__(
        self,
        sources: dict[str, Source],
        new: dict[str, Packing],
        dtype_of: Callable[[str, Source], mx.Dtype | None],
        on_disk: "LayersOnDisk",
    ):
        self.sources, self._new, self._dtype_of = sources, new, dtype_of
        self.nbytes = sum(s.stored.nbytes // (1 if s.half is None else 2) for s in sources.values())
        self.on_disk = on_disk
        self.after: _Layer | None = None

    def matrices(self) -> list[tuple[str, mx.array]]:
        """Name within the layer and array of every matrix; the next layer's begin to be read."""
        begin, on_disk = perf_counter(), self.on_disk
        if self.after is not None:
            on_disk.expect(self.after)
        read = read_all(self.sources, self._new, self._dtype_of, Loss())
        found = [(_NAME.match(name)[3], array) for name, array in read]
        on_disk.reads.nbytes += self.nbytes
        on_disk.reads.waited += perf_counter() - begin
        return found


class LayerOnDisk(DecoderLayer):
    """A decoder layer that has its matrices only while it computes."""

    def __call__(self, x, per_layer_input, shared, cache, geometry, tap):
        """As :class:`DecoderLayer`'s, evaluated.

        Raises CheckpointError for what cannot be read, and in ``mx.compile``.
        """
        return self._with_matrices(
            lambda: super(LayerOnDisk, self).__call__(
                x, per_layer_input, shared, cache, geometry, tap
            ),
            cache,
        )

    def fill(self, x, cache, geometry) -> None:
        """As :class:`DecoderLayer`'s, evaluated."""
        self._with_matrices(lambda: super(LayerOnDisk, self).fill(x, cache, geometry), cache)

    def _with_matrices(self, compute: Callable, cache):
        matrices = self.stored.matrices()
        try:
            self.update(tree_unflatten(matrices))
            result = compute()
            found = [array for _, array in tree_flatten(result) if isinstance(array, mx.array)]
            held = [] if cache is None else [cache.state]
            if not evaluated(found, *held):
                raise CheckpointError("a model with layers on disk cannot be compiled")
            return result
        finally:
            self.update(tree_unflatten([(name, _GONE) for name, _ in matrices]))


class LayersOnDisk:
    """How a model's layers are read: ``model.on_disk``.

    Attributes:
        layers: how many there are.
        memory: bytes of the largest one's matrices as they are stored; one is in memory at a time.
        a_pass: bytes that are read for every chunk of a prompt and every generated token.
        reads: what was read so far.
    """

    #: All weights are read for each chunk of a prompt.
    whole_layers = True

    def __init__(
        self,
        folder: Path,
        config: Gemma4Config,
        sources: dict[str, Source],
        new: dict[str, Packing],
        dtype_of: Callable[[str, Source], mx.Dtype | None],
        key: str,
    ):
        self.reads = Reads()
        by_layer: dict[int, dict[str, Source]] = {}
        for name, source in sources.items():
            found = _NAME.match(name)
            if found and len(source.shape) > 1:  # norms and scalars stay in memory
                by_layer.setdefault(int(found[2]), {})[name] = source
        self._of = {
            layer: _Layer(of, new, dtype_of, self) for layer, of in sorted(by_layer.items())
        }
        sizes = [layer.nbytes for layer in self._of.values()]
        self.layers, self.memory, self.a_pass = len(sizes), max(sizes), sum(sizes)

    def __repr__(self):
        told = f"LayersOnDisk({self.layers} layers, {self.a_pass / 1e6:,.0f} MB a pass"
        if self.reads.waited:
            rate = self.reads.nbytes / self.reads.waited
            told += f", {self.a_pass / rate:.1f} s of it at {rate / 1e6:,.0f} MB/s as measured"
        return told + ")"

    def names(self) -> set[str]:
        """Names of the tensors that are not read at loading."""
        return {name for layer in self._of.values() for name in layer.sources}

    def put_into(self, model: Model) -> None:
        """Make the model's layers read their matrices; before they are quantized."""
        for number, stored in self._of.items():
            layer = model.layers[number]
            layer.__class__, layer.stored = LayerOnDisk, stored
            stored.after = self._of.get(number + 1)

    def empty(self, model: Model) -> None:
        """Let nothing stand in the matrices' places until they are read."""
        for number in self._of:
            layer = model.layers[number]
            matrices = [name for name, a in tree_flatten(layer.parameters()) if a.ndim > 1]
            layer.update(tree_unflatten([(name, _GONE) for name in matrices]))

    def open(self, model: Model) -> None:
        """Open the files that are read ahead.

        Raises CheckpointError for one that cannot be opened.
        """
        stored = [s.stored for layer in self._of.values() for s in layer.sources.values()]
        self._files = Files(tensor.file for tensor in stored if isinstance(tensor, Stored))

    def expect(self, layer: _Layer) -> None:
        """Have the system hold what will be read next, as far as it has room."""
        for source in layer.sources.values():
            if isinstance(source.stored, Stored):
                readers().submit(self._files.warm, source.stored)
