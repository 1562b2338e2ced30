"""A conversation as a JSON file: every message, its media embedded or by reference.

A file may come from a stranger: loading it opens no other file and fetches nothing
(``saved_media.py``), and unanswered calls at its end wait for the user's approval.

{"format": "gemma4-mlx chat", "version": 1, "model": ..., "thinking": ..., "options": {...},
 "messages": [{"role": "user", "parts": [{"type": "text", "text": "Hi"}]}, ...]}
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import ChatError, MediaError
from .messages import Message, Refused, Text, Thinking, ToolCall, ToolResult, check_history
from .saved_media import Allowed, media_from_json, media_to_json

FORMAT, VERSION = "gemma4-mlx chat", 1
#: Largest file in bytes: enough for two hours of sound, or hundreds of pictures.
LARGEST_FILE = 2**30


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


def load(
    path: str | Path, *, media_folders: Iterable[str | Path] = (), addresses: bool = False
) -> dict[str, Any]:
    """Read what :func:`save` wrote; ``"messages"`` holds Message objects.

    Args:
        path: the file.
        media_folders, addresses: what its pictures and sounds may refer to; see :meth:`Chat.load`.
            A medium that refers to something else has a :class:`Refused` as its source.

    Raises:
        ChatError: the file is missing, damaged, or no saved conversation.
    """
    file = Path(path)
    try:
        if (size := file.stat().st_size) > LARGEST_FILE:
            raise ChatError(f"{file} has {size:,} bytes, more than {LARGEST_FILE:,}.")
        content = json.loads(file.read_text("utf-8", errors="surrogatepass"))
    except OSError as error:
        raise ChatError(f"{file} cannot be read: {error.strerror or error}") from error
    except ChatError:
        raise
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
    allowed = Allowed([file.parent, *media_folders], addresses)
    messages = []
    for i, entry in enumerate(content["messages"]):
        try:
            parts = [
                _part_from_json(part, allowed, f"message {i}, part {k}")
                for k, part in enumerate(entry["parts"])
            ]
            messages.append(Message(entry["role"], tuple(parts)))
        except MediaError as error:
            raise ChatError(f"{file}, message {i}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ChatError(f"{file}, message {i} is damaged: {error!r}") from error
    check_history(messages)
    content["messages"] = messages
    return content


def refused(messages: Sequence[Message]) -> list[str]:
    """Why media of a loaded conversation were not loaded, in their order."""
    found = (part.source for message in messages for part in message.media)
    return [source.reason for source in found if isinstance(source, Refused)]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or leave the old one unchanged. Raises ChatError."""
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
            entry["media"] = [media_to_json(m, embed) for m in part.media]
        return entry
    return media_to_json(part, embed)


def _part_from_json(entry: Mapping[str, Any], allowed: Allowed, where: str):
    kind = entry["type"]
    if kind == "text":
        return Text(str(entry["text"]))
    if kind == "thinking":
        return Thinking(str(entry["text"]))
    if kind == "tool_call":
        arguments = dict(entry.get("arguments") or {})
        return ToolCall(*_names(entry), arguments, entry.get("error"), loaded=True)
    if kind == "tool_result":
        media = tuple(media_from_json(m, allowed, where) for m in entry.get("media", ()))
        return ToolResult(
            *_names(entry), entry.get("result"), entry.get("error"), media,
            bool(entry.get("denied")),
        )  # fmt: skip
    return media_from_json(entry, allowed, where)


def _names(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A call's id and the tool's name."""
    found = entry["id"], entry["name"]
    if not all(isinstance(value, str) for value in found):
        raise TypeError(f"id and name of a call are {found!r}, expected text")
    return found
