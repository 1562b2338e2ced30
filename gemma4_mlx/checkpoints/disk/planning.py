"""What a model with weights on disk takes in memory and reads. Needs no MLX."""

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ...config import Gemma4Config
from ...errors import CheckpointError

#: What must be read of a file, at least, for its speed to say something, and at most for patience.
_LEAST, _MOST = 1 << 20, 1 << 28
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Reading:
    """What generating a token reads from disk.

    Attributes:
        kept: experts of each layer that are held in memory; None where whole layers are read.
        of: how many there are.
        nbytes: bytes read for one token; of experts, as many as are missing if all are chosen
            equally often. Real texts choose some more often, and read less.
        speed: bytes a second that the disk reads; None if it is not known.
    """

    kept: int | None
    of: int
    nbytes: int
    speed: float | None

    def __str__(self) -> str:
        if self.of and not self.nbytes:
            return f"all {self.of} experts held"
        what = f"{self.kept} of {self.of} experts held" if self.of else "one layer in memory"
        about = "up to about " if self.of else ""
        told = f"{what}; {about}{self.nbytes / 1e9:.2f} GB read for each token"
        if self.speed and self.nbytes:
            told += (
                f", {self.speed / self.nbytes:.2g} tokens/s from a disk of "
                f"{self.speed / 1e9:.1f} GB/s"
            )
        return told


def check_places(experts: str, expert_memory: int | str | None, layers: str) -> None:
    """Raises CheckpointError for arguments of ``load`` that do not go together."""
    for name, value in (("experts", experts), ("layers", layers)):
        if value not in ("memory", "disk"):
            raise CheckpointError(f"{name} is {value!r}; expected 'memory' or 'disk'")
    if expert_memory is not None and experts == "memory":
        raise CheckpointError("expert_memory is for experts='disk'")
    if layers == experts == "disk":
        raise CheckpointError("layers='disk' leaves the experts there too: give one of the two")


def expert_bytes(memory: int | str) -> int:
    """Bytes that ``load``'s ``expert_memory`` asks for.

    Raises CheckpointError for what is no size.
    """
    if found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(MB|GB|MiB|GiB)\s*", str(memory)):
        return int(float(found[1]) * _UNITS[found[2]])
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    raise CheckpointError(f"expert_memory is {memory!r}; expected bytes, or text such as '4GB'")


def slots_of(memory: int, each: int, config: Gemma4Config) -> int:
    """How many experts of each layer ``memory`` bytes hold; ``each``: bytes of one expert of every
    layer.

    Raises CheckpointError where they are fewer than a token needs.
    """
    text = config.text
    slots = min(text.num_experts, memory // each)
    if slots < text.top_k_experts:
        raise CheckpointError(
            f"expert_memory of {memory / 1e6:,.1f} MB holds {slots} experts of each layer; a token "
            f"needs {text.top_k_experts}, so give at least "
            f"{math.ceil(each * text.top_k_experts / 1e5) / 10:,.1f} MB"
        )
    return slots


def with_experts_on_disk(
    weights: dict[str, int], config: Gemma4Config, memory: int, speed: float | None
) -> tuple[dict[str, int], Reading]:
    """The weights' bytes by part with ``memory`` bytes for experts, and what a token reads.

    Raises CheckpointError for a model without experts, and memory for too few.
    """
    text = config.text
    if not text.enable_moe_block:
        raise CheckpointError("this model has no experts to leave on disk")
    each = weights["experts"] // text.num_experts
    slots = slots_of(memory, each, config)
    missing = text.top_k_experts * (1 - slots / text.num_experts)
    reading = Reading(slots, text.num_experts, round(missing * each), speed)
    return weights | {"experts": slots * each}, reading


def with_layers_on_disk(
    weights: dict[str, int], layers: list[int], speed: float | None
) -> tuple[dict[str, int], Reading]:
    """The same with all layers on disk; ``layers``: bytes of each one's weights."""
    kept = {
        part: size
        for part, size in weights.items()
        if part in ("embeddings", "per-layer embeddings", "norms", "vision", "audio")
    }
    return kept | {"one layer": max(layers)}, Reading(None, 0, sum(layers), speed)


def disk_speed(file: Path) -> float | None:
    """Bytes a second of reading a file, in order and by one thread, as it is the first time.

    None for a file too small to tell. What the system held of it is given up before, where a
    system can (Linux); elsewhere a file that was just read seems faster than the disk.

    Raises CheckpointError for a file that cannot be read.
    """
    try:
        size = min(file.stat().st_size, _MOST)
        if size < _LEAST:
            return None
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)
            scratch, begin = bytearray(_LEAST * 4), time.perf_counter()
            for start in range(0, size, len(scratch)):
                os.preadv(descriptor, [scratch], start)
            return size / (time.perf_counter() - begin)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
