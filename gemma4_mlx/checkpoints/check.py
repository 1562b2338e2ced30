"""Does a checkpoint hold exactly the model's tensors? Every difference goes into one error."""

import re
from collections import defaultdict
from math import prod

from ..errors import CheckpointError
from ..model.sizes import STEPS
from .inventory import Tensor
from .layout import Source
from .packing import Packing, stored_packings

_FLOATS = ("BF16", "F16", "F32")
_TOWER = re.compile(r"(vision_tower|vision_embedder|audio_tower|embed_vision|embed_audio)(?=\.)")
_MOST_LINES = 40
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def check(where: str, sources: dict[str, Source], wanted: dict[str, Tensor]) -> dict[str, Packing]:
    """Compare what is stored with what the model has.

    Returns:
        The packing of each module that the checkpoint holds quantized.

    Raises:
        CheckpointError: naming every missing, unexpected and misshapen tensor.
    """
    problems: list[str] = []
    packings = stored_packings(sources, wanted, problems.append)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, tuple[str, ...]] = {}
    for name, tensor in wanted.items():
        path = name.removesuffix(".weight")
        packing = packings.get(path) if name.endswith(".weight") else None
        if packing is None:
            shapes[name], dtypes[name] = tensor.shape, _FLOATS
            continue
        for part, shape in packing.shapes(tensor.shape).items():
            shapes[f"{path}.{part}"] = shape
            scale = _FLOATS if packing.mode == "affine" else ("U8",)
            dtypes[f"{path}.{part}"] = ("U32",) if part == "weight" else scale

    for name, source in sources.items():
        path, _, part = name.rpartition(".")
        if part in STEPS and path + ".weight" in wanted and prod(source.shape) == 1:
            shapes[name], dtypes[name] = source.shape, _FLOATS

    bad = _Grouped()
    for name, shape in shapes.items():
        source = sources.get(name)
        if source is None:
            bad.add("missing", name, f"expected shape {shape}")
            continue
        if source.shape != shape:
            bad.add("misshapen", name, f"has shape {source.shape}, expected {shape}")
        if source.stored.dtype not in dtypes[name]:
            expected = " or ".join(dtypes[name])
            bad.add("misshapen", name, f"has dtype {source.stored.dtype}, expected {expected}")
    for name, source in sources.items():
        if name not in shapes:
            note = f"shape {source.shape}; the model has no such tensor"
            bad.add("unexpected", source.stored.name, note)
    problems += bad.lines()
    if problems:
        raise CheckpointError(
            f"{where} does not hold the model that its config.json describes:\n  "
            + "\n  ".join(problems)
        )
    return packings


class _Grouped:
    """Problems by kind, those of many layers on one line (``layers.{0-3,7}.mlp...``), and what a
    tower lacks or has too much also on one."""

    def __init__(self):
        self._names: dict[tuple, list[str]] = defaultdict(list)
        self._towers: dict[tuple, list[str]] = defaultdict(list)

    def add(self, kind: str, name: str, note: str) -> None:
        if tower := _TOWER.search(name):
            self._towers[kind, tower[0]].append(f"{kind}: {name}: {note}")
        else:
            self._names[kind, _NUMBER.sub("*", name), note].append(name)

    def lines(self) -> list[str]:
        found = []
        for (kind, pattern, note), names in self._names.items():
            if len(names) > 4 and pattern.count("*") == 1:
                numbers = sorted(int(_NUMBER.search(name)[0]) for name in names)
                names = [pattern.replace("*", "{" + _ranges(numbers) + "}")]
            found += [f"{kind}: {name}: {note}" for name in names]
        if len(found) > _MOST_LINES:
            found = [*found[:_MOST_LINES], f"and {len(found) - _MOST_LINES} more like these"]
        for (kind, tower), lines in self._towers.items():
            if len(lines) > 4:
                lines = [f"{lines[0]}, and {len(lines) - 1} more {kind} tensors of {tower}"]
            found += lines
        return found


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 7] -> "0-2,7"``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
