"""Media parts of messages, read once per conversation."""

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
    """Parts for one source or a list of sources; parts are taken as they are."""
    if sources is None:
        return []
    several = isinstance(sources, list | tuple | set) or (
        isinstance(sources, Iterable) and not _is_one(sources)
    )
    items = list(sources) if several else [sources]
    return [item if isinstance(item, Image | Audio | Video) else kind(item) for item in items]


def _is_one(source: Any) -> bool:
    """A path, bytes, file, picture or array, all of which can be iterated, is one source."""
    return (
        isinstance(source, str | bytes | bytearray | memoryview)
        or hasattr(source, "read")
        or hasattr(source, "__array__")
        or hasattr(source, "__array_interface__")
    )


class MediaLoader:
    """Reads media for one model and remembers them for as long as their parts live: those of a
    turn that was dropped, and that nobody else holds, are freed with it."""

    def __init__(self, model):
        self._model = model
        self._loaded: weakref.WeakKeyDictionary[Media, Any] = weakref.WeakKeyDictionary()
        self._changing = threading.Lock()  # tools return media in threads of their own

    def load(self, part: Media):
        """The ImageInput, AudioInput or VideoInput of a part, or the AudioInputs of a recording
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
        """The keys of everything that is remembered, as encoded media are kept under them."""
        with self._changing:
            return {key for loaded in self._loaded.values() for key in _keys(loaded)}


def _keys(loaded: Any) -> Iterator[str]:
    """Of a picture or a clip, of the clips of a recording, of the frames of a video."""
    for one in loaded if isinstance(loaded, list) else getattr(loaded, "frames", [loaded]):
        yield one.key
