"""The Prompt widget's Python side, on the teaching model, without a browser."""

import base64
import io
import json
import random
import tempfile
import time
import wave

import numpy as np
import pytest
from PIL import Image
from waiting import PATIENCE, until

import gemma4_mlx as g4
from gemma4_mlx.chat import Message, Text, TextDelta, ToolCall, ToolResult
from gemma4_mlx.errors import ChatError
from gemma4_mlx.generation import SamplingOptions
from gemma4_mlx.widgets import Prompt
from gemma4_mlx.widgets.branches import Branches
from gemma4_mlx.widgets.live_turn import LiveTurn, utf16_length
from gemma4_mlx.widgets.still import wrap

# Suppressing the stop tokens makes an answer that does not end by itself.
ENDLESS = SamplingOptions(temperature=0.8, seed=3, max_tokens=2000, suppress_tokens=(1, 50, 106))


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture
def prompt(model):
    """A widget whose messages to the view are kept in ``prompt.told``."""
    widget = Prompt(g4.Chat(model, options=SamplingOptions(temperature=0, max_tokens=12)))
    widget.told = []
    widget.send = lambda content, buffers=None: widget.told.append(content)
    yield widget
    widget.stop()
    widget.wait(PATIENCE)


def ask(prompt, type, **arguments):
    reply, buffers = prompt.answer({"type": type, **arguments})
    assert "error" not in reply, reply
    return (reply["content"], buffers[0]) if buffers else reply["content"]


def say(prompt, text, **more):
    ask(prompt, "send", text=text, **more)
    assert prompt.wait(PATIENCE)


def wav(seconds: float) -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.zeros(int(8000 * seconds), "<i2").tobytes())
    return sound.getvalue()


def png(size: tuple[int, int]) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", size).save(picture, "PNG")
    return picture.getvalue()


def text_of(turn):
    return "".join(p["text"] for p in turn["parts"] if p["kind"] == "text")


def test_a_turn_streams_and_ends_as_the_chat_has_it(prompt, monkeypatch):
    run_stream = prompt.chat.run_stream

    def until_told(*given, **how):
        """The answer goes on when some of it has been told, however late that is."""
        for event in run_stream(*given, **how):
            yield event
            if isinstance(event, TextDelta):
                until(lambda: any(i["kind"] == "delta" for m in prompt.told for i in m["push"]))

    monkeypatch.setattr(prompt.chat, "run_stream", until_told)
    say(prompt, "Hello")
    assert [t["role"] for t in prompt.turns] == ["user", "assistant"] and not prompt.busy
    assert text_of(prompt.turns[0]) == "Hello"
    assert text_of(prompt.turns[1]) == prompt.chat.messages[-1].text
    told = [item for m in prompt.told for item in m["push"]]
    text = ""
    for item in told:
        if item["kind"] == "delta":
            assert item["at"] == utf16_length(text)
            text += item["text"]
    assert text and prompt.chat.messages[-1].text.startswith(text)  # the turn itself has the rest
    stats = prompt.stats
    assert stats["used"] > 12 and stats["context"] and stats["memory"] and stats["first_token"] > 0
    json.dumps(prompt.get_state(["turns", "about", "options", "stats"]))


def test_the_numbers_say_why_little_was_reused(prompt):
    say(prompt, "Hello")
    assert (prompt.stats["reused"], prompt.stats["reuse_note"]) == (0, "")
    prompt.chat.messages[0] = Message("user", Text("Count from 3 to 9, and again, in French."))
    say(prompt, "Hello")
    assert prompt.stats["reused"] < prompt.stats["prompt"] / 2
    assert "differs from token" in prompt.stats["reuse_note"]


def get_weather(city: str) -> dict:
    """Get the current weather for a city.

    Args:
        city: City name
    """
    return {"sky": "sunny", "temperature": 21}


