"""The weights as the checkpoint's files hold them, read again and apart from the loaded model."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoints.plan import read_plan
from ..checkpoints.read import read_as_stored
from .report import Finding

#: Weights further out than so many times their tensor's size are no trained weights.
OUTLIER = 1e4
#: So many zeros in a row are a hole in a file, not weights.
HOLE = 4096
#: Numbers unpacked at once.
BLOCK = 1 << 24
_BLOB = re.compile(r"[0-9a-f]{64}")


class Weights:
    """Tensors by the model's names, one layer's at a time, as NumPy arrays of type ``wide``.

    With a ``folder`` they come from its files, wherever the model took them as they are; what it
    quantized while loading, and everything without a folder, is the model's own.
    """

    def __init__(self, model, folder: Path | None, wide: type):
        self.model, self.wide, self.folder = model, wide, folder
        self._own = dict(tree_flatten(model.parameters()))
        self._packed = {
            path: module for path, module in model.named_modules() if hasattr(module, "bits")
        }
        self._sources, self._requantized = {}, {}
        if folder is not None:
            sources = read_plan(folder).sources
            self._sources = {n: s for n, s in sources.items() if n in self._own}
            for path in self._packed:  # quantized while it was loaded
                if path + ".scales" not in sources and path + ".weight" in sources:
                    self._requantized[path] = self._sources.pop(path + ".weight")
        self._held: dict[str, mx.array] = {}

    def hold(self, prefix: str) -> None:
        """Read what begins with ``prefix``, and let go of what was held before."""
        wanted = {n: s for n, s in self._sources.items() if n.startswith(prefix)}
        with mx.stream(mx.cpu):
            self._held = dict(read_as_stored(wanted, lambda *_: None))

    def raw(self, name: str) -> mx.array:
        if name not in self._held and name in self._sources:
            self.hold(_group(name))
        return self._held.get(name, self._own.get(name))

    def __contains__(self, name: str) -> bool:
        return name in self._own

    def __call__(self, name: str, rows=None) -> np.ndarray:
        """A tensor, unpacked; ``rows``: some of its rows, or one expert's matrix."""
        path, _, last = name.rpartition(".")
        parts = [name]
        if last == "weight" and path in self._packed:
            parts = [name, path + ".scales", path + ".biases"]
        arrays = [self.raw(part) for part in parts]
        with mx.stream(mx.cpu):
            if rows is not None:
                index = rows if isinstance(rows, int | slice) else mx.array(np.asarray(rows))
                arrays = [None if a is None else a[index] for a in arrays]
            array = arrays[0]
            if len(parts) > 1:
                module = self._packed[path]
                array = mx.dequantize(
                    *(a if a is None or a.dtype in _WHOLE else a.astype(mx.float32)
                      for a in arrays),
                    group_size=module.group_size, bits=module.bits, mode=module.mode,
                    dtype=mx.float32,
                )  # fmt: skip
            return np.array(array.astype(mx.float32)).astype(self.wide)

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the weights themselves, tensor by tensor."""
        if self.folder is not None:
            yield from _digests(self.folder)
        for name, own in self._own.items():
            stored = self.raw(name)
            layer, mechanism = place_of(name)
            if stored is not own and not _same(stored, own):
                note = f"{name} is not what the file holds"
                yield Finding("weights", layer, mechanism, note=note)
            if mx.issubdtype(stored.dtype, mx.floating) and (note := _odd(stored, name)):
                yield Finding("weights", layer, mechanism, note=f"{name} {note}")
        self._held = {}
        for path, source in self._requantized.items():
            if note := self._lost(path, source):
                layer, mechanism = place_of(path)
                yield Finding("weights", layer, mechanism, note=f"{path} {note}")

    def _lost(self, path: str, source) -> str | None:
        """What is wrong with a matrix that was quantized while it was loaded: no group should be
        further from the file's than quantizing can leave it, and the whole not much further than
        it does."""
        module, name = self._packed[path], path + ".weight"
        how = dict(group_size=module.group_size, bits=module.bits, mode=module.mode)
        kept = module.scales.dtype
        with mx.stream(mx.cpu):
            ((_, stored),) = read_as_stored({name: source}, _as_quantized)
            moved = mx.array(self(name).astype(np.float32)) - stored
            if module.mode == "affine" and (note := _too_far(moved, stored, module)):
                return note
            # In the file's own type, which is the first that scales are rounded to.
            packed, *scales = mx.quantize(stored, **how)
            scales = [s if s.dtype in _WHOLE else s.astype(kept).astype(mx.float32) for s in scales]
            again = mx.dequantize(packed, *scales, dtype=mx.float32, **how)
            explained = mx.sqrt(((again - stored) ** 2).mean()).item()
            error = mx.sqrt((moved**2).mean()).item()
        if error <= 1.5 * explained:
            return None
        return f"is {error:.2g} from the file's weights, {module.bits} bits explain {explained:.2g}"


def _too_far(moved: mx.array, stored: mx.array, module) -> str | None:
    """The groups of a matrix that ``moved`` further than quantizing can move them."""
    groups = stored.reshape(*stored.shape[:-1], -1, module.group_size)
    moved = mx.abs(moved).reshape(groups.shape).max(-1)
    most = farthest(groups, module.bits, module.scales.dtype)
    wrong = ~(moved <= most)  # nor what is no number
    if not (number := wrong.sum().item()):
        return None
    first = mx.argmax(wrong).item()
    *row, group = map(int, np.unravel_index(first, wrong.shape))
    return (
        f"is too far from the file's weights in {number:,} of {wrong.size:,} groups: in group "
        f"{group} of row {', '.join(map(str, row))} {moved.reshape(-1)[first].item():.2g}, where "
        f"{module.bits} bits explain at most {most.reshape(-1)[first].item():.2g}"
    )


def _as_quantized(_: str, source) -> mx.Dtype | None:
    """The type in which loading quantizes a matrix: the file's, if that holds every value."""
    return mx.float32 if getattr(source.stored, "rounded", False) else None


