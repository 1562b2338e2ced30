"""The call syntax: what the template writes is read back, other spellings are tolerated."""

import random

import pytest
from sentences import SENTENCES

from gemma4_mlx.chat.call_reader import QUOTE, CallSyntaxError, read_call
from gemma4_mlx.chat.parser import ReplyParser
from gemma4_mlx.processing.template import render

STRINGS = [
    "", " ", "Paris", 'a "b" c', "{x: [1, 2], y}", "line\nbreak\r\n\ttab", "'", "\\", ",:{}[]",
    "true", "12", "null", '<|"|>', "<tool_call|>", "<|tool_call>call:f{}", "<turn|>", "end}",
    *list(SENTENCES.values())[::5],
]  # fmt: skip
KEYS = ["a", "B", "city_name", "x-y", "kéy", "a.b", "key with space", "<turn|>"]


def value(rng, depth=0):
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return rng.choice(STRINGS)
    if kind == 2:
        return rng.choice([0, -1, 7, 10**12])
    if kind == 3:
        return rng.choice([0.5, -2.25, 1e-07, 1e300])
    if kind == 4:
        return rng.choice([True, False])
    if kind == 5:
        return None
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def written(tokenizer, name, arguments):
    """Token ids of a call as the template writes it."""
    call = {"id": "c", "function": {"name": name, "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    ids = render(messages, add_generation_prompt=False).encode(tokenizer)
    start, end = tokenizer.id("<|tool_call>"), tokenizer.id("<tool_call|>")
    return ids[ids.index(start) : ids.index(end) + 1]


@pytest.mark.parametrize("seed", range(60))
def test_what_the_template_writes_is_read_back(tokenizer, seed):
    rng = random.Random(seed)
    arguments = {rng.choice(KEYS): value(rng) for _ in range(rng.randrange(5))}
    name = rng.choice(["f", "get_weather", "plan.trip-v2"])
    parser = ReplyParser(tokenizer)
    events = [e for id in written(tokenizer, name, arguments) for e in parser.feed(id)]
    (call,) = parser.calls
    assert events[-1] is call
    assert call.error is None
    assert (call.name, call.arguments) == (name, arguments)


def read(text):
    pieces = text.split('<|"|>')
    items = [pieces[0]]
    for piece in pieces[1:]:
        items += [QUOTE, piece]
    return read_call(items)


@pytest.mark.parametrize(
    "text, arguments",
    [
        ("call:f{}", {}),
        ("call:f{a:'x'}", {"a": "x"}),
        ("call:f{a:'it's, say', b:['x','y' ],c:''}", {"a": "it's, say", "b": ["x", "y"], "c": ""}),
        (r"call:f{'a b':'q \" r','c':'it\'s\n{x}'}", {"a b": 'q " r', "c": "it's\n{x}"}),
        ("call:f{a:'x\\ty\nz'}", {"a": "x\ty\nz"}),
        ("call:f{a:'tis so,b:it's}", {"a": "'tis so", "b": "it's"}),
        (" call: f { } ", {}),
        ("f{a:1}", {"a": 1}),
        ('call:f{"a": "x\\n\\"y\\"", b: True, c: None}', {"a": 'x\n"y"', "b": True, "c": None}),
        ('call:f{<|"|>a<|"|>:<|"|>x<|"|>}', {"a": "x"}),
        ("call:f{a:1,}", {"a": 1}),
        ("call:f{a:[1,2,],b:{c:[]}}", {"a": [1, 2], "b": {"c": []}}),
        ("call:f{city:Paris in spring}", {"city": "Paris in spring"}),
        ("call:f{a:01,b:1.,c:-0,d:1e3,e:.5}", {"a": "01", "b": "1.", "c": 0, "d": 1e3, "e": ".5"}),
        ('call:f{a:"C:\\path"}', {"a": "C:\\path"}),
        ("call:f{\n  a: 1,\n  b: [\n 2 ]\n}", {"a": 1, "b": [2]}),
    ],
)
def test_other_spellings(text, arguments):
    assert read(text) == ("f", arguments)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "expected call:NAME"),
        ("hello", "expected call:NAME"),
        ("call:f", "expected call:NAME"),
        ("call:f{a:1", "',' or '}'"),
        ("call:f{a}", "':' after 'a'"),
        ("call:f{a:}", "a value"),
        ("call:f{:1}", "a name"),
        ('call:f{a:<|"|>x}', "at the end of a string"),
        ('call:f{a:"x}', "at the end of a string"),
        ("call:f{a:[1}", "',' or ']'"),
        ("call:f{a:1}}", "after the closing brace"),
        ("call:f{a:" + "[" * 100, "nested"),
        ("call:f{a:" + "{a:" * 100, "nested"),
    ],
)
def test_broken_calls_say_what_is_wrong(text, words):
    with pytest.raises(CallSyntaxError, match=words.replace("[", r"\[")):
        read(text)