def test_an_answer_inside_the_thought_is_shown_and_marked(model):
    never_closed = SamplingOptions(
        max_tokens=40, suppress_tokens=(model.tokenizer.id("<channel|>"),)
    )
    chat = g4.Chat(model, tools=[get_weather], thinking=True, options=never_closed)
    prompt = Prompt(chat, approve=False)
    prompt.send = lambda content, buffers=None: None
    say(prompt, "What is the weather in Paris?")
    turn = prompt.turns[-1]
    assert [part["kind"] for part in turn["parts"]] == ["tool_call", "text"]
    assert text_of(turn) == chat.messages[-1].text and "21" in text_of(turn)
    assert turn["status"] == "thought"


def test_it_tells_at_most_thirty_times_a_second_and_stops_within_a_token(model):
    prompt = Prompt(g4.Chat(model, options=ENDLESS))
    told = []
    prompt.send = lambda content, buffers=None: told.append(content)
    begin = time.perf_counter()
    prompt.say("Hello")
    time.sleep(1.2)
    until(lambda: len(told) > 3)
    assert prompt.busy
    clicked = time.perf_counter()
    prompt._on_message(prompt, {"type": "stop"}, [])
    assert prompt.wait(PATIENCE)
    end = time.perf_counter()
    print(f"stopped {1000 * (end - clicked):.0f} ms after the message")
    assert len(told) <= 30 * (end - begin) + 3
    assert prompt.turns[-1]["status"] == "stopped"
    assert len(prompt.chat.messages) == 2


def test_sending_while_it_answers_is_refused_and_nothing_breaks(model):
    prompt = Prompt(g4.Chat(model, options=ENDLESS))
    prompt.say("Hello")
    reply, _ = prompt.answer({"type": "send", "text": "again"})
    assert "still answering" in reply["error"]
    for type in ("edit", "regenerate", "branch"):
        reply, _ = prompt.answer({"type": type, "turn": 0, "text": "x", "branch": 0})
        assert "error" in reply
    prompt.stop()
    assert prompt.wait(PATIENCE) and len(prompt.turns) == 2


def test_edit_regenerate_and_versions(prompt):
    say(prompt, "Hello")
    say(prompt, "What is 3 + 4?")
    first_answer = text_of(prompt.turns[3])
    ask(prompt, "edit", turn=2, text="What is 5 + 5?")
    assert prompt.wait(PATIENCE)
    assert text_of(prompt.turns[2]) == "What is 5 + 5?"
    assert (prompt.turns[2]["branch"], prompt.turns[2]["branches"]) == (1, 2)
    ask(prompt, "regenerate", turn=3)
    assert prompt.wait(PATIENCE) and prompt.turns[3]["branches"] == 2
    ask(prompt, "branch", turn=2, branch=0)
    assert text_of(prompt.turns[2]) == "What is 3 + 4?" and text_of(prompt.turns[3]) == first_answer
    assert prompt.turns[3]["branches"] == 1
    ask(prompt, "branch", turn=2, branch=1)
    assert prompt.turns[3]["branches"] == 2, "the versions further on come back with theirs"
    ask(prompt, "edit", turn=1, text="Other words of the model")
    assert text_of(prompt.turns[1]) == "Other words of the model" and len(prompt.turns) == 2
    assert prompt.chat.messages[-1].text == "Other words of the model"


def test_tokens_and_going_on_from_an_alternative(prompt):
    say(prompt, "Hello")
    tokens = ask(prompt, "tokens", turn=1)
    assert len(tokens) == prompt.turns[1]["tokens"] > 5
    _, probability, alternatives = tokens[2]
    assert 0 < probability <= 1 and len(alternatives) == 5
    assert alternatives[0][0] == prompt._view.tokens_of(1)[2].id, "greedy takes the likeliest"
    chosen = alternatives[1]
    ask(prompt, "continue_from", turn=1, token=2, alternative=chosen[0])
    assert prompt.wait(PATIENCE) and not prompt.error
    again = ask(prompt, "tokens", turn=1)
    assert [t[0] for t in again[:2]] == [t[0] for t in tokens[:2]] and again[2][0] == chosen[1]
    assert prompt.turns[1]["branches"] == 2
    # The same answer as if the model had been given those tokens: its text begins with theirs.
    joined = "".join(t[0] for t in again[:3])
    assert text_of(prompt.turns[1]).startswith(joined.strip()[:3])
    ask(prompt, "branch", turn=1, branch=0)
    assert ask(prompt, "tokens", turn=1) == tokens


