"""A model's message in any order of parts, against what the released template writes when each
call is a message of its own, as OpenAI-style clients send it."""

import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_mlx.chat import Image, Message, Text, Thinking, ToolCall, ToolResult, check_history
from gemma4_mlx.chat.rendering import media_of, to_template
from gemma4_mlx.processing.template import render

USER = Message("user", Text("Go"))
NAMES = ("chat_template_e2b_e4b.jinja", "chat_template_12b_26b_31b.jinja")


@pytest.fixture(scope="module", params=[None, *NAMES])
def write(request, reference_dir):
    """A template as a function: the package's own, or a released one."""
    if request.param is None:
        return partial(render, template=None)
    path = reference_dir / request.param
    if not path.is_file():
        pytest.skip("the released chat templates are not beside this checkout")
    return partial(render, template=path.read_text("utf-8"))


def numbered(kinds, results=True):
    """A user's message, the model's of these kinds of parts, and the results in reverse."""
    make = {
        "text": lambda i: Text(f"words {i}."),
        "thought": lambda i: Thinking(f"thought {i}."),
        "call": lambda i: ToolCall(f"c{i}", f"f{i}", {"n": i}),
    }
    parts = [make[kind](i) for i, kind in enumerate(kinds)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    found = [Message("assistant", parts)]
    if calls and results:
        answers = [ToolResult(c.id, c.name, {"is": c.arguments["n"]}) for c in reversed(calls)]
        found.append(Message("tool", answers))
    check_history([USER, *found])
    return [USER, *found]


def apart(history):
    """The same history with a message for every call and one for its result."""
    answers = {r.id: r for m in history if m.role == "tool" for r in m.parts}
    found = []
    for message in history:
        if message.role == "user":
            found.append(message)
        written = []
        for part in message.parts if message.role == "assistant" else ():
            written.append(part)
            if isinstance(part, ToolCall):
                found += [Message("assistant", written), Message("tool", answers[part.id])]
                written = []
        if written:
            found.append(Message("assistant", written))
    return found


def openai(history):
    """Plain dicts for the template, without the code under test."""
    found = []
    for message in apart(history):
        if message.role == "tool":
            found.append({"role": "tool", "tool_call_id": message.parts[0].id, "content": "ok"})
            continue
        for part in message.parts:
            if isinstance(part, ToolCall):
                function = {"name": part.name, "arguments": part.arguments}
                entry = {"tool_calls": [{"id": part.id, "function": function}]}
            else:
                entry = {"reasoning" if isinstance(part, Thinking) else "content": part.text}
            role = "user" if message.role == "user" else "assistant"
            joins = found and found[-1].keys() == {"role", "content"} == {"role", *entry}
            if joins and found[-1]["role"] == role:
                found[-1]["content"] += part.text
            else:
                found.append({"role": role, **entry})
    return found


orders = st.lists(st.sampled_from(["text", "thought", "call"]), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(kinds=orders, thinking=st.booleans(), again=st.booleans())
def test_any_order_is_what_the_template_writes_call_by_call(write, kinds, thinking, again):
    history = numbered(kinds)
    if again:  # the same in an earlier turn, whose thoughts are gone
        history += [Message("assistant", Text("Done.")), Message("user", Text("More"))]

    def text(messages):
        return write(messages, thinking=thinking).text

    ours = text(to_template(history))
    assert ours == text(to_template(apart(history)))
    told = re.sub(r"response:f\d\{is:\d\}", 'response:{value:<|"|>ok<|"|>}', ours)
    theirs = re.sub(r"response:f\d\{", "response:{", text(openai(history)))
    assert told == theirs
    for n in (i for i, kind in enumerate(kinds) if kind == "call"):
        assert f"call:f{n}{{n:{n}}}<tool_call|><|tool_response>response:f{n}{{is:{n}}}" in ours
    end = ours[ours.rindex("<|turn>") :]
    assert end.startswith("<|turn>model\n") and "<turn|>" not in end


@settings(max_examples=60, deadline=None)
@given(kinds=orders)
def test_calls_that_wait_stand_where_the_response_follows(write, kinds):
    text = write(to_template(numbered(kinds, results=False))).text
    assert text.count("<|tool_response>") == ("call" in kinds)
    if "call" in kinds:
        assert text.endswith("<tool_call|><|tool_response>")


def test_words_behind_a_call(write):
    call = ToolCall("1", "now")
    said = Message("assistant", (call, Text("One moment.")))
    history = [USER, said, Message("tool", ToolResult("1", "now", "12:00"))]
    assert write(to_template(history), thinking=True).text.endswith(
        '<|tool_call>call:now{}<tool_call|><|tool_response>response:now{value:<|"|>12:00<|"|>}'
        "<tool_response|>One moment.<turn|>\n<|turn>model\n"
    )


def test_a_result_with_a_picture_stands_behind_its_call_too(write):
    pictures = [Image("a.png"), Image("b.png")]
    calls = [ToolCall(i, "look", {"at": i}) for i in "abc"]
    results = [
        ToolResult("b", "look", "seen", media=(pictures[1],)),
        ToolResult("c", "look", {"x": 1}),
        ToolResult("a", "look", None, media=(pictures[0],)),
    ]
    history = [USER, Message("assistant", calls), Message("tool", results)]
    text = write(to_template(history)).text
    parts = re.findall(r"at:<\|\"\|>(\w)|value:<\|\"\|>(\w+)<\|\"\|>|(<\|image\|>)|(x:1)", text)
    assert ["".join(found) for found in parts] == [
        "a", "image", "<|image|>", "b", "seen", "<|image|>", "c", "x:1",
    ]  # fmt: skip
    assert media_of(history) == pictures
