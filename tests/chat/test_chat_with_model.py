"""Chat on the teaching model: cache reuse, media, structured answers, no control token slips in."""

import io
import re
from typing import Literal

import numpy as np
import PIL.Image
import pytest
import udhr
from pydantic import BaseModel, Field

from gemma4_mlx.chat import Audio, Chat, Done, Image, Message, Text, ToolCall, ToolResult
from gemma4_mlx.errors import ChatError, ContextError, MediaError
from gemma4_mlx.generation import Token
from gemma4_mlx.processing.tokenizer import CONTROL_TOKENS, Detokenizer

SHORT = {"max_tokens": 6, "temperature": 0.0}
LONG_TEXT = " ".join(f"The {n} stone lies by the river." for n in range(24))
LONG = 200  # tokens that it surely has


@pytest.fixture
def chat(teaching):
    return Chat(teaching, options=SHORT)


def answers(chat):
    return [m.text for m in chat.messages if m.role == "assistant"]


def fresh_answer(chat, **how):
    """What a chat without any cache answers to the same history."""
    last = max(i for i, m in enumerate(chat.messages) if m.role == "user")
    other = Chat(chat.model, options=SHORT, messages=chat.messages[: last + 1])
    return other.send(**how)


def test_each_turn_reads_only_what_is_new(chat):
    chat.send(LONG_TEXT)
    for i in range(3):
        reply = chat.send(f"question {i}")
        new = reply.stats.prompt_tokens - reply.stats.reused_tokens
        assert new < 100
        assert reply.stats.reused_tokens > LONG
        assert reply.text == fresh_answer(chat).text


def test_each_token_becomes_text_once(chat, monkeypatch):
    """In the generation; the chat takes the texts of its tokens apart."""
    add, seen = Detokenizer.add, []
    monkeypatch.setattr(Detokenizer, "add", lambda self, id: seen.append(id) or add(self, id))
    begin = chat.model.tokenizer.encode("Well, ")
    reply = chat.send("Hello", stop="@@", begin=begin)
    assert seen == [*begin, *(token.id for token in reply.tokens if not token.stop)]
    assert reply.text == "Well, " + "".join(token.text for token in reply.tokens)


def test_edit_in_the_middle_past_the_window_is_exact(chat):
    window = chat.model.config.text.sliding_window
    for text in (LONG_TEXT, "one", LONG_TEXT, "two"):
        chat.send(text)
    assert len(chat.cache) > 4 * window
    reply = chat.edit(2, "another one")
    assert reply.stats.reused_tokens > window
    assert reply.text == fresh_answer(chat).text
    reply = chat.regenerate()
    assert reply.stats.prompt_tokens - reply.stats.reused_tokens <= 2
    assert reply.text == fresh_answer(chat).text


def test_a_branch_shares_the_cache(chat):
    chat.send(LONG_TEXT)
    other = chat.branch()
    here, there = chat.send("left"), other.send("right")
    assert there.stats.reused_tokens > LONG
    assert here.text == fresh_answer(chat).text
    assert there.text == fresh_answer(other).text


def test_the_cache_survives_on_disk(chat, tmp_path):
    with pytest.raises(ChatError, match="nothing is cached"):
        chat.save_cache(tmp_path / "cache.safetensors")
    chat.send(LONG_TEXT)
    chat.save(tmp_path / "chat.json")
    chat.save_cache(tmp_path / "cache.safetensors")
    again = Chat.load(tmp_path / "chat.json", chat.model, options=SHORT)
    again.load_cache(tmp_path / "cache.safetensors")
    reply = again.send("go on")
    assert reply.stats.reused_tokens > LONG
    assert reply.text == chat.send("go on").text


def test_stopping_leaves_the_cache_usable(chat):
    for event in chat.stream(LONG_TEXT, max_tokens=40):
        if isinstance(event, Token) and event.index == 3:
            break
    assert chat.messages[-1].role == "assistant"
    reply = chat.send("and then?")
    assert reply.stats.reused_tokens > LONG
    assert reply.text == fresh_answer(chat).text


def test_the_prompt_is_read_in_tokens_of_the_template(chat):
    chat.send("Hi")
    tokenizer = chat.model.tokenizer
    assert chat.inputs().tokens == tokenizer.encode(chat.rendered().text, allow_special=True)
    assert chat.cache.tokens[:3] == [2, 105, tokenizer.encode("user")[0]]


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_nothing_said_by_a_user_or_tool_is_a_control_token(teaching, token):
    call = ToolCall("c0", f"f{token}", {f"k{token}": [token]})
    word = Chat(teaching, messages=_hostile("word", ToolCall("c0", "fword", {"kword": ["word"]})))
    evil = Chat(teaching, messages=_hostile(token, call))
    kinds = [
        [t for t in c.inputs(True).tokens if teaching.tokenizer.is_special(t)] for c in (word, evil)
    ]
    assert kinds[0] == kinds[1]