def test_a_failure_is_shown_and_leaves_the_conversation_as_it_was(prompt):
    say(prompt, "Hello")
    before = list(prompt.chat.messages)
    prompt.options = prompt.options | {"temperature": -1}
    ask(prompt, "regenerate", turn=1)
    assert prompt.wait(PATIENCE)
    assert "temperature" in prompt.error
    assert prompt.chat.messages == before and prompt.turns[1]["branches"] == 1
    prompt.options = prompt.options | {"temperature": 0}
    say(prompt, "Hello again")
    assert prompt.error == "" and len(prompt.turns) == 4


def test_pictures_and_sounds_show_their_cost(prompt):
    files = {"a/<b>.png": ("image/png", png((96, 64))), "tone.wav": ("audio/wav", wav(0.5))}
    keys = []
    for name, (mime, data) in files.items():
        half = len(data) // 2
        for i, piece in enumerate((data[:half], data[half:])):
            arguments = {"upload": name, "name": name, "mime": mime, "part": i, "parts": 2}
            reply, _ = prompt.answer({"type": "attach", **arguments}, [memoryview(piece)])
            assert "error" not in reply, reply
        keys.append(reply["content"]["key"])
        assert reply["content"]["tokens"] > 0
    say(prompt, "What is this?", attachments=keys)
    kinds = [p["kind"] for p in prompt.turns[0]["parts"]]
    assert kinds == ["image", "text", "audio"] and not prompt.error
    image, _, audio = prompt.turns[0]["parts"]
    assert image["label"] == "<b>.png" and (image["width"], image["height"]) == (96, 64)
    assert image["thumb"].startswith("data:image/jpeg;base64,") and audio["seconds"] == 0.5
    about, data = ask(prompt, "media", key=audio["key"])
    assert about["mime"] == "audio/wav" and data[:4] == b"RIFF" and len(data) > 1000
    reply, _ = prompt.answer(
        {"type": "attach", "upload": "x", "name": "x.png", "mime": "image/png", "part": 0,
         "parts": 1}, [b"no picture"])  # fmt: skip
    assert "error" in reply
    ask(prompt, "edit", turn=0, text="And now?")
    assert prompt.wait(PATIENCE)
    assert [p["kind"] for p in prompt.turns[0]["parts"]] == ["image", "text", "audio"]


def test_save_load_and_new(prompt):
    say(prompt, "Hello")
    saved = ask(prompt, "export", format="json")[1].decode()
    ask(prompt, "new")
    assert prompt.turns == [] and prompt.chat.messages == []
    ask(prompt, "load", text=saved)
    assert text_of(prompt.turns[0]) == "Hello" and len(prompt.turns) == 2
    assert "error" in prompt.answer({"type": "load", "text": "{}"})[0]
    assert len(prompt.turns) == 2


def test_a_cell_run_again_takes_the_chat_over(model):
    chat = g4.Chat(model, options=ENDLESS)
    old = Prompt(chat)
    old.say("Hello")
    new = Prompt(chat)
    assert not old.busy and len(new.turns) == 2
    assert new.turns[1]["tokens"] == old.turns[1]["tokens"]


def test_two_widgets_on_one_model_answer_both(model):
    both = [Prompt(g4.Chat(model, options={"max_tokens": 8})) for _ in range(2)]
    for i, prompt in enumerate(both):
        prompt.say(f"Hello {i}")
    for prompt in both:
        assert prompt.wait(PATIENCE) and len(prompt.chat.messages) == 2 and not prompt.error


