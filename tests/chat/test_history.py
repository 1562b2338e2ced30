"""Conversations as files."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image as PILImage
from sentences import SENTENCES

from gemma4_mlx.chat import (
    Audio,
    Chat,
    Image,
    Message,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Video,
)
from gemma4_mlx.chat.history import write_atomically
from gemma4_mlx.errors import ChatError

WORDS = "\n".join(SENTENCES.values()) + "<turn|>"


def messages(*media):
    call = ToolCall("c0", "f", {"a": [1, None, {"b": 'x<|"|>'}], "c": 0.5})
    return [
        Message("system", (Text("Be brief."),)),
        Message("user", (*media, Text(WORDS))),
        Message(
            "assistant", (Thinking("hm\n"), Text("Wait."), call, ToolCall("c1", "g", {}, "bad"))
        ),
        Message("tool", (ToolResult("c0", "f", {"x": [1, 2]}), ToolResult("c1", "g", error="bad"))),
        Message("assistant", (Text(WORDS),)),
    ]


def picture(path):
    PILImage.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).save(path)
    return path


def test_everything_comes_back(actor, tmp_path):
    chat = Chat(actor, messages=messages(), thinking=5)
    chat.save(tmp_path / "new folder" / "chat.json")
    again = Chat.load(tmp_path / "new folder" / "chat.json", actor)
    assert again.messages == chat.messages
    assert again.thinking == 5
    assert again.rendered().text == chat.rendered().text
    assert Chat.load(tmp_path / "new folder" / "chat.json", actor, thinking=False).thinking is False


def test_an_open_file_that_was_read_is_saved_whole(actor, tmp_path):
    raw = picture(tmp_path / "cat.png").read_bytes()
    source = io.BytesIO(raw)
    assert source.read() == raw
    Chat(actor, messages=messages(Image(source))).save(tmp_path / "chat.json")
    again = Chat.load(tmp_path / "chat.json", actor)
    parts = [part for message in again.messages for part in message.parts]
    assert [part.source for part in parts if isinstance(part, Image)] == [raw]


def test_media_are_embedded_or_referred_to(actor, tmp_path):
    file = picture(tmp_path / "cat.png")
    parts = (
        Image(file, budget=70),
        Image(PILImage.open(file)),
        Image(np.zeros((48, 48, 3), np.uint8), name="black"),
        Image(file.read_bytes()),
        Image("https://example.org/cat.png"),
        Audio(np.zeros(16000, np.float32), rate=16000),
        Video(np.zeros((2, 48, 48, 3), np.uint8), frames=2, fps=1),
    )
    chat = Chat(actor, messages=messages(*parts))
    chat.save(tmp_path / "whole.json")
    chat.save(tmp_path / "light.json", media="reference")
    light = json.loads((tmp_path / "light.json").read_text())["messages"][1]["parts"]
    assert light[0] == {"type": "image", "budget": 70, "path": str(file)}
    assert light[4] == {"type": "image", "url": "https://example.org/cat.png"}

    for name in ("whole.json", "light.json"):
        loaded = Chat.load(tmp_path / name, actor, addresses=True).messages[1].parts
        for ours, theirs in zip(parts, loaded):
            assert (type(ours), ours.options) == (type(theirs), theirs.options)
        assert loaded[2].name == "black"
        from gemma4_mlx.processing.image import load_image

        for a, b in zip(parts[:4], loaded[:4]):
            assert load_image(a.source).key == load_image(b.source).key
        assert np.array_equal(loaded[5].source, parts[5].source)
        assert np.array_equal(loaded[6].source, parts[6].source)

    file.unlink()
    assert Chat.load(tmp_path / "whole.json", actor, addresses=True)
    with pytest.warns(UserWarning, match=r"message 1, part 0: the image .*cat\.png is gone"):
        Chat.load(tmp_path / "light.json", actor, addresses=True)
    with pytest.raises(ChatError, match="cannot be embedded"):
        chat.save(tmp_path / "late.json")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGBA", "L", "P"])
def test_a_picture_in_any_mode(actor, tmp_path, mode):
    from gemma4_mlx.processing.image import load_image

    image = PILImage.open(picture(tmp_path / "cat.png")).convert(mode)
    Chat(actor, messages=messages(Image(image))).save(tmp_path / "c.json")
    loaded = Chat.load(tmp_path / "c.json", actor).messages[1].parts[0]
    assert load_image(image).key == load_image(loaded.source).key


def test_a_video_of_single_pictures(actor, tmp_path):
    from gemma4_mlx.processing.video import load_video

    file = picture(tmp_path / "cat.png")
    frames = [PILImage.new("RGB", (96, 48)), str(file), np.zeros((48, 48, 3), np.uint8)]
    Chat(actor, messages=messages(Video(frames, fps=2))).save(tmp_path / "c.json")
    expected = [frame.key for frame in load_video(frames, fps=2).frames]
    file.unlink()
    loaded = Chat.load(tmp_path / "c.json", actor).messages[1].parts[0]
    assert [frame.key for frame in load_video(loaded.source, fps=2).frames] == expected


def test_pictures_that_cannot_be_embedded(actor, tmp_path):
    file = picture(tmp_path / "cat.png")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    chat = Chat(actor, messages=messages(Image(PILImage.open(file), name="half a cat")))
    with pytest.raises(ChatError, match="the image half a cat cannot be embedded"):
        chat.save(tmp_path / "c.json")


def test_tool_results_keep_their_pictures(actor, tmp_path):
    file = picture(tmp_path / "cat.png")
    result = ToolResult("c0", "f", "ok", media=(Image(file),), denied=False)
    history = [
        Message("user", (Text("draw"),)),
        Message("assistant", (ToolCall("c0", "f", {}),)),
        Message("tool", (result,)),
    ]
    Chat(actor, messages=history).save(tmp_path / "c.json", media="reference")
    loaded = Chat.load(tmp_path / "c.json", actor).messages[2].parts[0]
    assert [m.source for m in loaded.media] == [str(file)]


def test_refused_calls_stay_refused(actor, tmp_path):
    results = (ToolResult("c0", "f", error="no", denied=True), ToolResult("c1", "f", error="bad"))
    history = [
        Message("user", (Text("draw"),)),
        Message("assistant", (ToolCall("c0", "f", {}), ToolCall("c1", "f", {}))),
        Message("tool", results),
    ]
    Chat(actor, messages=history).save(tmp_path / "c.json")
    loaded = Chat.load(tmp_path / "c.json", actor).messages[2].parts
    assert [part.denied for part in loaded] == [True, False] and loaded == results


def test_an_interrupted_save_harms_nothing(tmp_path, monkeypatch, actor):
    chat = Chat(actor, messages=messages())
    chat.save(tmp_path / "c.json")
    before = (tmp_path / "c.json").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "c.json", b"half")
    assert (tmp_path / "c.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "content, words",
    [
        ("not json", "is not a saved conversation"),
        ("{}", "not a conversation saved by"),
        ('{"format": "gemma4-mlx chat", "version": 99}', "has version 99"),
        ("PARTS:[{}]", "message 0 is damaged"),
        ('PARTS:[{"type": "smell"}]', "unknown part 'smell'"),
        ('PARTS:[{"type": "image", "name": 5}]', "name of the image is a int"),
        ('PARTS:[{"type": "thinking", "text": "x"}]', "cannot hold a Thinking"),
    ],
)
def test_damaged_files(actor, tmp_path, content, words):
    if content.startswith("PARTS:"):
        content = (
            '{"format": "gemma4-mlx chat", "version": 1, "messages": [{"role": "user", "parts": '
            + content.removeprefix("PARTS:")
            + "}]}"
        )
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ChatError, match=words):
        Chat.load(tmp_path / "c.json", actor)


def test_files_that_cannot_be(actor, tmp_path):
    with pytest.raises(ChatError, match="cannot be read"):
        Chat.load(tmp_path / "nothing.json", actor)
    (tmp_path / "file").write_text("")
    with pytest.raises(ChatError, match="cannot be written"):
        Chat(actor).save(tmp_path / "file" / "c.json")
    with pytest.raises(ChatError, match="'embed' or 'reference'"):
        Chat(actor).save(tmp_path / "c.json", media="no")
    odd = ToolResult("c0", "f", object())
    history = [
        Message("user", (Text("x"),)),
        Message("assistant", (ToolCall("c0", "f"),)),
        Message("tool", (odd,)),
    ]
    with pytest.raises(ChatError, match="cannot be written as JSON"):
        Chat(actor, messages=history).save(tmp_path / "c.json")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.update(messages=5), "no list of messages"),
        (lambda c: c.pop("messages"), "no list of messages"),
        (lambda c: c["messages"][2]["parts"][2].update(id=[]), "message 2 is damaged"),
        (lambda c: c["messages"][2]["parts"][2].update(id=0.5), "message 2 is damaged"),
        (lambda c: c["messages"][3]["parts"][0].update(id={}), "message 3 is damaged"),
        (lambda c: c["messages"][2]["parts"][2].update(name=None), "message 2 is damaged"),
    ],
)
def test_damage_that_fuzzing_found(actor, tmp_path, change, words):
    file = tmp_path / "c.json"
    Chat(actor, messages=messages()).save(file)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ChatError, match=words):
        Chat.load(file, actor)


def test_a_file_nested_without_end(actor, tmp_path):
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(ChatError, match="not a saved conversation"):
        Chat.load(tmp_path / "c.json", actor)
