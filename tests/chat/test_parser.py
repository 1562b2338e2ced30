"""Reading streamed output: by ids and as text, in any pieces, never half a character."""

import random

import pytest
import udhr
from sentences import SENTENCES

from gemma4_mlx.chat.events import TextDelta, ThinkingDelta, ToolCallDelta
from gemma4_mlx.chat.messages import Text, Thinking, ToolCall
from gemma4_mlx.chat.parser import ReplyParser
from gemma4_mlx.errors import ChatError
from gemma4_mlx.generation.stopping import AnswerText
from gemma4_mlx.processing.characters import characters

CALL = '<|tool_call>call:f{a:<|"|>}{,"<|"|>,b:[1]}<tool_call|>'
OUTPUTS = {
    "plain": ("Hello.<turn|>", [Text("Hello.")]),
    "thought": (
        "<|channel>thought\nhm\n\nwell\n<channel|>Yes.<turn|>",
        [Thinking("hm\n\nwell"), Text("Yes.")],
    ),
    "empty thought": ("<|channel>thought\n<channel|>Yes.", [Text("Yes.")]),
    "another name": ("<|channel>plan: a\n<channel|>b", [Thinking("plan: a"), Text("b")]),
    "two channels": (
        "<|channel>thought\na\n<channel|>x<|channel>thought\nb<channel|>y",
        [Thinking("a"), Text("x"), Thinking("b"), Text("y")],
    ),
    "call": (f"Let me see.{CALL}<|tool_response>", [Text("Let me see."), "call"]),
    "two calls": (CALL + CALL + "<|tool_response>ignored", ["call", "call"]),
    "thought, then call": (
        f"<|channel>thought\nneed it\n<channel|>{CALL}<turn|>",
        [Thinking("need it"), "call"],
    ),
    "call in a thought": (f"<|channel>thought\nneed it\n{CALL}", [Thinking("need it"), "call"]),
    "unclosed call": (CALL.removesuffix("<tool_call|>") + "<turn|>", ["call"]),
    "stray closers": ("a<channel|>b<tool_call|>c", [Text("abc")]),
    "nothing": ("<turn|>", []),
    "unclosed thought": ("<|channel>thought\nand so on", [Thinking("and so on")]),
    "almost markers": ("a < b <| c <|tool d <turn| e <", [Text("a < b <| c <|tool d <turn| e <")]),
}


def simplified(parts):
    return [_call(p) if isinstance(p, ToolCall) else p for p in parts]


def _call(part):
    assert (part.name, part.arguments, part.error) == ("f", {"a": '}{,"', "b": [1]}, None)
    return "call"


def check_events(parser, events):
    """Deltas join to the whole, offsets without gaps."""
    for kind, whole in ((TextDelta, parser.text), (ThinkingDelta, parser.thinking)):
        joined = ""
        for event in events:
            if isinstance(event, kind):
                assert event.offset == len(joined)
                assert event.text
                joined += event.text
        assert joined == whole
    assert [e for e in events if isinstance(e, ToolCall)] == list(parser.calls)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("name", OUTPUTS)
def test_by_ids(tokenizer, name, told):
    """Alone, and with the texts that a generation tells."""
    output, parts = OUTPUTS[name]
    parser, text, events = ReplyParser(tokenizer), AnswerText(tokenizer), []
    for id in tokenizer.encode(output, allow_special=True):
        events += parser.feed(id, text.add(id) if told else None)
    events += parser.finish(text.finish() if told else "")
    assert simplified(parser.parts) == parts
    check_events(parser, events)


@pytest.mark.parametrize("name", OUTPUTS)
def test_as_text_cut_anywhere(name):
    output, parts = OUTPUTS[name]
    rng = random.Random(0)
    for size in (1, 2, 3, 5, 1000, 0, 0, 0):
        parser, events, at = ReplyParser(), [], 0
        while at < len(output):
            step = size or rng.randrange(1, 9)
            events += parser.feed_text(output[at : at + step])
            at += step
        events += parser.finish()
        assert simplified(parser.parts) == parts
        check_events(parser, events)


@pytest.mark.parametrize("name", [n for n in OUTPUTS if n != "almost markers"])
def test_markers_spelled_with_ordinary_tokens_are_text(tokenizer, name):
    output = OUTPUTS[name][0]
    parser = ReplyParser(tokenizer)
    for id in tokenizer.encode(output):
        parser.feed(id)
    parser.finish()
    assert parser.parts == [Text(output)]


def test_a_channel_the_prompt_left_open(tokenizer):
    parser = ReplyParser(tokenizer, thinking_open=True)
    for id in tokenizer.encode("thought\nmore\n<channel|>done", allow_special=True):
        parser.feed(id)
    parser.finish()
    assert parser.parts == [Thinking("thought\nmore"), Text("done")]


def test_a_call_cut_off_is_no_call(tokenizer):
    parser = ReplyParser(tokenizer)
    ids = tokenizer.encode("Hm." + CALL, allow_special=True)[:-3]
    events = [e for id in ids for e in parser.feed(id)] + parser.finish(complete=False)
    assert parser.parts == [Text("Hm.")]
    assert "".join(e.text for e in events if isinstance(e, ToolCallDelta)).startswith("call:f{a")


def test_a_broken_call_is_reported_with_its_name(tokenizer):
    parser = ReplyParser(tokenizer)
    for id in tokenizer.encode("<|tool_call>call:g{a 1}<tool_call|>", allow_special=True):
        parser.feed(id)
    (call,) = parser.calls
    assert call.name == "g"
    assert "':' after 'a 1'" in call.error


@pytest.mark.parametrize("script", SENTENCES)
def test_no_delta_ends_inside_a_character(tokenizer, script):
    text = SENTENCES[script].replace("▁", " ")
    output = f"<|channel>thought\n{text}\n<channel|>{text}<turn|>"
    parser = ReplyParser(tokenizer)
    events = [e for id in tokenizer.encode(output, allow_special=True) for e in parser.feed(id)]
    assert (parser.thinking, parser.text) == (text, text)
    check_events(parser, events)
    whole = characters(text)
    for kind in (TextDelta, ThinkingDelta):
        deltas = [e.text for e in events if isinstance(e, kind)]
        assert [c for d in deltas for c in characters(d)] == whole


def test_the_declaration_of_human_rights(tokenizer):
    for language, (_, text) in udhr.articles().items():
        parser = ReplyParser(tokenizer)
        events = [e for id in tokenizer.encode(text) for e in parser.feed(id)] + parser.finish()
        assert parser.text == text, language
        assert "".join(e.text for e in events) == text, language
        assert "\ufffd" not in parser.text, language


def test_ids_need_a_tokenizer():
    with pytest.raises(ChatError, match="call feed_text"):
        ReplyParser().feed(5)