def test_the_reader_decides_about_tools(model, monkeypatch):
    """The agent loop's events by hand: what the model writes is not the point here."""
    ran = []

    def remove(path: str) -> str:
        """Remove a file.

        Args:
            path: Which.
        """
        ran.append(path)
        return "gone"

    prompt = Prompt(model, tools=[remove])
    call = ToolCall("c1", "remove", {"path": "/"})

    def run_stream(text, *, approve, cancel, images=(), audio=(), videos=(), **how):
        prompt.chat.messages.append(Message("user", (Text(text),)))
        prompt.chat.messages.append(Message("assistant", (call,)))
        yield call
        answer = approve(call)
        error = None if answer is True else answer
        result = ToolResult("c1", "remove", remove("/") if answer is True else None, error)
        result = ToolResult(**{**result.__dict__, "denied": error is not None})
        prompt.chat.messages.append(Message("tool", (result,)))
        yield result

    def asked():
        parts = prompt.answer_whole()["turns"][-1]["parts"]
        return parts and parts[-1]["status"] == "waiting"

    monkeypatch.setattr(prompt.chat, "run_stream", run_stream)
    for allow, status in ((False, "denied"), (True, "done")):
        prompt.say("Remove it")
        until(asked, "the reader is asked")
        prompt._on_message(prompt, {"type": "approve", "call": "c1", "allow": allow}, [])
        assert prompt.wait(PATIENCE)
        shown = prompt.turns[-1]["parts"][-1]
        assert shown["status"] == status and bool(ran) == allow
    prompt.say("Remove it")
    until(asked, "the reader is asked")
    prompt.stop()
    assert prompt.wait(PATIENCE), "Stop ends the question, too"
    assert len(ran) == 1


def test_offsets_count_like_javascript():
    live = LiveTurn("a1")
    live.write("text", "😀 ")
    assert live.take()[0]["at"] == 0
    live.write("text", "x")
    push = live.take()[0]
    assert push["at"] == 3 and push["text"] == "x" and live.take() == []
    live.write("thinking", "hm")
    live.write("text", "y")
    kinds = [p["kind"] for p in live.turn()["parts"]]
    assert kinds == ["text", "thinking", "text"] and live.turn()["parts"][1]["closed"]


def test_versions_of_a_list():
    messages = [Message("user", (Text(c),)) for c in "abc"]
    branches = Branches(messages)
    a, b, c = messages
    branches.begin(1)
    messages.append(d := Message("user", (Text("d"),)))
    assert branches.versions(1) == (1, 2) and messages == [a, d]
    branches.switch(1, 0)
    assert messages == [a, b, c]
    branches.begin(2)
    branches.give_up(2)
    assert messages == [a, b, c] and branches.versions(2) == (0, 1)
    with pytest.raises(IndexError):
        branches.switch(1, 2)


def test_a_picture_needs_no_words(prompt):
    prompt.say(None, images=Image.new("RGB", (40, 30)))
    assert prompt.wait(PATIENCE)
    assert [part["kind"] for part in prompt.turns[0]["parts"]] == ["image"]
    with pytest.raises(ChatError, match="empty"):
        prompt.say(None)


@pytest.mark.parametrize("words", ["What is this?", "", None])
def test_what_is_shown_on_sending_is_what_stays(prompt, words):
    """The view keeps a part's element, and what plays in it, while its place and kind stay."""
    seen = []
    prompt.observe(lambda change: seen.append(change.new[0]["parts"]), "turns")
    sound = np.sin(np.arange(4000) / 5)
    prompt.say(words, images=Image.new("RGB", (40, 30)), audio=g4.chat.Audio(sound, rate=16_000))
    assert prompt.wait(PATIENCE) and not prompt.error
    assert len(seen) > 1 and all(parts == seen[0] for parts in seen)
    kinds = ["image", "text", "audio"] if words else ["image", "audio"]
    assert [part["kind"] for part in seen[0]] == kinds
    assert ask(prompt, "media", key=seen[0][-1]["key"])[1][:4] == b"RIFF"


def test_unknown_chat_options_are_refused(model):
    with pytest.raises(ChatError, match="system"):
        Prompt(g4.Chat(model), system="x")


