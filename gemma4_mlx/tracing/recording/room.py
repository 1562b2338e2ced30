"""How much of this machine a trace may take for the queries and keys that it keeps, and where.

Mapped files lie in the user's cache folder, not in the system's temporary one, which on some
systems is memory. They have no name there once they are mapped, so nothing is left behind when a
trace is dropped or its process ends, however it ends.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import TraceError

GIB = 2**30
#: Share of what is free that retained queries and keys may take, and the most they take.
MEMORY_SHARE, MEMORY_LIMIT = 1 / 8, 4 * GIB
DISK_SHARE, DISK_LIMIT = 1 / 4, 16 * GIB
#: Prefix of the files' names, which they only have for a moment. One that has it for more than so
#: many seconds was left by a process that was killed in that moment.
PREFIX, LEFT_BEHIND = "g4trace-", 3600


@dataclass(frozen=True)
class Room:
    """Bytes for retained queries and keys, in memory and in a mapped file."""

    memory: int
    disk: int


def room(folder: str | None = None) -> Room:
    """The room at present; ``folder`` None: the user's cache folder.

    Raises TraceError for a folder that does not exist.
    """
    import psutil

    free = psutil.virtual_memory().available
    return Room(
        int(min(free * MEMORY_SHARE, MEMORY_LIMIT)),
        int(min(free_disk(folder) * DISK_SHARE, DISK_LIMIT)),
    )


def free_disk(folder: str | None = None) -> int:
    """Free bytes of the disk that holds a folder. Errors as above."""
    where = Path(folder) if folder else cache_folder()
    if not folder:  # is made when it is first needed
        where = next(place for place in (where, *where.parents) if place.exists())
    try:
        return shutil.disk_usage(where).free
    except OSError as error:
        raise TraceError(f"{folder} cannot hold retained vectors: {error.strerror}") from None


def cache_folder() -> Path:
    """Where mapped files go unless a plan names another folder."""
    import platformdirs

    return platformdirs.user_cache_path("gemma4-mlx", appauthor=False) / "traces"


def ready_folder(folder: str | None) -> str:
    """The folder for mapped files, made if need be and cleared of what killed processes left.

    Raises TraceError if it cannot be made.
    """
    if folder:
        return folder
    where = cache_folder()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TraceError(
            f"{where} cannot be made for retained vectors ({error.strerror}): give "
            "AttentionPlan(folder=...) another place, or storage='memory'"
        ) from None
    for left in where.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                left.unlink()
    return str(where)


def full_disk(folder: str | None, error: OSError) -> str:
    """The message for a mapped file that could not be written, with what to do about it."""
    return (
        f"{folder or cache_folder()} took no more ({error.strerror}); give "
        "AttentionPlan(folder=...) another place, or a smaller budget=..."
    )
