"""Loads the media of messages, each once per conversation."""

import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import MediaError
from ..processing.audio import load_audio
from ..processing.image import load_image
from ..processing.video import load_video
from .messages import Audio, Image, Media, Refused, Video

_LOADERS = {"image": load_image, "audio": load_audio, "video": load_video}


def as_parts(sources: Any, kind: type[Image] | type[Audio] | type[Video]) -> list[Media]:
    """Parts of a ``kind`` for one source or several; what is a part already stays as it is."""
    if sources is None:
        return []
    several = isinstance(sources, list | tuple | set) or (
        isinstance(sources, Iterable) and not _is_one(sources)
    )
    items = list(sources) if several else [sources]
    return [item if isinstance(item, Image | Audio | Video) else kind(item) for item in items]


def _is_one(source: Any) -> bool:
    """Whether it is a single source, as paths, bytes, files and arrays are that can be iterated."""
    return (
        isinstance(source, str | bytes | bytearray | memoryview)
        or hasattr(source, "read")
        or hasattr(source, "__array__")
        or hasattr(source, "__array_interface__")
    )


class MediaLoader:
    """Loads media for one model. They are remembered for as long as their parts exist, so the
    media of a dropped turn are freed with it."""

    def __init__(self, model):
        self._model = model
        self._loaded: weakref.WeakKeyDictionary[Media, Any] = weakref.WeakKeyDictionary()
        self._changing = threading.Lock()  # tools return media in threads of their own

    def load(self, part: Media):
        """The ImageInput, AudioInput or VideoInput of a part; a list of AudioInput for a recording
        that is split. Raises MediaError."""
        if isinstance(part.source, Refused):
            raise MediaError(part.source.reason)
        known = self._loaded.get(part)
        if known is not None:
            return known
        loaded = _LOADERS[part.kind](part.source, self._model, name=part.name, **part.options)
        with self._changing:
            self._loaded[part] = loaded
        return loaded

    def keys(self) -> set[str]:
        """The content keys of all remembered media, under which their encodings are kept."""
        with self._changing:
            return {key for loaded in self._loaded.values() for key in _keys(loaded)}


def _keys(loaded: Any) -> Iterator[str]:
    """The keys of a picture or clip, of a recording's clips, or of a video's frames."""
    for one in loaded if isinstance(loaded, list) else getattr(loaded, "frames", [loaded]):
        yield one.key
