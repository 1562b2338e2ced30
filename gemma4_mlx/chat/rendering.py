"""Converts messages to the dicts that chat templates read.

The template writes a model's message as thinking, calls, responses, text, in that order. A message
whose parts are ordered otherwise becomes several dicts, each call in one of its own together with
its result; the template joins them into one turn. So every response follows its own call, and what
the model wrote before a call is rendered as it was generated: its cached keys and values stay
usable.
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
            continue  # rendered with the calls
        elif all(isinstance(p, Text) for p in message.parts):
            rendered.append({"role": message.role, "content": message.text})
        else:
            rendered.append({"role": message.role, "content": [_part(p) for p in message.parts]})
    return rendered


def _part(part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind}


def _results(message: Message | None) -> dict[str, ToolResult]:
    """The results of a tool message by the call's id; {} for any other message."""
    return {r.id: r for r in message.parts} if message and message.role == "tool" else {}


def _assistant(message: Message, results: Mapping[str, ToolResult]) -> list[dict[str, Any]]:
    """The dicts of one model message. Calls without results come last, because their responses
    will follow."""
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
    """Whether ``part`` needs a new dict: in this one, the template would not write it last."""
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
    """Add a result to the dict of its call or, if it has media, return a tool message for it."""
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
    """The result as the model reads it."""
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
