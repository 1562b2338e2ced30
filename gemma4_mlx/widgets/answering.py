"""One answer while it is written: the chat's events in, what to tell the view out.

:meth:`Answering.run` reads the events in the thread of its caller, while the engine's thread runs
the model. Everything else may be called from any thread: :meth:`pushes` by the flusher,
:meth:`stop` and :meth:`decide` by the kernel's callbacks, which only set flags here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..chat import Chat, Done, Step, TextDelta, ThinkingDelta, ToolCall, ToolResult
from ..chat.approval import must_be_asked
from ..generation.events import Progress, Token
from .live_turn import LiveTurn
from .turns import plain

ENDINGS = {  # finish_reason -> status of the turn
    "cancelled": "stopped", "length": "length", "memory": "memory",
}  # fmt: skip


class Answering:
    """Drives one answer of ``chat``.

    Args:
        chat: the conversation.
        id: of the view's turn.
        changed: called whenever there is something to push; must be cheap.
        parts: parts of the turn that stand before the answer.
        begin: tokens that the answer begins with.
        ask: whether the reader is asked before a tool runs.
        how: further arguments of ``Chat.run_stream``.

    Attributes:
        live: the turn as it stands.
        steps: tokens of each generation; an agent's turn has several.
        progress: ``{"done", "total"}`` in prompt tokens while the prompt is read, else None.
        status: "streaming", then "done", "stopped", "length", "memory", "error", or "thought" where
            it answered in its thinking channel.
    """

    def __init__(
        self,
        chat: Chat,
        id: str,
        changed: Callable[[], None],
        *,
        parts: list[dict] = (),
        begin: Sequence[Token] = (),
        ask: bool = True,
        how: dict[str, Any] | None = None,
    ) -> None:
        self.chat, self.live = chat, LiveTurn(id, list(parts))
        self.steps: list[list[Token]] = []
        self.progress: dict | None = None
        self.status = "streaming"
        self._begin, self._ask, self._how = list(begin), ask, how or {}
        self._changed = changed
        self._cancel = threading.Event()
        self._talk = threading.Condition()
        self._allowed: dict[str, bool] = {}  # call id -> what the reader said
        self._told_progress: dict | None = None
        self._finish: Any = None  # generation.Finish of the last step
        self._prompt_tokens = 0
        self._count = 0  # tokens of this step

    # -- any thread -----------------------------------------------------------------------------

    def stop(self) -> None:
        """End the answer within a token, or a waiting question at once."""
        self._cancel.set()
        with self._talk:
            self._talk.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether the reader has asked it to stop."""
        return self._cancel.is_set()

    @property
    def thinking(self) -> bool | int:
        """Whether the model was to think, or for how many tokens."""
        return self._how.get("thinking", self.chat.thinking)

    def decide(self, call: str, allow: bool) -> None:
        """The reader's word on a tool call."""
        with self._talk:
            self._allowed[call] = bool(allow)
            self._talk.notify_all()

    def pushes(self) -> list[dict]:
        """What the view has not been told yet."""
        found = []
        progress = self.progress
        if progress is not None and progress != self._told_progress:
            self._told_progress = progress
            found.append({"kind": "progress", **progress})
        deltas = self.live.take()
        if deltas:
            found += [*deltas, {"kind": "stats", "stats": self.stats()}]
        return found

    def stats(self) -> dict:
        """Numbers of the answer so far; times in seconds, memory in bytes."""
        import mlx.core as mx

        found: dict[str, Any] = {"memory": int(mx.get_active_memory())}
        found["context"] = int(self.chat.model.config.text.max_position_embeddings)
        found["used"] = self._prompt_tokens + self._count
        tokens = self.steps[-1] if self.steps else []
        fresh = tokens[len(tokens) - self._count :]
        if fresh:
            found["first_token"] = fresh[0].seconds
        if len(fresh) > 1 and fresh[-1].seconds > fresh[0].seconds:
            found["tokens_per_second"] = (len(fresh) - 1) / (fresh[-1].seconds - fresh[0].seconds)
        if self._finish is not None:
            found["reused"] = self._finish.reused_tokens
            found["prompt"] = self._finish.prompt_tokens
            found["reuse_note"] = self._finish.reuse_note
            if self._finish.reads is not None:
                found["reads"] = str(self._finish.reads)
            found["used"] = self._finish.prompt_tokens + self._finish.generated_tokens
        return found

    # -- the answering thread -------------------------------------------------------------------

    def run(self, text: str | None, **media: Any) -> None:
        """Answer: returns when the answer is complete or stopped, raises what the chat raises."""
        try:
            for event in self._events(text, media):
                self._take(event)
        except BaseException:
            self.status = "error"
            raise
        if self.status == "streaming":
            self.status = "done"

    def _events(self, text: str | None, media: dict) -> Iterator[Any]:
        how = {**self._how, "cancel": self._cancel}
        if self._begin:
            how["begin"] = [token.id for token in self._begin]
        if not self.chat.tools:
            # A model may call a tool that nobody declared: the call is answered with an error,
            # so that the conversation can go on, and the model is not run again.
            return self.chat.run_stream(text, **media, max_steps=1, **how)
        return self.chat.run_stream(text, **media, approve=self._approve, **how)

    def _take(self, event: Any) -> None:
        if isinstance(event, Token):
            self.progress = None
            self._step().append(event)
            self.live.tokens.append(event)
            self._count += 1
            return  # its text comes as a delta of its own
        if isinstance(event, TextDelta):
            self.live.write("text", event.text)
        elif isinstance(event, ThinkingDelta):
            self.live.write("thinking", event.text)
        elif isinstance(event, ToolCall):
            status = "failed" if event.error else "running"
            self.live.tool_call(event.id, event.name, plain(event.arguments), status)
        elif isinstance(event, ToolResult):
            self.live.tool_result(event.id, event.result, event.error, event.denied)
        elif isinstance(event, Progress):
            self._prompt_tokens = event.total
            done = event.done >= event.total
            self.progress = None if done else {"done": event.done, "total": event.total}
        elif isinstance(event, Step):
            self._begin = self._begin if event.number == 1 else []
            self._finish = None
            if event.number > 1:
                self.steps.append([])
                self._count = 0
            return
        elif isinstance(event, Done):
            self._finish = event.reply.stats
            ended = "thought" if event.reply.answered_in_thought else "done"
            self.status = ENDINGS.get(event.reply.finish_reason, ended)
            return
        self._changed()

    def _step(self) -> list[Token]:
        if not self.steps:
            self.steps.append(list(self._begin))
            self.live.tokens[:] = self._begin
        return self.steps[-1]

    def _approve(self, call: ToolCall) -> bool | str:
        """Wait for the reader's word, where it is wanted. Runs in the answering thread, never in
        the kernel's."""
        if not self._ask and not must_be_asked(call, self.chat.tools):
            return True
        self.live.tool_call(call.id, call.name, plain(call.arguments), "waiting")
        self._changed()
        with self._talk:
            self._talk.wait_for(lambda: call.id in self._allowed or self._cancel.is_set())
        if not self._allowed.get(call.id, False):
            return "the user stopped" if self._cancel.is_set() else "the user did not allow this"
        self.live.tool_call(call.id, call.name, plain(call.arguments), "running")
        self._changed()
        return True
