"""What this machine has: memory, and which of MLX's backends computes."""

from dataclasses import dataclass, replace
from numbers import Real

GiB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine to plan for.

    Attributes:
        memory: bytes of memory.
        usable: bytes of it that a model may take.
        backend: ``"metal"``, ``"cuda"`` or ``"cpu"``; ``"none"`` where MLX is not installed, and
            a Mac with so much memory is planned for.
    """

    memory: int
    usable: int
    backend: str

    @property
    def itemsize(self) -> int:
        """Bytes of a number that is not quantized: float32 on the CPU backend, else 16 bit."""
        return 4 if self.backend == "cpu" else 2

    @classmethod
    def mac(cls, gib: float) -> "Machine":
        """A Mac with ``gib`` GiB.

        macOS lets the GPU have two thirds of the memory, from 36 GiB on three quarters
        (``recommendedMaxWorkingSetSize`` as Macs report it: 16 GiB of 24, 27 of 36). It can be
        raised: ``sudo sysctl iogpu.wired_limit_mb=...``.

        Raises ValueError for what is no number of GiB.
        """
        if not isinstance(gib, Real) or not 0 < gib < 1 << 20:
            raise ValueError(f"memory is {gib!r}; expected a number of GiB, such as 24")
        memory = int(gib * GiB)
        share = 0.75 if gib >= 36 else 2 / 3
        return cls(memory, int(memory * share), "metal")

    def __str__(self) -> str:
        kind = {"metal": "a Mac's", "cuda": "the GPU's", "cpu": "this machine's"}
        return f"{kind.get(self.backend, 'a Mac with')} {self.memory / GiB:.0f} GiB"


def this_machine() -> Machine:
    """This machine, measured: psutil's total memory, and MLX's recommended working set on a GPU.

    On the CPU backend a tenth is left to the rest of the machine; a container's limit counts.
    Without MLX no model runs here, and it is a Mac with as much memory.
    """
    import psutil

    total = psutil.virtual_memory().total
    try:
        import mlx.core as mx
    except ImportError:
        return replace(Machine.mac(total / GiB), backend="none")
    if mx.default_device() == mx.cpu:
        total = min(total, _container_limit() or total)
        return Machine(total, total * 9 // 10, "cpu")
    backend = "metal" if mx.metal.is_available() else "cuda"
    info = mx.device_info()
    if backend == "cuda":
        total = info.get("memory_size") or info.get("total_memory") or total
    usable = info.get("max_recommended_working_set_size") or total * 3 // 4
    return Machine(total, int(usable), backend)


def _container_limit() -> int | None:
    from pathlib import Path

    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return None
