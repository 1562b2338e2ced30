"""Pictures and sounds in a conversation's file: embedded, or as paths and addresses.

The file is not trusted. ``data`` must be base64, a ``path`` must lead (links followed) into a
folder that the user allowed, and a ``url`` must be an http(s) address, if the user allowed these.
Nothing is opened or fetched here. What breaks a rule becomes a :class:`Refused`, which names
message and part; the rest of the conversation can be read.
"""

import base64
import binascii
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ChatError, MediaError
from ..processing.check import check_medium
from ..processing.fetch import is_data_url, is_url
from .messages import Audio, Image, Media, Refused, Video

_MEDIA = {"image": Image, "audio": Audio, "video": Video}
_ARRAY = "data:application/x-npy;base64,"


class Allowed:
    """What the media of a loaded conversation may refer to."""

    def __init__(self, folders: Iterable[str | Path], addresses: bool) -> None:
        self.folders = [Path(folder).expanduser().resolve() for folder in folders]
        self.addresses = addresses

    def file(self, path: Any) -> Path:
        """The file at ``path``, links followed. Raises MediaError if it may not be used."""
        if not isinstance(path, str):
            raise MediaError(f"the path is a {type(path).__name__}")
        try:
            found = (self.folders[0] / path).resolve()
            inside = any(found.is_relative_to(folder) for folder in self.folders)
            if inside and not found.is_file():
                raise MediaError(f"{path} is gone; put it back, or save with media='embed'")
        except MediaError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise MediaError(f"{path[:80]!r} is no path: {error}") from None
        if not inside:
            raise MediaError(
                f"{path} lies outside the conversation's folder; if you trust the file, load it "
                f"with media_folders=[{str(found.parent)!r}]"
            )
        return found

    def address(self, url: Any) -> str:
        """``url`` unchanged. Raises MediaError if it may not be used."""
        if not is_url(url):
            raise MediaError(f"{str(url)[:80]!r} is no http(s) address")
        if not self.addresses:
            raise MediaError(
                f"{url[:200]} would be fetched; if you trust the file, load it with addresses=True"
            )
        return url


def media_from_json(entry: Mapping[str, Any], allowed: Allowed, where: str) -> Media:
    """The part that an entry of a file stands for.

    Args:
        where: the message and the part, for the reason of a refusal.

    Raises MediaError for an entry that is no medium.
    """
    kind = _MEDIA.get(entry.get("type"))
    if kind is None:
        raise MediaError(f"unknown part {entry.get('type')!r}")
    options = {k: entry[k] for k in ("budget", "rate", "split", "frames", "fps") if k in entry}
    name = entry.get("name")
    if not isinstance(name, str | None):
        raise MediaError(f"the name of the {kind.kind} is a {type(name).__name__}")
    try:
        source = _source(entry, kind, allowed)
    except MediaError as error:
        source = Refused(f"{where}: the {kind.kind} was not loaded: {error}", dict(entry))
    return kind(source, name, **options)


def _source(entry: Mapping[str, Any], kind: type, allowed: Allowed) -> Any:
    if "path" in entry:
        return str(allowed.file(entry["path"]))
    data, url = entry.get("data"), entry.get("url")
    if data is None and url is None:
        raise MediaError("it has neither data nor an address")
    if data is None:
        return _embedded(url) if is_data_url(url) else allowed.address(url)
    if kind is Video and isinstance(data, list):
        return [_embedded(frame) for frame in data]
    return _embedded(data)


def _embedded(data: Any) -> Any:
    """The bytes of a base64 ``data:`` address, or the array that was saved as one."""
    if not is_data_url(data) or ";base64," not in data[:200]:
        raise MediaError("its data is no base64 'data:' address")
    head, _, body = data.partition(",")
    try:
        raw = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"its data is no base64: {error}") from None
    return _array(raw) if head + "," == _ARRAY else raw


def _array(raw: bytes) -> Any:
    """An array that ``numpy.save`` wrote. Its header must match the number of bytes, or loading it
    could allocate any amount of memory."""
    import numpy as np

    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = len(raw) - stream.tell()
        if dtype.hasobject or dtype.itemsize * _product(shape) != size:
            raise ValueError(f"an array {shape} of {dtype} has not {size:,} bytes")
        stream.seek(0)
        return np.load(stream, allow_pickle=False)
    except (ValueError, TypeError, OSError, EOFError, SyntaxError) as error:
        raise MediaError(f"its array is damaged: {error}") from None


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def media_to_json(part: Media, embed: bool) -> dict[str, Any]:
    """The entry of a file for a part. Raises ChatError for what cannot be embedded."""
    source = part.source
    if isinstance(source, Refused):  # saved again as it was
        return dict(source.entry)
    entry: dict[str, Any] = {"type": part.kind, **part.options}
    if part.name:
        entry["name"] = part.name
    if isinstance(part, Video) and isinstance(source, list | tuple):
        return entry | {"data": [_data_url(Image(frame)) for frame in source]}
    if is_url(source):
        return entry | {"url": source}
    if isinstance(source, str | Path) and not is_data_url(source):
        if not embed:
            return entry | {"path": str(Path(source).expanduser().resolve())}
        entry.setdefault("name", Path(source).name)
    return entry | {"data": _data_url(part)}


def _data_url(part: Media) -> str:
    """A ``data:`` address with a file's own bytes, a PNG, or a numpy array. Raises ChatError."""
    try:
        return _encoded(part)
    except (OSError, ValueError) as error:
        name = part.source if isinstance(part.source, str | Path) else part.name or "given"
        raise ChatError(f"the {part.kind} {str(name)[:200]} cannot be embedded: {error}") from error


def _encoded(part: Media) -> str:
    source = part.source
    if is_data_url(source) or is_url(source):  # a frame of a video
        return source
    if isinstance(source, str | Path):
        check_medium(part.kind, path := Path(source).expanduser())
        data = path.read_bytes()
    elif isinstance(source, bytes | bytearray | memoryview):
        check_medium(part.kind, data := bytes(source))
    elif hasattr(source, "read"):
        source.seek(0)
        check_medium(part.kind, data := source.read())
    elif hasattr(source, "save") and hasattr(source, "convert"):  # PIL
        buffer = io.BytesIO()
        try:
            source.save(buffer, format="PNG")
        except OSError:  # a mode that PNG lacks, such as CMYK
            source.convert("RGB").save(buffer, format="PNG")
        data = buffer.getvalue()
    else:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(source), allow_pickle=False)
        return _ARRAY + base64.b64encode(buffer.getvalue()).decode()
    return f"data:{part.kind}/*;base64," + base64.b64encode(data).decode()