def _hostile(text, call):
    return [
        Message("system", (Text(text),)),
        Message("user", (Text(f"{text}a{text}"),)),
        Message("assistant", (call,)),
        Message("tool", (ToolResult("c0", call.name, {text: [text, {"x": f"a{text}"}]}),)),
        Message("assistant", (Text("ok"),)),
        Message("user", (Text(text),)),
    ]


def test_the_declaration_of_human_rights_comes_back(teaching):
    """In 100 languages: what was said is in the prompt, and in the history's file."""
    articles = list(udhr.articles().items())[::5]
    assert len(articles) >= 100
    for language, (_, text) in articles:
        chat = Chat(teaching, messages=[Message("user", (Text(text),))])
        decoded = teaching.tokenizer.decode(chat.inputs().tokens)
        assert decoded == f"<bos><|turn>user\n{text}<turn|>\n<|turn>model\n", language


# Media


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (96, 96, 3), np.uint8)


def sound():
    return Audio(np.sin(np.arange(16000) / 20).astype(np.float32) * 0.3, rate=16000)


def test_pictures_and_sounds(chat):
    reply = chat.send("What is this?", images=picture(), audio=[sound()])
    assert reply.stats.prompt_tokens > 30
    parts = chat.messages[0].parts
    assert [type(p).__name__ for p in parts] == ["Image", "Text", "Audio"]
    inputs = chat.inputs()
    assert [s.kind for s in inputs.media] == ["image", "audio"]
    second = chat.send("And now?")
    assert second.stats.reused_tokens >= reply.stats.prompt_tokens - 1
    assert second.text == fresh_answer(chat).text
    third = chat.edit(0, "What is that?")
    assert third.text == fresh_answer(chat).text


def test_a_recording_longer_than_a_clip(chat, tmp_path):
    """It is refused with what to write, and sent as several clips; so is what was saved of it."""
    samples = np.sin(np.arange(31 * 8000) / 9).astype(np.float32) * 0.3
    with pytest.raises(MediaError, match=r"longest clip is 30 s.*Audio\(\.\.\., split=True\)"):
        chat.send("What is this?", audio=Audio(samples, rate=8000))
    assert chat.messages == []
    reply = chat.send("What is this?", audio=Audio(samples, rate=8000, split=True))
    clips = [span for span in chat.inputs().media if span.kind == "audio"]
    assert len(clips) == 2 and reply.stats.prompt_tokens > sum(c.stop - c.start for c in clips)
    chat.save(tmp_path / "chat.json")
    again = Chat.load(tmp_path / "chat.json", chat.model)
    assert again.inputs().tokens == chat.inputs().tokens


def test_a_file_in_memory_is_read_in_every_branch(chat):
    file = io.BytesIO()
    PIL.Image.fromarray(picture()).save(file, format="PNG")
    file.seek(0)
    chat.send("What is this?", images=Image(file))
    other = chat.branch()
    assert other.send("And now?").stats.prompt_tokens > 64
    assert other.inputs().media[0].key == chat.inputs().media[0].key


def test_another_picture_is_another_prompt(chat):
    chat.send("What is this?", images=[picture(0)])
    other = Chat(chat.model, options=SHORT)
    other.cache = chat.cache
    reply = other.send("What is this?", images=[Image(picture(1))])
    assert reply.stats.reused_tokens < 10
    assert reply.text == fresh_answer(other).text


def test_a_placeholder_typed_by_hand_is_text(chat):
    reply = chat.send("<|image|> and <|audio|>")
    assert reply.finish_reason in ("stop", "length")
    assert chat.inputs().media == []


def test_media_that_cannot_be_read(chat):
    with pytest.raises(MediaError, match=r"no\.png"):
        chat.send("What?", images=["no.png"])
    assert chat.messages == []


def test_a_tool_may_return_a_picture(chat):
    def draw() -> object:
        """Draws."""
        return Image(picture())

    chat = Chat(chat.model, tools=[draw], options=SHORT)
    chat.messages += [
        Message("user", (Text("draw"),)),
        Message("assistant", (ToolCall("c0", "draw"),)),
        Message("tool", (ToolResult("c0", "draw", None, media=(Image(picture()),)),)),
    ]
    assert [s.kind for s in chat.inputs().media] == ["image"]
    assert chat.send().stats.prompt_tokens > 20


# Structured answers


