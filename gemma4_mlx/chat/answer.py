"""One answer of a chat: from what is said to the events and the message of the reply."""

import threading
from collections.abc import Callable, Iterator

from ..generation.caches import PromptCache
from ..generation.engine import Job, engine
from ..generation.guides import ThinkingBudget
from ..generation.stopping import AnswerText
from ..generation.stream import stream
from .events import Done
from .exclusive import Itself
from .messages import Message
from .prompting import (
    answer_constraint,
    answer_options,
    check_can_be_answered,
    checked_thinking,
    continued,
    user_message,
)
from .turn import ChatEvent, Turn


def answer(
    chat, itself: Itself, history: list[Message] | None, said: tuple, *, schema=None,
    thinking=None, require_tool=False, or_calls=False, alternatives=0, begin=(), cancel=None,
    **sampling,
) -> Iterator[ChatEvent | Done]:  # fmt: skip
    """The generator of ``Chat.stream``, which explains the arguments. An interrupt may end it on
    any line; what it has begun is then undone before the next answer begins.

    Args:
        chat: the chat that answers.
        itself: a weak reference to this generator, see :mod:`.exclusive`.
        history: replaces the chat's messages once the answer begins; None: they stay.
        said: text, images, audio and videos of the user's message.
    """
    thinking = chat.thinking if thinking is None else checked_thinking(thinking)
    options = answer_options(chat.model, chat.options, sampling)
    constraint = answer_constraint(
        chat.model.tokenizer, chat.tools, schema,
        thinking=bool(thinking), strict=chat.strict_tools, require=require_tool,
        or_calls=or_calls,
    )  # fmt: skip
    message = user_message(*said)
    chat._answering.begin(itself)
    messages = list(chat.messages if history is None else history)
    messages += [] if message is None else [message]
    check_can_be_answered(messages)
    inputs = chat._prompting.inputs(messages, chat.tools, thinking, True)
    turn = Turn(chat._prompting.parser(inputs), constraint, wants_value=schema is not None)
    text = AnswerText(chat.model.tokenizer, options.stop, inputs.tokens)
    inputs = continued(inputs, begin)
    begun = [(id, text.begin(id)) for id in begin]
    guides = []
    if thinking and thinking is not True:
        guides.append(ThinkingBudget(chat.model.tokenizer, int(thinking)))
    before, chat._cancel = list(chat.messages), cancel or threading.Event()
    jobs: list[Job] = []
    chat._answering.undo_if_abandoned(_undoing(chat, before, messages, chat._cancel, jobs))
    how = {"options": options, "constraint": constraint, "guides": guides, "text": text}
    how["alternatives"] = alternatives
    # One statement, so that no interrupt leaves a submitted job that undo() does not know.
    jobs.append(engine().submit(_generate, chat, inputs, how, cancel=chat._cancel))
    chat.messages[:] = messages
    try:
        for id, words in begun:
            yield from turn.begin(id, words)
        for event in jobs[0].events():
            yield from turn.take(event)
    except (KeyboardInterrupt, GeneratorExit):
        jobs[0].cancel()
        _keep_what_was_said(chat, turn, before)
        raise
    except BaseException:
        chat.messages[:] = before
        raise
    reply_message = turn.message(keep_calls=turn.stats.reason != "cancelled")
    chat.messages.append(reply_message)
    reply = turn.reply(reply_message)
    chat._answering.end(itself)
    yield Done(reply)


def _undoing(
    chat, before: list[Message], asked: list[Message], cancel: threading.Event, jobs: list[Job]
) -> Callable[[], None]:
    """A function that undoes an abandoned answer: it stops the model and removes the user's
    message if no answer follows it."""

    def undo() -> None:
        cancel.set()
        for job in jobs:
            job.wait()
        now = chat.messages
        if len(now) == len(asked) and all(a is b for a, b in zip(now, asked)):
            now[:] = before

    return undo


def _generate(chat, inputs, how: dict, *, cancel):
    """Runs on the engine."""
    chat._features.keep(chat._media.keys())
    if chat.cache is None:
        chat.cache = PromptCache.sharing(
            chat.model, inputs, kv_bits=chat.kv_bits, snapshot_bytes=chat.snapshot_bytes
        )
    yield from stream(
        chat.model, inputs, cache=chat.cache, cancel=cancel, media_features=chat._features,
        beyond_context=chat.beyond_context, **how,
    )  # fmt: skip


def _keep_what_was_said(chat, turn: Turn, before: list[Message]) -> None:
    for _ in turn.close(complete=False):
        pass
    message = turn.message(keep_calls=False)
    if message.text or message.thinking:
        chat.messages.append(message)
    else:
        chat.messages[:] = before
