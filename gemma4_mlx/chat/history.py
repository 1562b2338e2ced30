"""A conversation as a JSON file: every message, its media embedded or by reference.

{"format": "gemma4-mlx chat", "version": 1, "model": ..., "thinking": ..., "options": {...},
 "messages": [{"role": "user", "parts": [{"type": "text", "text": "Hi"}]}, ...]}
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import ChatError, MediaError
from ..processing.fetch import is_data_url, is_url
from .messages import (
    Audio,
    Image,
    Media,
    Message,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Video,
    check_history,
)

FORMAT, VERSION = "gemma4-mlx chat", 1
_MEDIA = {"image": Image, "audio": Audio, "video": Video}


def save(path: str | Path, messages: Sequence[Message], *, media: str, **settings: Any) -> None:
    """Write a conversation.

    Args:
        path: where to.
        media: "embed" puts every picture and sound into the file, "reference" only the paths and
            addresses (media that have none, such as arrays and lists of frames, are embedded).
        settings: further entries of the file.

    Raises:
        ChatError: something in it is not plain data, or the file cannot be written.
    """
    if media not in ("embed", "reference"):
        raise ChatError(f"media must be 'embed' or 'reference', not {media!r}.")
    content = {
        "format": FORMAT,
        "version": VERSION,
        **settings,
        "messages": [
            {"role": m.role, "parts": [_part_to_json(p, media == "embed") for p in m.parts]}
            for m in messages
        ],
    }
    try:
        text = json.dumps(content, ensure_ascii=False, indent=1)
    except (TypeError, ValueError) as error:
        raise ChatError(f"the conversation cannot be written as JSON: {error}") from error
    write_atomically(Path(path), text.encode("utf-8", errors="surrogatepass"))


def load(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save` wrote; ``"messages"`` holds Message objects.

    Raises:
        ChatError: not such a file, a damaged one, a conversation that is none, or a picture or
            sound that it refers to is gone.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text("utf-8", errors="surrogatepass"))
    except OSError as error:
        raise ChatError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ChatError(f"{file} is not a saved conversation: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ChatError(f"{file} is not a conversation saved by Chat.save.")
    if content.get("version") != VERSION:
        raise ChatError(
            f"{file} has version {content.get('version')!r}, this release reads {VERSION}."
        )
    if not isinstance(content.get("messages"), list):
        raise ChatError(f"{file} is damaged: it holds no list of messages.")
    messages = []
    for i, entry in enumerate(content["messages"]):
        try:
            parts = [_part_from_json(p, file.parent) for p in entry["parts"]]
            messages.append(Message(entry["role"], tuple(parts)))
        except MediaError as error:
            raise ChatError(f"{file}, message {i}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ChatError(f"{file}, message {i} is damaged: {error!r}") from error
    check_history(messages)
    content["messages"] = messages
    return content


def write_atomically(path: Path, data: bytes) -> None:
    """All of the data under that name, or the old file as it was. Raises ChatError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, data)
    except OSError as error:
        raise ChatError(f"{path} cannot be written: {error.strerror or error}") from error


# Parts


def _part_to_json(part, embed: bool) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Thinking):
        return {"type": "thinking", "text": part.text}
    if isinstance(part, ToolCall):
        entry = {"type": "tool_call", "id": part.id, "name": part.name}
        entry["arguments"] = part.arguments
        return entry | ({"error": part.error} if part.error is not None else {})
    if isinstance(part, ToolResult):
        entry = {"type": "tool_result", "id": part.id, "name": part.name, "result": part.result}
        if part.error is not None:
            entry["error"] = part.error
        if part.denied:
            entry["denied"] = True
        if part.media:
            entry["media"] = [_media_to_json(m, embed) for m in part.media]
        return entry
    return _media_to_json(part, embed)