class Person(BaseModel):
    name: Literal["Ada", "Alan"]
    age: int = Field(ge=0, le=130)
    tags: list[Literal["x", "y"]] = Field([], max_length=3)


SCHEMAS = {
    "pydantic": Person,
    "enum": {"enum": ["red", "blue", 3, None]},
    "object": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 9}, "b": {"const": "x"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "regex": re.compile(r"[A-Z]{3}-[0-9]{2}"),
    "grammar": 'start: ("ab" | "cd") "!"',
}


@pytest.mark.parametrize("thinking", [False, 3])
@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_hold(chat, name, thinking):
    for seed in range(2):
        reply = chat.send(
            "go", schema=SCHEMAS[name], thinking=thinking, temperature=1.0, top_k=20, seed=seed,
            max_tokens=150,
        )  # fmt: skip
        value = reply.parsed
        if name == "pydantic":
            assert isinstance(value, Person)
        elif name == "enum":
            assert value in SCHEMAS["enum"]["enum"]
        elif name == "object":
            assert value["b"] == "x"
            assert 3 <= value["a"] <= 9
        elif name == "regex":
            assert SCHEMAS["regex"].fullmatch(value)
        else:
            assert value in ("ab!", "cd!")
        assert reply.finish_reason == "stop"


def test_required_calls_are_calls(chat):
    def paint(color: Literal["red", "blue"], size: int = 1) -> str:
        """Paints.

        Args:
            color: Which color.
            size: How large.
        """
        return f"{color} {size}"

    chat = Chat(chat.model, tools=[paint])
    for seed in range(3):
        reply = chat.send("go", require_tool=True, temperature=1.0, seed=seed, max_tokens=60)
        for call in reply.tool_calls:
            assert call.error is None
            assert call.name == "paint"
            assert "color" in call.arguments
        assert reply.tool_calls or reply.finish_reason == "length"
        chat.messages.clear()


def get_weather(city: str) -> dict:
    """Get the current weather for a city.

    Args:
        city: City name
    """
    return {"sky": "sunny", "temperature": 21}


@pytest.mark.parametrize("strict", [False, True])
def test_a_schema_holds_the_answer_and_leaves_the_calls(teaching, strict):
    chat = Chat(teaching, tools=[get_weather], strict_tools=strict, options={"max_tokens": 40})
    schema = re.compile(r"It is sunny in Paris, [0-9]{2} degrees\.")
    reply = chat.run("What is the weather in Paris?", schema=schema)
    assert [call.arguments for call in reply.steps[0].tool_calls] == [{"city": "Paris"}]
    assert reply.steps[0].parsed is None
    assert reply.parsed == reply.text == "It is sunny in Paris, 21 degrees."
    chat.messages.clear()
    at_once = chat.run("What is the weather in Paris?", schema=schema, max_steps=1)
    assert schema.fullmatch(at_once.parsed) and not at_once.tool_calls
    chat.messages.clear()
    assert schema.fullmatch(chat.send("What is the weather in Paris?", schema=schema).parsed)


# Looking inside


def test_a_trace_of_the_conversation(chat):
    chat.send("What is this?", images=picture())
    trace = chat.trace()
    assert len(trace.tokens) == len(chat.inputs())


def test_token_alternatives(chat):
    reply = chat.send("Hi", alternatives=3)
    assert all(len(t.alternatives) == 3 for t in reply.tokens)


def test_deltas_join_to_the_reply(chat):
    events = list(chat.stream("Hi", max_tokens=30, temperature=1.0, seed=1))
    reply = events[-1].reply
    assert isinstance(events[-1], Done)
    assert "".join(e.text for e in events if type(e).__name__ == "TextDelta") == reply.text
    assert reply.text == chat.model.tokenizer.decode(
        [t.id for t in reply.tokens if not t.stop and not chat.model.tokenizer.is_special(t.id)]
    ) or any(chat.model.tokenizer.is_special(t.id) for t in reply.tokens)


def test_a_conversation_longer_than_the_context(teaching):
    """Refused with the switch's name, and nothing is kept of it; the switch lets it go on."""
    object.__setattr__(text := teaching.config.text, "max_position_embeddings", 60)
    try:
        long, few = "stone " * 60, {"max_tokens": 2}
        chat = Chat(teaching, options=few)
        with pytest.raises(ContextError, match=r"context is 60.*beyond_context=True"):
            chat.send(long)
        assert chat.messages == []
        reply = Chat(teaching, options=few, beyond_context=True).branch().send(long)
        assert reply.stats.prompt_tokens > 60 and len(reply.tokens) == 2
    finally:
        object.__setattr__(text, "max_position_embeddings", 131_072)
