"""Container files (MP4, WebM, ...) opened by PyAV, which itself opens nothing else.

FFmpeg guesses a format from the bytes, and some formats are programs for it: a session description
opens network sockets, a playlist or a concat script reads other files, wherever they lie. So only
the formats below may be guessed, all of which hold their pictures and sounds themselves; bytes
reach FFmpeg through an open Python file and no protocol is allowed to it; and reading ends at a
deadline.
"""

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MediaError

#: FFmpeg's names of the formats that are read.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    *("matroska,webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "gif", "wav", "w64"),
    *("mp3", "flac", "aac", "caf", "aiff", "amr"),
)
#: Largest file that is opened, in bytes, and longest time in seconds that one may be read for.
MAX_BYTES = 16 * 2**30
MAX_SECONDS = 600.0

_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}


class Reading:
    """An open container and the time by which it must have been read."""

    def __init__(self, container: Any, name: str) -> None:
        self.container = container
        self._name = name
        self._deadline = time.monotonic() + MAX_SECONDS

    def packets(self, stream: Any) -> Iterator[Any]:
        return self._in_time(self.container.demux(stream))

    def frames(self, **streams: int) -> Iterator[Any]:
        """Decoded frames, of ``video=0`` or ``audio=0``."""
        return self._in_time(self.container.decode(**streams))

    def _in_time(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            if time.monotonic() > self._deadline:
                raise MediaError(
                    f"{self._name} is not read after {MAX_SECONDS:g} s; cut it, or make it smaller"
                )
            yield item


@contextlib.contextmanager
def open_container(data: Path | bytes, name: str) -> Iterator[Reading]:
    """The container in a file or in bytes; ``name`` stands in the errors.

    Raises MediaError for a file that is too large or is read for too long, ImportError without
    PyAV, and what PyAV raises (``av.FFmpegError``, OSError, ValueError) for another format or a
    damaged file, while it is opened or read.
    """
    import av

    if isinstance(data, Path) and (size := data.stat().st_size) > MAX_BYTES:
        raise MediaError(f"{name} has {size:,} bytes, more than {MAX_BYTES:,}; cut it first")
    with (
        io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file,
        av.open(file, container_options=_OPTIONS, buffer_size=1 << 18) as container,
    ):
        yield Reading(container, name)
