"""What a plan costs: bytes by part and floating-point operations."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PlanCost:
    """Price of a plan. ``parts``: bytes in memory by part; ``disk``: bytes in a mapped file;
    ``flops``: floating-point operations beyond the plain forward pass."""

    parts: dict[str, int] = field(default_factory=dict)
    disk: int = 0
    flops: int = 0

    @property
    def memory(self) -> int:
        """Bytes in memory when the trace is complete."""
        return sum(self.parts.values())

    def __add__(self, other: "PlanCost") -> "PlanCost":
        parts = dict(self.parts)
        for name, size in other.parts.items():
            parts[name] = parts.get(name, 0) + size
        return PlanCost(parts, self.disk + other.disk, self.flops + other.flops)

    def __str__(self):
        parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in self.parts.items() if size)
        disk = f", {in_bytes(self.disk)} on disk" if self.disk else ""
        return f"{in_bytes(self.memory)} in memory ({parts}){disk}, {self.flops / 1e9:.3g} Gflop"


def in_bytes(size: float) -> str:
    """12345678 -> "11.8 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
