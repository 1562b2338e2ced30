"""Conversations in the chat-message form that the templates read, for parity tests.

Hand-written ones cover each rule of the format once; :func:`random_conversation` mixes them.
"""

import random

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "unit": {"type": "string", "enum": ["c", "f"]},
                "city": {"type": "string", "description": "City name"},
                "days": {"type": "integer", "nullable": True},
            },
            "required": ["city"],
        },
    },
}
NESTED = {
    "type": "function",
    "function": {
        "name": "plan.trip-v2",
        "description": 'Plans a "trip" {carefully}.\nTwo lines, ünïcode.',
        "parameters": {
            "type": "object",
            "properties": {
                "stops": {
                    "type": "array",
                    "description": "Where to stop",
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "description": "Place"},
                            "nights": {"type": "integer"},
                        },
                        "required": ["name"],
                    },
                },
                "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
                "mixed": {"type": "array", "items": {"type": ["string", "integer"]}},
                "matrix": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}},
                },
                "options": {
                    "type": "object",
                    "description": "Details",
                    "properties": {"fast": {"type": "boolean"}, "Budget": {"type": "number"}},
                    "required": ["fast"],
                },
                "free": {"type": "object"},
                "bare": {"type": "object", "x": {"type": "string"}, "nullable": True},
            },
            "required": ["stops", "options"],
        },
        "response": {"type": "object", "description": "The plan"},
    },
}
EMPTY = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def call(name, arguments, id="c0"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


HARD_ARGUMENTS = {
    "b": [1, True, None, 'x{}, "q"\nnew'],
    "A": {"z": {"k": 1.5}, "y": []},
    "c": "日本語 🎉",
    "n": -3,
    "e": {},
}

CONVERSATIONS: dict[str, list[dict]] = {
    "hello": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": " Be terse. "}, {"role": "user", "content": " Hi\n"}],
    "developer": [{"role": "developer", "content": "Be terse."}, {"role": "user", "content": "Hi"}],
    "system parts": [
        {
            "role": "system",
            "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
        },
        {"role": "user", "content": "Hi"},
    ],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<|channel>thought\nhm\n<channel|>Hello."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": " 4 \n"},
        {"role": "user", "content": "और हिंदी में?"},
    ],
    "later system": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": "Now be terse."},
        {"role": "user", "content": "Bye"},
    ],
    "media": [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "image_url"},
                {"type": "text", "text": " Describe. "},
                {"type": "video"},
                {"type": "audio"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": "And?"},
    ],
    "continued": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Let me look."},
        {"role": "assistant", "content": "", "tool_calls": [call("now", {})]},
        {"role": "tool", "tool_call_id": "c0", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
        {"role": "user", "content": "Thanks"},
    ],
    "unanswered call": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning": "Need the tool.",
            "tool_calls": [call("get_weather", {"city": "Paris"})],
        },
    ],
    "tool round": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning": "Need the tool.",
            "tool_calls": [call("get_weather", {"city": "Paris"})],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "18 C"},
    ],
    "two calls": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "tool_calls": [call("f", HARD_ARGUMENTS, "c0"), call("g.h-i", None, "c1")],
        },
        {"role": "tool", "tool_call_id": "c0", "content": 'a {b} "c"\n<d>'},
        {"role": "tool", "name": "other", "tool_call_id": "c9", "content": 7},
        {"role": "tool", "content": None},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Again"},
    ],
    "tool media": [
        {"role": "user", "content": "Draw"},
        {"role": "assistant", "tool_calls": [call("draw", {"what": "cat"})]},
        {
            "role": "tool",
            "tool_call_id": "c0",
            "content": [{"type": "text", "text": "ok"}, {"type": "image"}, {"type": "audio"}],
        },
    ],
    "stored responses": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning_content": "Two of them.",
            "tool_calls": [call("f", {"a": 1}), call("g", {"b": [1, {"c": "d"}]})],
            "tool_responses": [
                {"name": "f", "response": {"temp": 18, "ok": True, "Sky": {"x": [None]}}},
                {"name": "g", "response": [1, "two"]},
            ],
        },
        {"role": "assistant", "content": "Fine.", "reasoning": "done"},
    ],
    "thinking kept in the loop": [
        {"role": "user", "content": "One"},
        {"role": "assistant", "reasoning": "first", "tool_calls": [call("now", {})]},
        {"role": "tool", "tool_call_id": "c0", "content": "1"},
        {"role": "assistant", "reasoning": "second", "content": "A"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "reasoning": "third", "tool_calls": [call("now", {})]},
        {"role": "tool", "tool_call_id": "c0", "content": "2"},
        {"role": "assistant", "reasoning": "fourth", "tool_calls": [call("now", {}, "c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ],
    "broken thoughts": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "a<|channel>b<channel|>c<channel|>d<|channel>e"},
        {"role": "user", "content": "Hi"},
    ],
}
TOOLS: dict[str, list[dict] | None] = {
    "none": None,
    "one": [WEATHER],
    "all": [WEATHER, NESTED, EMPTY],
}


def random_conversation(seed: int) -> list[dict]:
    """A conversation in any order of roles a program could produce."""
    rng = random.Random(seed)
    texts = ["Hi", " padded ", "", "<b>x</b> a < b", "नमस्ते", "👨‍👩‍👧", 'q "x" {y}', "a\n\nb"]
    messages: list[dict] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": rng.choice(texts)})
    for _ in range(rng.randrange(1, 5)):
        content = rng.choice(texts)
        if rng.random() < 0.3:
            content = [{"type": "image"}, {"type": "text", "text": content}, {"type": "audio"}]
        messages.append({"role": "user", "content": content})
        for _ in range(rng.randrange(0, 4)):
            message: dict = {"role": "assistant"}
            if rng.random() < 0.4:
                message["reasoning"] = rng.choice(texts)
            if rng.random() < 0.6:
                message["content"] = rng.choice(texts)
            messages.append(message)
            if rng.random() < 0.5:
                count = rng.randrange(1, 3)
                message["tool_calls"] = [
                    call("f", rng.choice([{}, HARD_ARGUMENTS, {"<k": 1, "a": "<turn"}]), f"c{i}")
                    for i in range(count)
                ]
                if rng.random() < 0.4:
                    message["tool_responses"] = [
                        {
                            "name": "f",
                            "response": rng.choice([{"a": {"b": 1}}, "text", [1, 2], 3.5]),
                        }
                        for _ in range(count)
                    ]
                else:
                    for i in range(rng.randrange(0, count + 1)):
                        messages.append(
                            {"role": "tool", "tool_call_id": f"c{i}", "content": rng.choice(texts)}
                        )
    return messages
