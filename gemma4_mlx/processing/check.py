"""Whether bytes are the medium that somebody says they are, without decoding them whole."""

from pathlib import Path

from ..errors import MediaError
from .containers import open_container
from .fetch import locate

#: Bytes of one medium that goes into a conversation's file.
LARGEST = 2**28


def check_medium(kind: str, source: Path | bytes) -> None:
    """Raise MediaError unless ``source`` is an "image", "audio" or "video" file.

    Its header is read, as the decoder that would read it does; a file may still be damaged
    further on.
    """
    data, name = locate(source)
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    if size > LARGEST:
        raise MediaError(f"{name} has {size:,} bytes, more than {LARGEST:,}")
    if kind == "image":
        from .image import check_picture

        check_picture(data, name)
    elif kind == "audio":
        from .audio import check_sound

        check_sound(data, name)
    elif not _has_pictures(data, name):
        raise MediaError(f"{name} is no video")


def _has_pictures(data: Path | bytes, name: str) -> bool:
    try:
        import av
    except ImportError:  # nothing can be said, and nothing could be decoded either
        return True
    try:
        with open_container(data, name) as reading:
            return bool(reading.container.streams.video)
    except (av.FFmpegError, OSError, ValueError):
        return False
