"""Typed messages to the form that chat templates read.

A template writes one model message as thinking, calls, responses, text, in that order. Where a
model wrote words before a call, the message is handed over as two, which the template joins into
the same turn: so the rendered history is what the model itself wrote, and its cached keys and
values stay usable.
"""

from collections.abc import Sequence
from typing import Any

from .messages import Image, Media, Message, Text, Thinking, ToolCall, ToolResult


def to_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as dicts for :func:`gemma4_mlx.processing.template.render`."""
    rendered: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "assistant":
            rendered += _assistant(message)
        elif message.role == "tool":
            rendered += _results(message, rendered[-1])
        elif all(isinstance(p, Text) for p in message.parts):
            rendered.append({"role": message.role, "content": message.text})
        else:
            rendered.append({"role": message.role, "content": [_part(p) for p in message.parts]})
    return rendered


def _part(part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind}


def _assistant(message: Message) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = [{"role": "assistant"}]
    for part in message.parts:
        current = pieces[-1]
        if isinstance(part, Thinking):
            if len(current) > 1:
                pieces.append(current := {"role": "assistant"})
            current["reasoning"] = part.text
        elif isinstance(part, Text):
            current["content"] = current.get("content", "") + part.text
        elif isinstance(part, ToolCall):
            if "content" in current and "tool_calls" not in current:
                pieces.append(current := {"role": "assistant"})
            current.setdefault("tool_calls", []).append(
                {
                    "id": part.id,
                    "type": "function",
                    "function": {"name": part.name, "arguments": part.arguments},
                }
            )
    return pieces


def _results(message: Message, caller: dict[str, Any]) -> list[dict[str, Any]]:
    """Results go onto the calling message as data, or, with media, into messages of their own."""
    results = _in_order(message, [call["id"] for call in caller.get("tool_calls", ())])
    if not any(r.media for r in results):
        caller["tool_responses"] = [{"name": r.name, "response": response(r)} for r in results]
        return []
    return [
        {"role": "tool", "tool_call_id": r.id, "name": r.name, "content": _with_media(r)}
        for r in results
    ]


def response(result: ToolResult) -> Any:
    """What the model is told."""
    return {"error": result.error} if result.error is not None else result.result


def _with_media(result: ToolResult) -> list[dict[str, str]]:
    import json

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
            message = Message("tool", _in_order(message, calls))
        elif message.role == "assistant":
            calls = [c.id for c in message.tool_calls]
        found += message.media
    return found


def _in_order(message: Message, calls: Sequence[str]) -> list[ToolResult]:
    return sorted(message.parts, key=lambda r: calls.index(r.id) if r.id in calls else len(calls))