def farthest(groups: mx.array, bits: int, kept: mx.Dtype) -> mx.array:
    """How far affine quantization can move a weight: groups (..., g) in the type that they are
    quantized in -> (...) float32.

    A group from a to b has n = 2**bits - 1 steps of (b - a) / n, at least 1e-7. Its bias is the
    edge e, a or b, that is further from 0, and its scale e / q, with q the steps from 0 to e,
    rounded. e is at least n / 2 steps away, so q is at least (n + 1) / 2, or (n - 1) / 2 where
    float32 misses the half: a scale is at most n / (n - 1) steps. Codes are whole scales from e,
    half of one off at most. But n scales that q made smaller than steps end up to n / (n + 1) of
    a step before the group's other end does, and what lies beyond gets code n: that is more.

    A weight is then code * scale + bias, in float32. The scale was rounded to the groups' type and
    to the type it is ``kept`` in, and its error counts up to n times; the bias is one of the
    group, and rounded only to the latter.
    """
    low, high = (end.astype(mx.float32) for end in (groups.min(-1), groups.max(-1)))
    n = 2**bits - 1
    step = mx.maximum((high - low) / n, 1e-7)
    scale, edge = step * (n / (n - 1)), mx.maximum(mx.abs(low), mx.abs(high))
    far = step * (n / (n + 1))
    for dtype in {groups.dtype, kept, mx.float32}:
        far = far + n * _rounding(scale, dtype)
    for dtype in {kept, mx.float32}:
        far = far + _rounding(edge, dtype)
    return far


def _rounding(values: mx.array, dtype: mx.Dtype) -> mx.array:
    """The most that rounding to ``dtype`` changes ``values``."""
    about = mx.finfo(dtype)
    return about.eps / 2 * mx.maximum(mx.abs(values), about.smallest_normal)


_WHOLE = (mx.uint32, mx.uint8)


def _blocks(array: mx.array) -> Iterator[mx.array]:
    """Some rows at a time, so that little is unpacked at once."""
    rows = max(1, BLOCK // max(1, array[:1].size)) if array.ndim else 1
    for start in range(0, array.shape[0] if array.ndim else 1, rows):
        yield array[start : start + rows] if array.ndim else array


def _same(stored: mx.array, own: mx.array) -> bool:
    if stored.shape != own.shape:
        return False
    with mx.stream(mx.cpu):
        pairs = zip(_blocks(stored), _blocks(own))
        return all(mx.array_equal(a.astype(b.dtype), b, equal_nan=True).item() for a, b in pairs)


def _odd(stored: mx.array, name: str) -> str | None:
    """What no trained weights are: no numbers, far too large, or long runs of zeros."""
    size = 0.0
    for block in _blocks(stored):
        with mx.stream(mx.cpu):
            values = np.array(block.astype(mx.float32)).ravel()
        if not np.isfinite(values).all():
            return f"holds {int((~np.isfinite(values)).sum()):,} values that are no numbers"
        if stored.ndim < 2 or stored.size < 2 * HOLE:
            continue
        size = size or float(np.median(np.abs(values[:: max(1, values.size // 65536)])))
        most = float(np.abs(values).max())
        if most > OUTLIER * size > 0:
            return f"holds {most:.3g}, its usual size is {size:.3g}: a damaged file?"
        whole = values[: values.size // HOLE * HOLE].reshape(-1, HOLE)
        empty = int((~whole.any(-1)).sum())
        if "embed_tokens" not in name and size > 0 and empty:
            return f"has {empty * HOLE:,} zeros in a row: a hole in the file?"
    return None


def _group(name: str) -> str:
    """The start of the names that are read together: a layer's, a tower's, or one tensor's."""
    found = re.match(r"language_model\.model\.layers\.\d+\.|(vision|audio)_tower\.", name)
    return found[0] if found else name


def _digests(folder: Path) -> Iterator[Finding]:
    """Files of the hub's cache are named by their SHA-256."""
    for file in sorted(folder.glob("*.safetensors")):
        if not _BLOB.fullmatch(name := file.resolve().name):
            continue
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest != name:
            yield Finding("weights", None, "file", note=f"{file.name} is not the file the hub has")


def place_of(name: str) -> tuple[int | None, str]:
    """Layer and mechanism that a tensor belongs to."""
    found = re.match(r"language_model\.model\.layers\.(\d+)\.(.+)", name)
    if not found:
        return None, name.removeprefix("language_model.model.").split(".")[0]
    rest = re.sub(r"\.(weight|scales|biases)$", "", found[2])
    return int(found[1]), rest.removeprefix("self_attn.").removeprefix("experts.switch_glu.")
