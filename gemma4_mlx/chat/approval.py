"""Whether a call may run.

Functions that the user passed in run when the model calls them. Tools of a server, and unanswered
calls at the end of a loaded conversation, come from somebody else: each of them needs approval, by
the user's ``approve`` function or, without one, by a question at the keyboard.
"""

from collections.abc import Callable, Mapping

from .messages import ToolCall
from .results import plain_text
from .tools import Tool

#: Called before a call runs. True lets it run; False, or a reason in words, does not.
Approve = Callable[[ToolCall], bool | str]


def must_be_asked(call: ToolCall, tools: Mapping[str, Tool]) -> bool:
    """Whether a call runs only if somebody approves of it."""
    tool = tools.get(call.name)
    return tool is not None and (tool.asks or call.loaded)


def refusal(approve: Approve | None, call: ToolCall, tools: Mapping[str, Tool]) -> str | None:
    """Why the call must not run, None if it may."""
    if approve is None:
        if not must_be_asked(call, tools):
            return None
        approve = ask
    answer = approve(call)
    if answer is True:
        return None
    return answer if isinstance(answer, str) and answer else "the user did not allow this call"


def ask(call: ToolCall) -> bool | str:
    """Ask at the keyboard, in a terminal or below a notebook's cell. Only "y" or "yes" allows."""
    shown = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    shown = "".join(c if c.isprintable() else "\ufffd" for c in plain_text(shown, 2000))
    try:
        answer = input(f"Allow the call {call.name}({shown})? [y/N] ")
    except (EOFError, OSError, RuntimeError):  # there is no keyboard
        return "nobody could be asked whether this call may run (approve= says who decides)"
    return answer.strip().lower() in ("y", "yes")
