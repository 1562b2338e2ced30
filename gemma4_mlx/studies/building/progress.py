"""How far the building of an atlas is, as a value and as a line."""

import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class AtlasProgress:
    """How far the building is.

    Attributes:
        tokens: counted so far, those of earlier runs included.
        total: tokens that are asked for; fewer are counted where the corpora have fewer.
        documents: counted so far.
        seconds: since this run began.
        rate: tokens per second of this run.
    """

    tokens: int
    total: int
    documents: int
    seconds: float
    rate: float

    @property
    def left(self) -> float:
        """Seconds left at this rate; nan before the first document of this run."""
        return (self.total - self.tokens) / self.rate if self.rate else float("nan")

    def __str__(self):
        line = f"{self.tokens:,} of {self.total:,} tokens, {self.documents:,} documents"
        if self.rate:
            line += f", {self.rate:,.0f} tokens/s, {_duration(self.left)} left"
        return line


class Line:
    """Writes progress on one line of standard error, at most ten times a second."""

    def __init__(self):
        self._width, self._shown = 0, 0.0

    def __call__(self, progress: AtlasProgress) -> None:
        now = time.perf_counter()
        if now - self._shown >= 0.1 or progress.tokens >= progress.total:
            self._shown, line = now, str(progress)
            print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(line)

    def end(self, said: str = "") -> None:
        """Leave the line, with a last sentence below it."""
        if self._width or said:
            print(f"\n{said}" if said else "", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"
