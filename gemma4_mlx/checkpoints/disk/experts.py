"""A model whose experts stay on disk: each layer holds some of them and reads the others when the
router chooses them.

The router is not biased towards what is held, and the products are those of :mod:`...model.moe`
with slots in place of experts, so logits, routing and traces are the resident model's, bit by bit.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from ...config import Gemma4Config
from ...errors import CheckpointError
from ...model.gemma4 import Model
from ...model.moe import SORT_FROM, Router, SwitchGLU
from ...model.taps import Tap
from ...model.values import evaluated
from ..derived import widened
from ..files import NUMPY
from ..layout import Source
from ..packing import Packing
from ..read import DTYPES
from .extents import Extent, extents
from .planning import expert_bytes, slots_of
from .prepared import prepared
from .reading import Files, readers, settled
from .reads import Reads
from .slots import Slots

#: Layer, projection and part of an expert tensor's name.
_NAME = re.compile(r"\.layers\.(\d+)\.experts\.switch_glu\.(\w+)\.(weight|scales|biases)$")
_BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}


class _Part:
    """One tensor of a layer's experts: where each expert's bytes lie, and the slots' memory."""

    def __init__(self, where: list[Extent], stored: str, slots: mx.array):
        self._where, self._stored = where, stored
        self._convert = None if slots.dtype == DTYPES[stored] else _converter(stored, slots.dtype)
        # The very memory of the array, as whole numbers where NumPy lacks the type.
        whole = slots if slots.dtype == mx.float32 else slots.view(_BITS[slots.itemsize])
        self._memory = np.array(whole, copy=False)

    def read(self, files: Files, expert: int, slot: int) -> int:
        """Put an expert into a slot; returns bytes read. Raises CheckpointError."""
        into = self._memory[slot]
        if self._convert is None:
            return files.read(self._where[expert], memoryview(into).cast("B"))
        raw = np.empty(into.shape, NUMPY[self._stored])
        count = files.read(self._where[expert], memoryview(raw).cast("B"))
        into[...] = self._convert(raw)
        return count


def _converter(stored: str, dtype: mx.Dtype) -> Callable[[np.ndarray], np.ndarray]:
    """What turns floats of a file into the bits of another type, rounded as MLX rounds."""

    wide = partial(widened, dtype=stored)

    def bfloat16(raw: np.ndarray) -> np.ndarray:
        bits = wide(raw).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to nearest, even

    return {
        mx.float32: wide,
        mx.float16: lambda raw: wide(raw).astype(np.float16).view(np.uint16),
        mx.bfloat16: bfloat16,
    }[dtype]


class _Shelf:
    """One layer's experts: those in its slots, and the files that the others are read from.

    Used by the one thread that computes; other threads only fill slots that it gave them.
    """

    def __init__(self, layer: int, experts: int, size: int, reads: Reads):
        self.slots = Slots(experts, size)
        self.whole = False  # every expert is held, at its own index
        self.guess: mx.array | None = None  # what the layer before expects to be chosen here
        self._layer, self._reads = layer, reads
        self._reading: dict[int, tuple[int, list]] = {}  # expert -> slot, reads under way
        self._last: mx.array | None = None

    def open(self, files: Files, parts: dict[str, list[_Part]]) -> None:
        self._files, self._parts = files, parts

    def hold_all(self) -> None:
        """Fill slots that are as many as the experts. Raises CheckpointError."""
        for slot in range(len(self.slots.held)):
            self._start([slot], ())
        self._finish(list(self._reading))
        self.whole = True

    def computing(self, y: mx.array) -> mx.array:
        """``y`` is about to be computed from the slots, which must stay as they are until then."""
        self._last = y
        return y

    def hold(self, needed: list[int], ahead: "_Shelf | None" = None) -> None:
        """Have experts in slots, which are at least as many.

        ``ahead``: the next layer's shelf, whose likely experts are asked for behind these.

        Raises CheckpointError for what cannot be read.
        """
        slots, reads, begin = self.slots, self._reads, perf_counter()
        slots.used(needed)
        absent = [e for e in needed if slots.place[e] < 0]
        missing = [e for e in absent if e not in self._reading]
        reads.held += len(needed) - len(absent)
        reads.ahead += len(absent) - len(missing)
        reads.missed += len(missing)
        self._start(missing, needed)
        if ahead is not None:
            ahead.expect()
        self._finish([e for e in absent if e in self._reading])
        if left := [e for e in missing if slots.place[e] < 0]:
            self._finish(list(self._reading))  # slots that were filled on suspicion
            self._start(left, needed)
            self._finish(left)
        reads.waited += perf_counter() - begin

    def expect(self) -> None:
        """Ask for the experts that are likely to be chosen."""
        if self.guess is None:
            return
        guess, self.guess = set(np.array(self.guess).reshape(-1).tolist()), None
        wanted = [e for e in guess if self.slots.place[e] < 0 and e not in self._reading]
        self._start(wanted, guess)

    def _start(self, experts: list[int], needed: Collection[int]) -> None:
        if not experts:
            return
        if self._last is not None:
            mx.eval(self._last)
            self._last = None
        for expert, slot in self.slots.make_room(experts, needed):
            self._reading[expert] = (
                slot,
                [
                    readers().submit(self._read, parts, expert, slot)
                    for parts in self._parts.values()
                ],
            )

    def _read(self, parts: list[_Part], expert: int, slot: int) -> int:
        return sum(part.read(self._files, expert, slot) for part in parts)

    def _finish(self, experts: list[int]) -> None:
        """Wait for experts that are being read."""
        if not experts:
            return
        what = f"experts of layer {self._layer}"
        settled([read for e in experts for read in self._reading[e][1]], what)
        problem = None
        for expert in experts:
            slot, reads = self._reading.pop(expert)
            try:
                self._reads.nbytes += sum(read.result() for read in reads)
                self.slots.fill(expert, slot)
            except CheckpointError as error:
                self.slots.empty(slot)
                problem = error
        if problem is not None:
            raise problem


