"""Positioned reads, several at once, straight into the memory that is computed with.

A mapped file would be read page by page when the accelerator touches it, one page after the other,
and its pages would count as the process's memory. Reads at a position need no lock between
threads, and a disk is at its best with several of them outstanding.
"""

import os
import weakref
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

from ...errors import CheckpointError
from ..files import Stored
from .extents import Extent

#: Reads under way at once.
READERS = 8
#: Seconds after which reads none of which has ended are given up.
STALLED = 60.0
_SCRATCH = 1 << 22


@cache
def readers() -> ThreadPoolExecutor:
    """The threads that read. They touch no MLX."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="gemma4-read")


class Files:
    """A checkpoint's files, open for reading for as long as this object lives.

    An open file stays what it was when another takes its name or it is removed. What is written
    into it is noticed.

    Raises CheckpointError for one that cannot be opened.
    """

    def __init__(self, files: Iterable[Path]):
        self._open: dict[Path, tuple[int, tuple]] = {}
        descriptors: list[int] = []
        weakref.finalize(self, _close, descriptors)
        for file in sorted(set(files)):
            try:
                descriptor = os.open(file, os.O_RDONLY)
                descriptors.append(descriptor)
                if hasattr(os, "posix_fadvise"):  # what follows an expert is seldom asked for next
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                self._open[file] = descriptor, _state(descriptor)
            except OSError as error:
                raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None

    def read(self, extent: Extent, into: memoryview) -> int:
        """Fill ``into`` (bytes) with an extent; returns how many bytes that was.

        Raises CheckpointError for a file that has changed, ends too early or cannot be read.
        """
        descriptor, state = self._open[extent.file]
        if _state(descriptor) != state:
            raise CheckpointError(
                f"{extent.file} was written to since the model was loaded: load the model again"
            )
        done = 0
        while done < extent.nbytes:
            try:
                count = os.preadv(descriptor, [into[done:]], extent.start + done)
            except OSError as error:
                raise CheckpointError(f"{extent.file} cannot be read: {error.strerror}") from None
            if not count:
                raise CheckpointError(
                    f"{extent.file} is cut short: it ends before byte "
                    f"{extent.start + extent.nbytes:,}"
                )
            done += count
        return done

    def warm(self, extent: Extent | Stored) -> None:
        """Read an extent (a tensor) for the system to hold it, and forget it."""
        descriptor, _ = self._open[extent.file]
        scratch = memoryview(bytearray(min(extent.nbytes, _SCRATCH)))
        for done in range(0, extent.nbytes, _SCRATCH):
            os.preadv(descriptor, [scratch[: extent.nbytes - done]], extent.start + done)


def _state(descriptor: int) -> tuple:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def settled(reads: list[Future], what: str) -> None:
    """Wait until all reads have ended, however long all of them take.

    Raises CheckpointError if none ended for :data:`STALLED` seconds; what a read raised is left for
    ``result()``.
    """
    waiting = set(reads)
    while waiting:
        ended, waiting = wait(waiting, STALLED, FIRST_COMPLETED)
        if not ended:
            raise CheckpointError(
                f"reading {what} has not gone on for {STALLED:.0f} s: is the disk there and awake?"
            )
