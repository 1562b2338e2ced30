"""Media parts of messages, read once per conversation."""

from collections.abc import Iterable
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
    """Reads media for one model and remembers them for as long as their parts live here."""

    def __init__(self, model):
        self._model = model
        self._loaded: dict[int, tuple[Media, Any]] = {}  # id(part) -> the part, what was read

    def load(self, part: Media):
        """The ImageInput, AudioInput or VideoInput of a part, or the AudioInputs of a recording
        that is split. Raises MediaError."""
        if isinstance(part.source, Refused):
            raise MediaError(part.source.reason)
        known = self._loaded.get(id(part))
        if known is not None:
            return known[1]
        loaded = _LOADERS[part.kind](part.source, self._model, name=part.name, **part.options)
        self._loaded[id(part)] = (part, loaded)
        return loaded
