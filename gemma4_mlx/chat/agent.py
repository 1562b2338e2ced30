"""The agent loop: answer, call tools, read their results, answer again.

Every step is an event. The calls of one turn run at the same time, each in a thread of its own.
Whatever a tool does (raise, hang, return a picture), the loop goes on, and every call in the
history has a result, so that the conversation can be continued.
"""

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ChatError, MediaError
from .approval import Approve, refusal
from .events import Done, Reply, Step
from .messages import Message, ToolCall, ToolResult, pending_calls
from .results import plain_text, words_of
from .tools import call_tool

#: Calls of a turn that run at the same time; further ones wait.
_AT_ONCE = 32


def run_steps(
    chat,
    message: tuple,
    *,
    max_steps: int,
    timeout: float | None,
    approve: Approve | None,
    how: Mapping[str, Any],
) -> Iterator[Any]:
    """The generator of ``Chat.run_stream``, which explains the arguments.

    Raises ChatError for ``max_steps`` below 1, for a ``timeout`` that is not above 0, and for an
    ``approve`` that cannot be called.
    """
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ChatError(f"max_steps must be at least 1, not {max_steps!r}.")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ChatError(f"timeout must be a number of seconds above 0, or None, not {timeout!r}.")
    if approve is not None and not callable(approve):
        raise ChatError(f"approve must be a function that is asked about a call, not {approve!r}.")
    cancel = how.get("cancel") or threading.Event()
    how = {**how, "cancel": cancel}
    steps: list[Reply] = []
    waiting = pending_calls(chat.messages)
    if waiting and message[0] is None:
        yield from _run_calls(chat, waiting, timeout, approve, cancel)
    for number in range(1, max_steps + 1):
        yield Step(number, max_steps)
        if how.get("schema") is not None:  # the last step must answer
            how["or_calls"] = bool(chat.tools) and number < max_steps
        reply = None
        for event in chat.stream(*(message if number == 1 else ()), **how):
            if isinstance(event, Done):
                reply = event.reply
            else:
                yield event
        steps.append(reply)
        if not pending_calls(chat.messages):
            yield Done(replace(reply, steps=tuple(steps)))
            return
        how["require_tool"] = False
        how.pop("begin", None)
        if number == max_steps:
            limit = f"not run: the limit of {max_steps} steps is reached"
            _answer(chat, reply.tool_calls, {}, limit)
            yield from chat.messages[-1].parts
            yield Done(replace(reply, steps=tuple(steps), finish_reason="step_limit"))
            return
        yield from _run_calls(chat, reply.tool_calls, timeout, approve, cancel)
        if cancel.is_set():
            yield Done(replace(reply, steps=tuple(steps), finish_reason="cancelled"))
            return


def _run_calls(
    chat, calls: tuple[ToolCall, ...], timeout: float | None, approve: Approve | None, cancel
) -> Iterator[ToolResult]:
    """Run the calls of one turn at the same time, yield the results as they come, then add the
    tool message. An interrupted call gets an error as its result, so that every call has one."""
    results: dict[str, ToolResult] = {}
    at_once = threading.Semaphore(_AT_ONCE)
    finished: queue.SimpleQueue[ToolResult] = queue.SimpleQueue()
    try:
        running = 0
        for call in calls:
            reason = None if call.error is not None else refusal(approve, call, chat.tools)
            if reason is not None:
                results[call.id] = ToolResult(call.id, call.name, error=reason, denied=True)
                yield results[call.id]
                continue

            def work(call=call):
                try:
                    with at_once:
                        result = call_tool(
                            call, chat.tools, timeout=timeout, cancelled=cancel.is_set
                        )
                    for medium in result.media:  # a broken one would fail in every later turn
                        chat._media.load(medium)
                except MediaError as error:
                    problem = f"what the tool returned cannot be shown to the model: {error}"
                    result = ToolResult(call.id, call.name, error=plain_text(problem))
                except BaseException as error:  # the loop below waits for a result
                    result = ToolResult(call.id, call.name, error=words_of(error))
                finished.put(result)

            threading.Thread(target=work, name=f"call {call.name}", daemon=True).start()
            running += 1
        while running:
            try:
                result = finished.get(timeout=0.1)  # short, so that Ctrl-C is handled
            except queue.Empty:
                continue
            running -= 1
            results[result.id] = result
            yield result
    except (KeyboardInterrupt, GeneratorExit):
        cancel.set()
        raise
    finally:
        _answer(chat, calls, results, "interrupted before it was done")


def _answer(
    chat, calls: tuple[ToolCall, ...], results: Mapping[str, ToolResult], otherwise: str
) -> None:
    """Add the tool message, in the order of the calls. ``otherwise`` is the error of those that
    have no result."""
    parts = [
        results.get(call.id) or ToolResult(call.id, call.name, error=otherwise) for call in calls
    ]
    chat.messages.append(Message("tool", tuple(parts)))
