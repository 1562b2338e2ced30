"""Typed messages to the form that chat templates read.

A template writes one model message as thinking, call, response, text, in that order. A message of
any other order is handed over as several, each call in one of its own and its result with it; the
template joins them into the same turn. So every response stands behind its own call, and what a
model wrote before a call is rendered as it wrote it: its cached keys and values stay usable.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .messages import Image, Media, Message, Text, Thinking, ToolCall, ToolResult


def to_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as dicts for :func:`gemma4_mlx.processing.template.render`."""
    rendered: list[dict[str, Any]] = []
    for message, following in zip(messages, [*messages[1:], None]):
        if message.role == "assistant":
            rendered += _assistant(message, _results(following))
        elif message.role == "tool":
            continue  # its results stand behind their calls
        elif all(isinstance(p, Text) for p in message.parts):
            rendered.append({"role": message.role, "content": message.text})
        else:
            rendered.append({"role": message.role, "content": [_part(p) for p in message.parts]})
    return rendered


def _part(part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind}


def _results(message: Message | None) -> dict[str, ToolResult]:
    """By the call's id; none where the message holds no results."""
    return {r.id: r for r in message.parts} if message and message.role == "tool" else {}


def _assistant(message: Message, results: Mapping[str, ToolResult]) -> list[dict[str, Any]]:
    """One model message as the template's. Calls that still wait for their results stand last,
    where the response is to follow."""
    parts = message.parts
    if not results:
        parts = sorted(parts, key=lambda part: isinstance(part, ToolCall))
    pieces: list[dict[str, Any]] = [{"role": "assistant"}]
    for part in parts:
        current = pieces[-1]
        if _is_full(current, part, bool(results)):
            pieces.append(current := {"role": "assistant"})
        if isinstance(part, Thinking):
            current["reasoning"] = part.text
        elif isinstance(part, Text):
            current["content"] = current.get("content", "") + part.text
        else:
            current.setdefault("tool_calls", []).append(_call(part))
        if isinstance(part, ToolCall) and part.id in results:
            pieces += _answer(current, results[part.id])
    return pieces


def _is_full(piece: Mapping[str, Any], part, answered: bool) -> bool:
    """Whether the template would write `part` elsewhere than behind what the piece holds."""
    if piece["role"] != "assistant":
        return True
    if isinstance(part, Thinking):
        return len(piece) > 1
    if isinstance(part, Text):
        return "tool_calls" in piece
    return "content" in piece or (answered and "tool_calls" in piece)


def _call(part: ToolCall) -> dict[str, Any]:
    function = {"name": part.name, "arguments": part.arguments}
    return {"id": part.id, "type": "function", "function": function}


def _answer(caller: dict[str, Any], result: ToolResult) -> list[dict[str, Any]]:
    """A result goes onto the calling message as data, or, with media, into one of its own."""
    if not result.media:
        caller["tool_responses"] = [{"name": result.name, "response": response(result)}]
        return []
    return [
        {
            "role": "tool",
            "tool_call_id": result.id,
            "name": result.name,
            "content": _with_media(result),
        }
    ]


def response(result: ToolResult) -> Any:
    """What the model is told."""
    return {"error": result.error} if result.error is not None else result.result


def _with_media(result: ToolResult) -> list[dict[str, str]]:
    value = response(result)
    if value is None and result.media:
        value = "image" if isinstance(result.media[0], Image) else result.media[0].kind
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [{"type": "text", "text": text}, *({"type": m.kind} for m in result.media)]


def media_of(messages: Sequence[Message]) -> list[Media]:
    """Pictures, sounds and videos in the order of their placeholders in the rendered text."""
    found: list[Media] = []
    calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            message = Message("tool", sorted(message.parts, key=lambda r: calls.index(r.id)))
        elif message.role == "assistant":
            calls = [c.id for c in message.tool_calls]
        found += message.media
    return found