class SlottedGLU(SwitchGLU):
    """:class:`SwitchGLU` whose matrices are those of the experts that a shelf holds."""

    def __init__(self, hidden_size: int, intermediate_size: int, shelf: _Shelf):
        super().__init__(hidden_size, intermediate_size, len(shelf.slots.held))
        self.shelf = shelf
        self.ahead: _Shelf | None = None  # the next layer's

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """As :class:`SwitchGLU`'s; the indices are evaluated, unless every expert is held.

        Raises CheckpointError for what cannot be read, in ``mx.compile`` and when a gradient is
        taken.
        """
        shelf, ahead = self.shelf, self.ahead
        if shelf.whole:  # every expert at its own index
            return super().__call__(x, indices)
        guess = () if ahead is None or ahead.guess is None else (ahead.guess,)
        if not evaluated(indices, *guess):
            raise CheckpointError("a model with experts on disk cannot be compiled")
        chosen = np.array(indices)
        needed = sorted(set(chosen.reshape(-1).tolist()))
        if len(needed) > len(shelf.slots.held):
            many = indices.size >= SORT_FROM
            in_rounds = self._many_in_rounds if many else self._few_in_rounds
            return _opaque(in_rounds(x, indices, chosen, needed))
        shelf.hold(needed, ahead)
        places = mx.array(shelf.slots.place[chosen])
        y = shelf.computing(_opaque(super().__call__(x, indices, places)))
        if indices.size >= SORT_FROM:
            mx.eval(y)  # to be kept until the next call it would be large
        return y

    def _rounds(self, needed: list[int]) -> Iterator[list[int]]:
        """The experts in groups of as many as there are slots, those that are held first, so that
        each is read once."""
        place, size = self.shelf.slots.place, len(self.shelf.slots.held)
        order = sorted(needed, key=lambda expert: place[expert] < 0)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _few_in_rounds(
        self, x: mx.array, indices: mx.array, chosen: np.ndarray, needed: list[int]
    ) -> mx.array:
        """A few pairs of more experts than there are slots. Each round computes all pairs, since a
        product's rounding may depend on how many rows it has, and those of its experts stay."""
        y, place = None, self.shelf.slots.place
        for experts in self._rounds(needed):
            self.shelf.hold(experts)
            now = super().__call__(x, indices, mx.array(np.maximum(place[chosen], 0)))
            here = mx.array(np.isin(chosen, experts))[..., None]
            y = now if y is None else mx.where(here, now, y)
            mx.eval(y)
        return y

    def _many_in_rounds(
        self, x: mx.array, indices: mx.array, chosen: np.ndarray, needed: list[int]
    ) -> mx.array:
        """The same of many pairs, each computed once, the rows of an expert as in
        :class:`SwitchGLU`."""
        k, H, place = indices.shape[-1], x.shape[-1], self.shelf.slots.place
        order = np.array(mx.argsort(indices.reshape(-1)))
        pairs, rows = chosen.reshape(-1)[order], x.reshape(-1, 1, H)
        outputs, taken = [], []
        for experts in self._rounds(needed):
            self.shelf.hold(experts)
            now = np.isin(pairs, experts)
            y = self.glu(rows[mx.array(order[now] // k)], mx.array(place[pairs[now]]), True)
            mx.eval(y)
            outputs.append(y)
            taken.append(order[now])
        y = mx.concatenate(outputs)[mx.array(np.argsort(np.concatenate(taken)))]
        return y.reshape(*indices.shape, H)


@mx.custom_function
def _opaque(y: mx.array) -> mx.array:
    """``y``, through which no gradient goes: by then the slots hold other experts."""
    return y


@_opaque.vjp
def _refused(*_):
    raise CheckpointError(
        "gradients need all experts in memory: load the model without experts='disk'"
    )


class _Foresight(Router):
    """A router that also tells the next layer which experts it would choose there from this
    layer's stream, which changes little from layer to layer."""

    def __call__(self, x: mx.array, tap: Tap) -> tuple[mx.array, mx.array]:
        self.foresee(x)
        return super().__call__(x, tap)


def _foresee(router: Router, shelf: _Shelf, x: mx.array) -> None:
    if x.size // x.shape[-1] * router.k < SORT_FROM and not shelf.whole:
        shelf.guess, _ = Router.__call__(router, x, lambda name, value: value)


class ExpertsOnDisk:
    """How a model's experts are held: ``model.on_disk``.

    Attributes:
        slots: experts held in each layer, of ``experts``.
        memory: bytes of all slots.
        reads: what was read so far.

    Raises CheckpointError for a model without experts, one whose experts have to be converted and
    are not to be prepared, and memory for fewer experts than a token needs.
    """

    #: Of a chunk's layers only the experts that it chose are read.
    whole_layers = False

    def __init__(
        self,
        memory: int | str | None,
        prepare: bool,
        folder: Path,
        config: Gemma4Config,
        sources: dict[str, Source],
        new: dict[str, Packing],
        dtype_of: Callable[[str, Source], mx.Dtype | None],
        key: str,
    ):
        text = config.text
        if not text.enable_moe_block:
            raise CheckpointError(f"{folder} has no experts to leave on disk")
        self._text, self.experts, self.reads = text, text.num_experts, Reads()
        self._of = {name: s for name, s in sources.items() if _NAME.search(name)}
        self._names = set(self._of)
        if any(
            name.removesuffix(".weight") in new or not extents(s) for name, s in self._of.items()
        ):
            self._of = prepared(key, self._of, new, dtype_of, _layer_of, prepare)
        self._types = {n: _type(s, dtype_of(n, s)) for n, s in self._of.items()}
        self._where = {name: extents(source) for name, source in self._of.items()}
        each = sum(self._nbytes(name) for name in self._of)  # one slot of every layer
        self.slots = slots_of(_bytes(memory), each, config)
        self.memory = each * self.slots
        self._shelves = {
            layer: _Shelf(layer, self.experts, self.slots, self.reads)
            for layer in sorted(set(map(_layer_of, self._of)))
        }

    def __repr__(self):
        return (
            f"ExpertsOnDisk({self.slots} of {self.experts} experts of each layer in "
            f"{self.memory / 1e6:,.0f} MB; {self.reads})"
        )

    def _nbytes(self, name: str) -> int:
        return self._types[name].size * int(np.prod(self._of[name].shape[1:]))

    def names(self) -> set[str]:
        """Names of the tensors that are not read at loading."""
        return self._names

    def put_into(self, model: Model) -> None:
        """Give each layer slots in place of its experts; before they are quantized."""
        text = self._text
        for number, shelf in self._shelves.items():
            model.layers[number].experts.switch_glu = SlottedGLU(
                text.hidden_size, text.moe_intermediate_size, shelf
            )
        for before, number in pairwise(self._shelves):
            layer, shelf = model.layers[before], self._shelves[number]
            layer.experts.switch_glu.ahead = shelf
            layer.router.__class__ = _Foresight
            layer.router.foresee = partial(_foresee, model.layers[number].router, shelf)

    def empty(self, model: Model) -> None:
        """Put empty slots in the experts' places, in the types of the tensors."""
        for name, source in self._of.items():
            array = mx.zeros((self.slots, *source.shape[1:]), self._types[name])
            mx.eval(array)
            model.update(tree_unflatten([(name, array)]))

    def open(self, model: Model) -> None:
        """Open the files; from then on the model computes.

        Raises CheckpointError for one that cannot be opened or, where all experts have room, read.
        """
        files = Files(extent.file for where in self._where.values() for extent in where)
        parts: dict[int, dict[str, list[_Part]]] = defaultdict(lambda: defaultdict(list))
        for name, where in self._where.items():
            number, projection, part = _NAME.search(name).groups()
            slots = model.layers[int(number)].experts.switch_glu[projection][part]
            made = _Part(where, self._of[name].stored.dtype, slots)
            parts[int(number)][projection].append(made)
        for number, shelf in self._shelves.items():
            shelf.open(files, parts[number])
            if self.slots == self.experts:
                shelf.hold_all()


def _bytes(memory: int | str | None) -> int:
    if memory is None:
        import psutil

        return psutil.virtual_memory().available // 2
    return expert_bytes(memory)


def _layer_of(name: str) -> int:
    return int(_NAME.search(name)[1])


def _type(source: Source, wanted: mx.Dtype | None) -> mx.Dtype:
    own = DTYPES[source.stored.dtype]
    return wanted if wanted is not None and mx.issubdtype(own, mx.floating) else own
