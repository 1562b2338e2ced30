"""The agent loop, with a model that plays a script."""

import threading

import pytest
from waiting import PATIENCE, until

from gemma4_mlx.chat import Chat, Done, Step, TextDelta, Tool, ToolCall, ToolResult, check_history
from gemma4_mlx.errors import ChatError, SchemaError

ADD = "<|tool_call>call:add{a:2,b:3}<tool_call|>"
STOP = "<|tool_response>"


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


running: list[str] = []  # what ``slow`` was called for
go = threading.Event()  # lets it return


@pytest.fixture(autouse=True)
def at_work():
    running.clear()
    go.clear()
    yield
    go.set()


def slow(name: str) -> dict:
    """Takes as long as the test wants.

    Args:
        name: Any name.
    """
    running.append(name)
    assert go.wait(PATIENCE)
    return {"name": name}


def broken() -> None:
    """Raises."""
    raise RuntimeError("no power")


@pytest.fixture
def chat(actor):
    return Chat(actor, tools=[add, slow, broken])


def test_a_call_and_its_answer(chat, script):
    script.replies = [f"Let me add.{ADD}{STOP}", "It is 5.<turn|>"]
    reply = chat.run("2 + 3?")
    assert reply.text == "It is 5."
    assert reply.finish_reason == "stop"
    assert [r.finish_reason for r in reply.steps] == ["tool_calls", "stop"]
    assert [m.role for m in chat.messages] == ["user", "assistant", "tool", "assistant"]
    # The second prompt goes on exactly where the model stopped.
    assert script.prompts[1] == (
        script.prompts[0]
        + f"Let me add.{ADD}<|tool_response>response:add{{value:5}}<tool_response|>"
    )
    check_history(chat.messages)


def test_every_step_is_an_event(chat, script):
    script.replies = [ADD + STOP, "5<turn|>"]
    events = list(chat.run_stream("2 + 3?"))
    kinds = [
        type(e) for e in events if isinstance(e, Step | ToolCall | ToolResult | TextDelta | Done)
    ]
    assert kinds == [Step, ToolCall, ToolResult, Step, TextDelta, Done]
    seen = []
    script.replies = ["6<turn|>"]
    chat.run("and?", on_event=seen.append)
    assert isinstance(seen[-1], Done)


def test_calls_of_one_turn_run_side_by_side_and_keep_their_order(chat, script):
    calls = "".join(f'<|tool_call>call:slow{{name:<|"|>{n}<|"|>}}<tool_call|>' for n in "abc")
    script.replies = [calls + ADD + STOP, "done<turn|>"]
    results = []
    for event in chat.run_stream("go"):
        if isinstance(event, ToolResult):
            results.append(event.name)
            until(lambda: len(running) == 3)  # all three, and none has returned
            go.set()
    assert results == ["add", "slow", "slow", "slow"]
    assert [p.name for p in chat.messages[2].parts] == ["slow"] * 3 + ["add"]
    assert [p.result for p in chat.messages[2].parts[:3]] == [{"name": n} for n in "abc"]
    assert 'response:slow{name:<|"|>a<|"|>}' in script.prompts[1]


@pytest.mark.parametrize(
    "call, words",
    [
        ("<|tool_call>call:add{a:2}<tool_call|>", "b: this parameter is required"),
        ("<|tool_call>call:subtract{a:2}<tool_call|>", "there is no tool 'subtract'"),
        ("<|tool_call>call:add{a 2}<tool_call|>", "could not be read"),
        ("<|tool_call>call:broken{}<tool_call|>", "RuntimeError: no power"),
    ],
)
def test_mistakes_go_back_to_the_model(chat, script, call, words):
    script.replies = [call + STOP, ADD + STOP, "5<turn|>"]
    reply = chat.run("2 + 3?")
    assert reply.text == "5"
    assert words in script.prompts[1]
    assert "{error:" in script.prompts[1]
    assert len(reply.steps) == 3


def test_a_given_beginning_is_that_of_the_first_step_alone(chat, script, tokenizer):
    script.replies = [ADD + STOP, "It is 5.<turn|>"]
    reply = chat.run("2 + 3?", begin=tokenizer.encode("Well: "), require_tool=False)
    assert [r.text for r in reply.steps] == ["Well: ", "It is 5."]
    assert script.prompts[0].endswith("<|turn>model\nWell: ")
    assert script.prompts[1].endswith("response:add{value:5}<tool_response|>")


def test_step_limit(chat, script):
    script.replies = [ADD + STOP] * 3
    events = list(chat.run_stream("loop", max_steps=3))
    assert events[-1].reply.finish_reason == "step_limit"
    assert [e for e in events if isinstance(e, ToolResult)][-1:] == [*chat.messages[-1].parts]
    assert "limit of 3 steps" in chat.messages[-1].parts[0].error
    check_history(chat.messages)
    script.replies = ["fine<turn|>"]
    assert chat.send("stop it").text == "fine"


def test_approval(chat, script):
    asked = []

    def approve(call):
        asked.append(call)
        return "not today" if call.name == "slow" else call.name != "broken"

    calls = (
        '<|tool_call>call:slow{name:<|"|>x<|"|>}<tool_call|><|tool_call>call:broken{}<tool_call|>'
    )
    script.replies = [calls + ADD + STOP, "ok<turn|>"]
    chat.run("go", approve=approve)
    results = chat.messages[2].parts
    assert [r.denied for r in results] == [True, True, False]
    assert results[0].error == "not today"
    assert results[1].error == "the user did not allow this call"
    assert results[2].result == 5
    assert [c.name for c in asked] == ["slow", "broken", "add"]