def _part_from_json(entry: Mapping[str, Any], folder: Path):
    kind = entry["type"]
    if kind == "text":
        return Text(str(entry["text"]))
    if kind == "thinking":
        return Thinking(str(entry["text"]))
    if kind == "tool_call":
        arguments = dict(entry.get("arguments") or {})
        return ToolCall(*_names(entry), arguments, entry.get("error"))
    if kind == "tool_result":
        media = tuple(_media_from_json(m, folder) for m in entry.get("media", ()))
        return ToolResult(
            *_names(entry), entry.get("result"), entry.get("error"), media,
            bool(entry.get("denied")),
        )  # fmt: skip
    return _media_from_json(entry, folder)


def _names(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A call's id and the tool's name."""
    found = entry["id"], entry["name"]
    if not all(isinstance(value, str) for value in found):
        raise TypeError(f"id and name of a call are {found!r}, expected text")
    return found


def _media_to_json(part: Media, embed: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": part.kind, **part.options}
    if part.name:
        entry["name"] = part.name
    source = part.source
    if isinstance(part, Video) and isinstance(source, list | tuple):
        return entry | {"data": [_data_url(Image(frame)) for frame in source]}
    if is_data_url(source):
        return entry | {"data": source}
    if is_url(source):
        return entry | {"url": source}
    if isinstance(source, str | Path) and not embed:
        return entry | {"path": str(Path(source).expanduser().resolve())}
    if isinstance(source, str | Path):
        entry.setdefault("name", Path(source).name)
    return entry | {"data": _data_url(part)}


def _media_from_json(entry: Mapping[str, Any], folder: Path) -> Media:
    kind = _MEDIA.get(entry.get("type"))
    if kind is None:
        raise MediaError(f"unknown part {entry.get('type')!r}")
    options = {k: entry[k] for k in ("budget", "rate", "frames", "fps") if k in entry}
    if "path" in entry:
        path = Path(entry["path"])
        path = path if path.is_absolute() else folder / path
        if not path.is_file():
            raise MediaError(
                f"the {entry['type']} {path} is gone; put it back, or save with media='embed'"
            )
        return kind(str(path), entry.get("name"), **options)
    source = entry.get("data") or entry.get("url")
    if kind is Video and isinstance(source, list):
        source = [_from_data_url(frame) for frame in source]
    elif isinstance(source, str):
        source = _from_data_url(source)
    else:
        raise MediaError(f"the {entry['type']} has neither data nor an address")
    return kind(source, entry.get("name"), **options)


def _from_data_url(source: str) -> Any:
    """An array where one was written; other addresses are read when they are needed."""
    if not source.startswith("data:application/x-npy"):
        return source
    import numpy as np

    data = base64.b64decode(source.partition(",")[2])
    return np.load(io.BytesIO(data), allow_pickle=False)


def _data_url(part: Media) -> str:
    """The medium itself as a ``data:`` address: a file's own bytes, a PNG, or a numpy array."""
    try:
        return _encoded(part)
    except (OSError, ValueError) as error:
        name = part.source if isinstance(part.source, str | Path) else part.name or "given"
        raise ChatError(f"the {part.kind} {name} cannot be embedded: {error}") from error


def _encoded(part: Media) -> str:
    source = part.source
    if is_data_url(source) or is_url(source):  # a frame of a video
        return source
    if isinstance(source, str | Path):
        data = Path(source).expanduser().read_bytes()
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif hasattr(source, "read"):
        source.seek(0)
        data = source.read()
    elif hasattr(source, "save") and hasattr(source, "convert"):  # PIL
        buffer = io.BytesIO()
        try:
            source.save(buffer, format="PNG")
        except OSError:  # PNG has no such mode, as with CMYK
            source.convert("RGB").save(buffer, format="PNG")
        data = buffer.getvalue()
    else:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(source), allow_pickle=False)
        return "data:application/x-npy;base64," + base64.b64encode(buffer.getvalue()).decode()
    return f"data:{part.kind}/*;base64," + base64.b64encode(data).decode()
