"""An exception on any line of a turn leaves a conversation that can be gone on with."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest
from waiting import PATIENCE

from gemma4_mlx.chat import Chat, TextDelta
from gemma4_mlx.chat import answer as answer_module
from gemma4_mlx.chat import chat as chat_module
from gemma4_mlx.chat import exclusive as exclusive_module
from gemma4_mlx.chat.messages import check_history
from gemma4_mlx.errors import ChatError
from gemma4_mlx.generation import engine

FILES = {m.__file__ for m in (answer_module, chat_module, exclusive_module)}


class Injected(BaseException):
    pass


class Injector:
    """Raises on the ``at``-th line of the conversation's own code, once."""

    def __init__(self, at, error):
        self.at, self.error, self.count, self.where = at, error, 0, None

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and self.where is None:
            self.count += 1
            if self.count > self.at:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise self.error
        return self._trace

    def __enter__(self):
        self._before = sys.gettrace()  # coverage, perhaps
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)


def acts():
    return {
        "send": lambda chat: chat.send("and you?"),
        "stream": lambda chat: [*chat.stream("and you?")],
        "leave": lambda chat: next(iter(chat.stream("and you?"))),
        "edit": lambda chat: chat.edit(1, "changed"),
        "regenerate": lambda chat: chat.regenerate(),
        "undo": lambda chat: chat.undo(),
        "run": lambda chat: chat.run("and you?"),
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [KeyboardInterrupt, Injected, RuntimeError])
@pytest.mark.parametrize("act", acts())
def test_an_exception_on_any_line_leaves_a_usable_chat(actor, script, act, error):
    places = set()
    for at in range(10_000):
        script.replies = ["Hello.<turn|>", "I am well.<turn|>"]
        chat = Chat(actor, system="Be brief.")
        chat.send("Hi")
        injector = Injector(at, error)
        try:
            with injector:
                acts()[act](chat)
        except error as raised:
            kept = raised  # a notebook keeps the last exception, and its frames with it
        else:
            kept = None
        if injector.where is None:
            break
        assert injector.where not in places or at > 0
        places.add(injector.where)
        script.replies = ["Still here.<turn|>"] * 3  # a model left alone may take one
        if chat.messages and chat.messages[-1].role == "user":
            with_answer = chat.messages[:-1]
        else:
            with_answer = chat.messages
        check_history(with_answer)
        assert chat.send("go on").text == "Still here.", injector.where
        check_history(chat.messages)
        del kept
    assert len(places) > 5


def test_a_loop_that_an_exception_left_and_a_notebook_keeps(actor, script):
    """The cell's frame holds the generator: stop() frees the conversation."""
    script.replies = ["One two three.<turn|>", "Still here.<turn|>"]
    chat = Chat(actor)
    events = chat.stream("Hi")
    while not isinstance(next(events), TextDelta):
        pass
    with pytest.raises(ChatError, match=r"call chat\.stop\(\)"):
        chat.send("go on")
    chat.stop()
    assert chat.send("go on").text == "Still here."
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert list(events) == []


def test_an_abandoned_answer_has_ended_when_it_is_undone():
    """The model finishes the step that it is in, and until then works on the chat's cache."""
    going, cancel, ended = threading.Event(), threading.Event(), []

    def answering():
        while not cancel.wait(0.01):
            going.set()
            yield
        time.sleep(0.1)
        ended.append(True)

    job = engine().submit(answering)
    assert going.wait(PATIENCE)
    chat = SimpleNamespace(messages=["asked"])
    answer_module._undoing(chat, [], chat.messages[:], cancel, [job])()
    assert ended and chat.messages == []
