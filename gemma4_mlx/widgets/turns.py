"""A chat's messages as the Prompt widget shows them.

A *turn* of the view is a user's message, or everything the model did until the next one: its
thinking, words and tool calls over several messages, with each result in the card of its call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gemma4_mlx.widgets.live_turn import as_text


def turn_spans(messages: Sequence[Any]) -> list[tuple[int, int]]:
    """(first, stop) of the messages of each turn; system messages are not shown.

    An assistant's turn takes in the tool messages that answer it.
    """
    spans: list[tuple[int, int]] = []
    for i, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role == "user" or not spans or messages[spans[-1][0]].role == "user":
            spans.append((i, i + 1))
        else:
            spans[-1] = (spans[-1][0], i + 1)
    return spans


def turn_parts(messages: Sequence[Any], show_media: Callable[[Any], dict]) -> list[dict]:
    """The view's parts of one turn's messages.

    Args:
        messages: those of one span.
        show_media: gives the part for an ``Image``, ``Audio`` or ``Video``.
    """
    parts: list[dict] = []
    calls: dict[str, dict] = {}
    for message in messages:
        for part in message.parts:
            kind = type(part).__name__
            if kind == "Text":
                parts.append({"kind": "text", "text": part.text})
            elif kind == "Thinking":
                parts.append({"kind": "thinking", "text": part.text, "closed": True})
            elif kind == "ToolCall":
                call = {"kind": "tool_call", "id": part.id, "name": part.name, "status": "stopped"}
                call["arguments"] = plain(part.arguments)
                if part.error:
                    call |= {"status": "failed", "result": part.error}
                parts.append(calls.setdefault(part.id, call))
            elif kind == "ToolResult":
                shown = calls.get(part.id)
                if shown is not None:
                    failed = "denied" if part.denied else "failed" if part.error else "done"
                    shown |= {"status": failed, "result": as_text(part.error or part.result)}
                parts += [show_media(medium) for medium in part.media]
            else:
                parts.append(show_media(part))
    return parts


def plain(value: Any) -> Any:
    """A tool's arguments as JSON has them: what it cannot say becomes text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