def test_timeout(chat, script):
    script.replies = ['<|tool_call>call:slow{name:<|"|>x<|"|>}<tool_call|>' + STOP, "ok<turn|>"]
    chat.run("go", timeout=0.1)
    assert "no result after 0.1 s" in chat.messages[2].parts[0].error


def test_a_check_that_raises_is_told(actor, script):
    def check(arguments):
        raise LookupError("no such key")

    tool = Tool("add", "Adds.", {}, add, check=check)
    script.replies = [ADD + STOP, "sorry<turn|>"]
    chat = Chat(actor, tools=[tool])
    assert chat.run("2 + 3?").text == "sorry"
    assert chat.messages[2].parts[0].error == "LookupError: no such key"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupt_between_steps_leaves_a_conversation(chat, script, error):
    def approve(call):
        raise error

    script.replies = [ADD + STOP, "fine<turn|>"]
    with pytest.raises(error):
        chat.run("go", approve=approve)
    check_history(chat.messages)
    assert "interrupted" in chat.messages[-1].parts[0].error
    assert chat.send("again").text == "fine"


def test_leaving_the_loop_while_tools_run(chat, script):
    script.replies = [
        '<|tool_call>call:slow{name:<|"|>x<|"|>}<tool_call|>' + ADD + STOP,
        "fine<turn|>",
    ]
    for event in chat.run_stream("go"):
        if isinstance(event, ToolResult):
            break
    check_history(chat.messages)
    assert chat.messages[-1].role == "tool"
    assert chat.send("again").text == "fine"


def test_cancel_while_a_tool_runs(chat, script):
    script.replies = ['<|tool_call>call:slow{name:<|"|>x<|"|>}<tool_call|>' + STOP]
    cancel = threading.Event()
    threading.Thread(target=lambda: (until(lambda: running), cancel.set())).start()
    reply = chat.run("go", cancel=cancel)
    assert reply.finish_reason == "cancelled"
    check_history(chat.messages)


def test_thinking_goes_on_after_tools(actor, script):
    chat = Chat(actor, tools=[add], thinking=True)
    script.replies = [
        f"<|channel>thought\nadd them\n<channel|>{ADD}{STOP}",
        "so five\n<channel|>It is 5.<turn|>",
    ]
    reply = chat.run("2 + 3?")
    assert script.prompts[1].endswith("<tool_response|><|channel>thought\n")
    assert script.prompts[1].startswith(
        script.prompts[0] + "<|channel>thought\nadd them\n<channel|>"
    )
    assert (reply.thinking, reply.text) == ("so five", "It is 5.")


def test_calls_can_be_answered_by_hand(chat, script):
    script.replies = [ADD + STOP, "5<turn|>"]
    reply = chat.send("2 + 3?")
    (call,) = reply.tool_calls
    with pytest.raises(ChatError, match="waits for the results of its calls to add"):
        chat.send("hello?")
    from gemma4_mlx.chat import Message

    chat.messages.append(Message("tool", (ToolResult(call.id, "add", 5),)))
    assert chat.send().text == "5"


def test_calls_that_wait_are_made_by_run(chat, script):
    script.replies = [ADD + STOP, "5<turn|>"]
    chat.send("2 + 3?")
    assert chat.run().text == "5"
    assert chat.messages[2].parts[0].result == 5


def test_strict_and_required_tools(actor, script):
    chat = Chat(actor, tools=[add], strict_tools=True)
    script.replies = ["a<turn|>", ADD + STOP, "5<turn|>"]
    chat.send("x")
    chat.run("2 + 3?", require_tool=True)
    grammars = [c.grammar for c, _ in script.constraints]
    assert "call*" in grammars[0]
    assert "call+" in grammars[1]
    assert "call*" in grammars[2]
    with pytest.raises(ChatError, match="needs a chat with tools"):
        Chat(actor).send("x", require_tool=True)
    with pytest.raises(ChatError, match="exclude"):
        chat.send("x", require_tool=True, schema={"type": "null"})


@pytest.mark.parametrize("thinking", [True, 5, False])
def test_a_held_answer_may_be_thought_about_if_the_chat_thinks(actor, script, thinking):
    chat = Chat(actor, tools=[add])
    script.replies = ["x<turn|>"] * 3
    for how in ({"require_tool": True}, {"schema": {"type": "null"}}, {"or_calls": True}):
        schema = {"schema": {"type": "null"}} if "or_calls" in how else {}
        chat.messages.clear()
        chat.send("x", thinking=thinking, **how, **schema)
        rule, _ = script.constraints[-1]
        assert getattr(rule, "answer", rule).thinking is bool(thinking)


def test_a_held_answer_that_was_cancelled_before_it_began(chat, script):
    """While the prompt was read: nothing has asked yet what may come first."""
    cancel = threading.Event()
    cancel.set()
    script.replies = ["5<turn|>"]
    reply = chat.send("2 + 3?", schema={"type": "integer"}, or_calls=True, cancel=cancel)
    assert (reply.finish_reason, reply.text) == ("cancelled", "")
    with pytest.raises(SchemaError, match="not complete: it was cancelled"):
        _ = reply.parsed


def test_bad_settings(chat):
    with pytest.raises(ChatError, match="max_steps"):
        chat.run("x", max_steps=0)
    with pytest.raises(ChatError, match="timeout"):
        chat.run("x", timeout=0)
    with pytest.raises(ChatError, match="timeout must be a number"):
        chat.run("x", timeout="60")
    with pytest.raises(ChatError, match="approve must be a function"):
        chat.run("x", approve=True)
    assert chat.messages == []
