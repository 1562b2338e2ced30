"""How far something is that takes its time: as a value, and as a line with a bar."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Letters of a bar.
WIDE = 20


@dataclass(frozen=True)
class Steps:
    """How far something is.

    Attributes:
        done: steps so far, those of earlier runs included.
        total: all of them.
        unit: what a step is, in the plural.
        seconds: since this run began.
        rate: steps per second of this run.
    """

    done: int
    total: int
    unit: str
    seconds: float = 0.0
    rate: float = 0.0

    @property
    def left(self) -> float:
        """Seconds left at this rate; nan before the first step of this run."""
        return (self.total - self.done) / self.rate if self.rate else float("nan")

    def __str__(self):
        line = f"{bar(self.done, self.total)} {self.done:,} of {self.total:,} {self.unit}"
        return line + pace(self.rate, self.unit, self.left)


class Counter:
    """Makes :class:`Steps` of one run; ``already``: done by earlier ones."""

    def __init__(self, unit: str, already: int = 0):
        self._unit, self._already, self._began = unit, already, time.perf_counter()

    def __call__(self, done: int, total: int) -> Steps:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return Steps(done, total, self._unit, seconds, (done - self._already) / seconds)


class Teller:
    """Tells progress: to a function, or with True to a reader, on one line of standard error that
    is written at most ten times a second; with False or None to nobody."""

    def __init__(self, progress: bool | Callable | None):
        self._function = progress if callable(progress) else None
        self._writes = progress is True
        self._width, self._shown, self._latest = 0, 0.0, None

    def __call__(self, progress: object) -> None:
        if self._function is not None:
            self._function(progress)
        if self._writes:
            self._latest = progress
            if time.perf_counter() - self._shown >= 0.1:
                self._write()

    def _write(self) -> None:
        self._shown, line = time.perf_counter(), str(self._latest)
        print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width, self._latest = len(line), None

    def end(self, said: str = "") -> None:
        """Leave the line with what came last, and with a sentence below it."""
        if self._latest is not None:
            self._write()
        if self._writes and (self._width or said):
            print(f"\n{said}" if said else "", file=sys.stderr, flush=True)


def bar(done: int, total: int) -> str:
    """3 of 4 -> "###############-----"; what exceeds the total fills it."""
    filled = WIDE * min(done, total) // max(1, total)
    return "█" * filled + "░" * (WIDE - filled)


def pace(rate: float, unit: str, left: float) -> str:
    """Such as ", 120 tokens/s, 1 min 15 s left"; nothing for a rate of 0."""
    return f", {rate:,.{0 if rate >= 10 else 1}f} {unit}/s, {_duration(left)} left" if rate else ""


def _duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min"