def test_a_snapshot_and_its_picture(prompt):
    say(prompt, "Hello")
    page = prompt.snapshot().page
    assert "globalThis.g4Widget" in page and "tokens" in page
    assert prompt.snapshot_image().width > 700
    assert ask(prompt, "export", format="png")[1].startswith(b"\x89PNG")
    assert b"Hello" in ask(prompt, "export", format="svg")[1]


@pytest.mark.parametrize("width", [10, 30, 60])
def test_lines_hold_all_that_fits_and_nothing_is_lost(width):
    rng = random.Random(width)
    size = {letter: rng.uniform(1, 9) for letter in "abcdefgh"}
    measured = 0

    def measure(text):
        nonlocal measured
        measured += len(text)
        return sum(size.get(letter, 3) for letter in text)

    for _ in range(200):
        text = "".join(rng.choices("abcdefgh  \n", k=rng.randrange(200)))
        lines = wrap(text, width, measure)
        assert "".join("".join(lines).split()) == "".join(text.split())
        for line in lines:
            assert measure(line) <= width or len(line) == 1
    measured = 0
    wrap("a" * 2000, width, measure)
    short, measured = measured, 0
    wrap("a" * 20_000, width, measure)
    assert measured < 12 * short  # an unbroken word is cut in time that grows with it


def test_a_wrong_conversation_is_refused_and_the_present_one_stays(prompt):
    say(prompt, "hello")
    before, shown = list(prompt.chat.messages), list(prompt.turns)
    good = json.loads(prompt.answer_export("json")[1])

    def changed(**parts):
        return json.dumps(good | parts)

    broken_picture = {"type": "image", "data": base64.b64encode(b"no picture").decode()}
    wrong = {
        "words": "hello",
        "no conversation": "{}",
        "no messages": changed(messages=[]),
        "order": changed(messages=[good["messages"][0]] * 2),
        "version": changed(version=99),
        "picture": changed(messages=[{"role": "user", "parts": [broken_picture]}]),
        "characters": "\ud800",
    }
    for kind, text in wrong.items():
        reply, _ = prompt.answer({"type": "load", "text": text, "name": "notes.json"})
        assert "stays" in reply.get("error", ""), kind
        assert tempfile.gettempdir() not in reply["error"], kind
        assert prompt.chat.messages == before and prompt.turns == shown, kind
    assert prompt.conversation == 0
    ask(prompt, "load", text=json.dumps(good))
    assert prompt.conversation == 1 and len(prompt.turns) == 2


@pytest.mark.parametrize(
    "name, mime, data",
    [
        ("cut.png", "image/png", png((50, 50))[:60]),
        ("no.png", "image/png", b"hello"),
        ("empty.png", "image/png", b""),
        ("bad.mp3", "audio/mpeg", b"garbage" * 50),
        ("bad.mp4", "video/mp4", b"garbage" * 50),
        ("paper.pdf", "application/pdf", b"d"),
        ("long.wav", "audio/wav", wav(65)),
    ],
)
def test_what_is_wrong_with_a_file_is_said_of_the_file(model, name, mime, data):
    prompt = Prompt(model)
    arguments = {"upload": "u", "name": name, "mime": mime, "part": 0, "parts": 1}
    said = prompt.answer({"type": "attach", **arguments}, [data])[0]["error"]
    assert said.startswith(f"MediaError: {name} ")
    for foreign in ("split", "bytes is", "<none>", "Errno", tempfile.gettempdir()):
        assert foreign not in said


def test_a_second_prompt_answers_while_the_first_reads_a_long_text(model):
    alone = Prompt(model)
    alone.options = {"temperature": 0}
    say(alone, "Please count from 3 to 9.")
    first, second = Prompt(model), Prompt(model)
    second.options = {"temperature": 0}
    first.say("The quick brown fox jumps over the lazy dog. " * 800)
    while first.busy and (first._now is None or first._now.progress is None):
        time.sleep(0.01)
    second.say("Please count from 3 to 9.")
    assert second.wait(PATIENCE) and first.busy
    assert second.chat.messages[-1].text == alone.chat.messages[-1].text
    first.stop()
    assert first.wait(PATIENCE)
