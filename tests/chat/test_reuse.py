"""With room for one snapshot, every kind of turn reads only what is new."""

import pytest

from gemma4_mlx.chat import Chat, Message, Text, Thinking, ToolCall, ToolResult
from gemma4_mlx.checkpoints.planner import snapshot_bytes

LONG_TEXT = " ".join(f"The {n} stone lies by the river." for n in range(30))
#: Answers that sliding layers can step back over, and such as they cannot.
SHORT, LONG = 6, 330


def get_weather(city: str) -> dict:
    """Get the current weather for a city.

    Args:
        city: City name
    """
    return {"sky": "sunny", "temperature": 21}


@pytest.fixture
def new_chat(teaching):
    """A conversation with a long beginning and room for one snapshot."""

    def make(length, **settings):
        text = teaching.config.text
        one = snapshot_bytes(text, text.sliding_window, teaching.dtype.size)
        never = {"suppress_tokens": (1, 106, 50)} if length == LONG else {}
        options = {"max_tokens": length, "temperature": 0.0, **never}
        chat = Chat(teaching, options=options, snapshot_bytes=one, **settings)
        chat.messages += [Message("user", Text(LONG_TEXT)), Message("assistant", Text("Yes."))]
        return chat

    return make


def rendered_length(chat, messages) -> int:
    """Tokens of the prompt that ends with these messages, none opened for an answer."""
    other = Chat(chat.model, messages=messages, tools=chat.tools.values(), thinking=chat.thinking)
    return len(other.inputs(add_generation_prompt=False).tokens)


def check(chat, reply, before: int = 1):
    """All was reused that stood before the last `before` messages."""
    last = max(i for i, m in enumerate(chat.messages) if m.role == "user")
    if before == 1:  # the prompt but for its last turn: without it, an earlier thought would stand
        opening, turn = chat.messages[:2], chat.messages[last]
        turn = rendered_length(chat, [*opening, turn]) - rendered_length(chat, opening)
        known = rendered_length(chat, chat.messages[: last + 1]) - turn
    else:
        known = rendered_length(chat, chat.messages[: last + 1 - before])
    # Of an answer that was cut short, the last token and what closes the turn are not there.
    assert reply.stats.reused_tokens >= known - 3, reply.stats.reuse_note


def check_exact(chat, reply):
    """The same answer comes out of reading all of it."""
    last = max(i for i, m in enumerate(chat.messages) if m.role == "user")
    fresh = Chat(
        chat.model, options=chat.options, messages=chat.messages[: last + 1],
        tools=chat.tools.values(), thinking=chat.thinking,
    )  # fmt: skip
    again = fresh.send()
    assert (again.text, again.thinking, again.tool_calls != ()) == (
        reply.text, reply.thinking, reply.tool_calls != (),
    )  # fmt: skip


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_every_kind_of_turn(new_chat, length):
    chat = new_chat(length)
    chat.send("Hello!")
    # A long answer of this model is no text that its tokens come back from: it is read again.
    check(chat, chat.send("What is 27 + 15?"), before=1 if length == SHORT else 2)
    reply = chat.regenerate()
    assert reply.stats.prompt_tokens - reply.stats.reused_tokens <= 1
    reply = chat.edit(-2, "What is 3 + 9?")
    check(chat, reply)
    check_exact(chat, reply)


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_turns_that_think(new_chat, length):
    """Thoughts are left out of later prompts: what was said behind one is read again, no more."""
    chat = new_chat(length, thinking=True)
    chat.send("What is 27 + 15 - 8?")
    thought = Thinking("27 + 15 = 42")
    chat.messages[-1] = Message("assistant", (thought, Text(chat.messages[-1].text or "34")))
    reply = chat.send("What is 3 + 9 - 4?")
    check(chat, reply, before=2)
    check_exact(chat, reply)


@pytest.mark.parametrize("thinking", [False, True])
def test_turns_with_tools(new_chat, thinking):
    """The second step goes on where the first ended; the next turn knows all before it."""
    chat = new_chat(60, tools=[get_weather], thinking=thinking)
    for city in ("Paris", "Rome"):
        reply = chat.run(f"What is the weather in {city}?")
        first, second = (step.stats for step in reply.steps)
        assert second.reused_tokens >= first.prompt_tokens + first.generated_tokens - 2
    check(chat, reply.steps[0], before=2 if thinking else 1)
    reply = chat.regenerate()
    check(chat, reply)
    check_exact(chat, reply)


def test_a_long_result_between(new_chat):
    """Longer than the window: what was read before it is still known."""
    chat = new_chat(20, tools=[get_weather], thinking=True)
    known = rendered_length(chat, chat.messages)
    call = ToolCall("c", "get_weather", {"city": "Paris"})
    chat.send("What is the weather in Paris?")
    chat.messages[-1] = Message("assistant", (call,))
    chat.messages.append(Message("tool", ToolResult("c", "get_weather", LONG_TEXT[:600])))
    chat.send()
    assert chat.send("Hello!").stats.reused_tokens >= known - 3
