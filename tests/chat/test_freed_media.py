"""Pictures and sounds of turns that were dropped are freed, those that can come back are not."""

import gc
import weakref

import numpy as np
import pytest

from gemma4_mlx.chat import Audio, Chat, Image
from gemma4_mlx.widgets.turns import ChatView


def picture(number):
    return Image(np.full((48, 48, 3), number, np.uint8), budget=70)


def sound(number):
    return Audio(np.sin(np.arange(8000) * (number + 1) / 50), rate=16_000)


def said(chat, number):
    """What one turn with a picture and a sound is made of: the parts, and what was read."""
    parts = picture(number), sound(number)
    chat.send("Hm?", images=[parts[0]], audio=[parts[1]], max_tokens=1)
    view = ChatView(chat)
    view.turns()
    loaded = [chat._media.load(part) for part in parts]
    return view, [weakref.ref(thing) for thing in (*parts, *loaded)]


def living(references):
    gc.collect()
    return [r() for r in references if r() is not None]


def undo(chat):
    chat.undo()


def edit(chat):
    """The words of a message before; its own media stay."""
    chat.edit(0, "Hello again", reply=False)


def cut(chat):
    del chat.messages[2:]


@pytest.mark.parametrize("drop", [undo, edit, cut])
def test_media_of_dropped_turns_are_freed(teaching, drop):
    chat = Chat(teaching)
    chat.send("Hello", max_tokens=1)
    view, references = said(chat, 1)
    assert len(living(references)) == 4 and len(chat._features) == 2
    drop(chat)
    assert living(references) == [], "the view is alive still"
    if chat.messages[-1].role == "user":
        chat.send(max_tokens=1)
    chat.send("And now?", max_tokens=1)
    assert len(chat._features) == 0
    view.turns()


def test_what_stays_is_kept(teaching):
    chat = Chat(teaching)
    _, references = said(chat, 1)
    chat.regenerate(max_tokens=1)
    branch = chat.branch()
    assert len(living(references)) == 4 and len(chat._features) == 2
    branch.send("Go on", max_tokens=1)
    chat.undo()
    assert len(living(references)) == 4, "the branch has them"
    branch.undo(), branch.undo()
    assert living(references) == []


def test_a_turn_that_fails_or_is_left_keeps_nothing(teaching):
    chat = Chat(teaching)
    chat.send("Hello", max_tokens=1)
    part = picture(3)
    reference = weakref.ref(part)
    events = chat.stream("Look", images=[part], max_tokens=5)
    next(events)
    events.close()
    del part, events
    assert len(chat.messages) == 2
    chat.send("Well?", max_tokens=1)
    assert living([reference]) == []
