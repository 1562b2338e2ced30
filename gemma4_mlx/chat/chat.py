"""A conversation with a model.

    chat = Chat(model, system="Be brief.", tools=[get_weather], thinking=True)
    reply = chat.send("What is this?", images=["cat.png"])
    for event in chat.stream("And this?"): ...
    reply = chat.run("How warm is it in Paris?")      # calls tools until there is an answer

``chat.messages`` is the whole state, a plain list that may be read, cut and saved. The keys and
values of the conversation stay in ``chat.cache``: each turn computes only what is new, also after
:meth:`Chat.edit` or :meth:`Chat.undo`. The model runs on the engine's thread; events are read in
the caller's thread.
"""

import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ChatError
from ..generation.caches import PromptCache, checked_snapshot_bytes
from ..generation.engine import engine
from ..generation.sampling import SamplingOptions
from ..generation.stream import resolve_options
from ..model.sizes import checked_kv_bits
from ..processing.inputs import MediaCache, ModelInputs
from ..processing.template import Rendered
from . import history
from .agent import run_steps
from .answer import answer
from .approval import Approve
from .events import Done, Reply
from .exclusive import Answering, knowing_itself
from .loading import MediaLoader
from .messages import Message, Text, check_history, check_messages
from .prompting import Prompting, checked_text, checked_thinking
from .tools import Tool, as_tools
from .turn import ChatEvent


class Chat:
    """A conversation with a model, which may think, call tools and give structured answers.

    Args:
        model: from ``gemma4_mlx.load``.
        system: instructions that stand before the conversation.
        tools: functions with type hints and a docstring, or :class:`Tool` objects.
        thinking: let the model think before it answers; a number is a budget in tokens. Each
            message may choose differently.
        options: how to sample; a dict overrides single options of the checkpoint's.
        messages: a history to go on from.
        kv_bits: 8 or 4: quantize the cache of the full-attention layers to so many bits.
        snapshot_bytes: memory, on top of the cache, for snapshots from which the conversation can
            be changed without reading it again; None: by model and machine (see
            :class:`~gemma4_mlx.generation.PromptCache`).
        strict_tools: constrain calls to declared tools and to the schemas of their arguments.
        beyond_context: go on past the context that the model was made for; answers get worse.
        template: a chat template in place of the checkpoint's.

    Attributes:
        messages: the history, a list of :class:`Message`.
        tools: name -> :class:`Tool`.
        thinking, options: the defaults of every message.
        cache: a :class:`~gemma4_mlx.generation.PromptCache`; None before the first answer.

    Raises:
        ChatError: ``model`` is no model or has no tokenizer, the history is no conversation, or
            ``thinking`` is neither a bool nor a number of tokens.
        ToolError: a function that cannot be declared as a tool.
        GenerationError: options that make no sense, or ``kv_bits`` other than 8, 4 and None,
            or ``snapshot_bytes`` that are no number of bytes.
    """

    def __init__(
        self,
        model,
        system: str | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        thinking: bool | int = False,
        options: SamplingOptions | Mapping[str, Any] | None = None,
        *,
        messages: Iterable[Message] = (),
        kv_bits: int | None = None,
        snapshot_bytes: int | None = None,
        strict_tools: bool = False,
        beyond_context: bool = False,
        template: str | None = None,
    ):
        if not hasattr(model, "config"):
            raise ChatError(
                f"a chat takes a loaded model, such as g4.load(...), not {type(model).__name__}."
            )
        if getattr(model, "tokenizer", None) is None:
            raise ChatError("this model has no tokenizer: load it from a folder that holds one.")
        self.model = model
        self.tools = as_tools(tools or ())
        self.thinking = checked_thinking(thinking)
        self.options = resolve_options(model, options)
        self.strict_tools = strict_tools
        self.beyond_context = beyond_context
        self.kv_bits = checked_kv_bits(kv_bits)
        self.snapshot_bytes = checked_snapshot_bytes(snapshot_bytes)
        self.messages = list(messages or ())
        check_history(self.messages)
        if system is not None:
            if self.messages and self.messages[0].role == "system":
                raise ChatError("the history already begins with a system message.")
            self.messages.insert(0, Message("system", (Text(checked_text(system)),)))
        self.cache: PromptCache | None = None
        self._media = MediaLoader(model)
        template = template if template is not None else model.chat_template
        self._prompting = Prompting(model, template, self._media)
        self._features = MediaCache()
        self._answering = Answering()
        self._cancel: threading.Event | None = None

    def __repr__(self) -> str:
        return f"Chat({len(self.messages)} messages, {len(self.tools)} tools)"

    # Saying something

    def send(self, text: str | None = None, images=(), audio=(), videos=(), **how: Any) -> Reply:
        """Say something and wait for the answer. Arguments and errors are :meth:`stream`'s."""
        return _last(self.stream(text, images, audio, videos, **how))

    def stream(
        self,
        text: str | None = None,
        images: Any = (),
        audio: Any = (),
        videos: Any = (),
        *,
        schema: Any = None,
        thinking: bool | int | None = None,
        require_tool: bool = False,
        or_calls: bool = False,
        alternatives: int = 0,
        begin: Sequence[int] = (),
        cancel: threading.Event | None = None,
        **sampling: Any,
    ) -> Iterator[ChatEvent | Done]:
        """Say something and get the answer as events, the last of them Done.

        Leaving the loop (or Ctrl-C) stops the model; what it said until then is kept. If nothing
        was said yet, the history is as before.

        Args:
            text: what the user says; None, with no media either, has the model answer the
                history as it stands.
            images, audio, videos: sources, or Image, Audio and Video parts; one or a list.
            schema: constrain the answer to a pydantic class, JSON Schema, compiled regular
                expression or Lark grammar; see :attr:`Reply.parsed`.
            thinking: overrides the chat's for this message.
            require_tool: the answer must be a call of a declared tool.
            or_calls: with a ``schema``, let the model call tools instead of answering.
            alternatives: how many likely tokens to report with each token.
            begin: token ids that the answer begins with; the model continues them. Their text
                comes as the first events; they are not among the reply's tokens.
            cancel: an event that ends the generation when set.
            sampling: single sampling options for this message, e.g. ``max_tokens=100``.

        Raises:
            ChatError: the conversation does not allow a message here.
            SchemaError: a schema that cannot be enforced.
            MediaError: media that cannot be read, or that the model cannot take.
            ContextError: the conversation is longer than the context, or memory.
            GenerationError: sampling options that make no sense, or a ``begin`` that is not ids.
        """
        return self._begin(
            None, (text, images, audio, videos), schema=schema, thinking=thinking,
            require_tool=require_tool, or_calls=or_calls, alternatives=alternatives, begin=begin,
            cancel=cancel, **sampling,
        )  # fmt: skip

    def _begin(self, history: list[Message] | None, said: tuple, **how: Any) -> Generator:
        """:meth:`stream`. A ``history``, if given, replaces the chat's messages once the answer
        begins: an error before then leaves them as they are."""
        return knowing_itself(lambda itself: answer(self, itself, history, said, **how))

    def run(
        self,
        text: str | None = None,
        images: Any = (),
        audio: Any = (),
        videos: Any = (),
        *,
        on_event: Callable[[Any], None] | None = None,
        **how: Any,
    ) -> Reply:
        """Say something, run the tools the model asks for, and go on until it answers.

        Args:
            text, images, audio, videos: as in :meth:`stream`. Without any of them, calls at the
                end of the history that have no results yet run first.
            on_event: called with every event.
            how: the further arguments of :meth:`run_stream`.

        Returns:
            The last reply; ``reply.steps`` are all of them.

        Raises what :meth:`run_stream` raises.
        """
        return _last(self.run_stream(text, images, audio, videos, **how), on_event)

    def run_stream(
        self,
        text: str | None = None,
        images: Any = (),
        audio: Any = (),
        videos: Any = (),
        *,
        max_steps: int = 8,
        timeout: float | None = 60.0,
        approve: Approve | None = None,
        **how: Any,
    ) -> Iterator[Any]:
        """:meth:`run` as events: Step before each generation, ToolResult after each call.

        A ``schema`` applies to the final answer; tools may be called before it.

        Args:
            max_steps: maximum number of generations. The calls of the last one do not run; their
                results are errors.
            timeout: seconds that a tool may take, unless it has a limit of its own; None: no
                limit.
            approve: called before each call; False, or a reason in words, keeps the tool from
                running, and the model is told. None: functions run without asking; tools of
                servers, and calls at the end of a loaded conversation, are asked about at the
                keyboard.
            how: further arguments of :meth:`stream`, for every step.

        Raises:
            ChatError: ``max_steps`` below 1, a ``timeout`` that is not above 0, or an ``approve``
                that cannot be called; and what :meth:`stream` raises. An exception of a tool is
                not raised: the model gets it as the result.
        """
        return run_steps(
            self, (text, images, audio, videos), max_steps=max_steps, timeout=timeout,
            approve=approve, how=how,
        )  # fmt: skip

    def stop(self) -> None:
        """End the running generation, from any thread; what was generated is kept."""
        cancel = self._cancel
        if cancel is not None and self._answering.busy:
            cancel.set()
            self._answering.stopped = True

    # Changing the history

    def edit(self, i: int, text: str, *, reply: bool = True, **how: Any) -> Reply | None:
        """Replace the words of message ``i``.

        The messages after a user's or the model's message are dropped; those after the system
        message stay. After a user's message the model answers again, unless ``reply=False``
        (:meth:`stream` without text then answers it). The media of a user's message stay.

        Raises ChatError for a message that does not exist or holds tool results, for words that
        are no text, and while the chat is answering; and what :meth:`stream` raises, the history
        then being as before.
        """
        self._put_right()
        i = self._index(i)
        old = self.messages[i]
        if old.role == "tool":
            raise ChatError(f"message {i} holds tool results, which have no words to edit.")
        others = [p for p in old.parts if not isinstance(p, Text)] if old.role == "user" else []
        words = Text(checked_text(text))
        place = next((k for k, p in enumerate(old.parts) if isinstance(p, Text)), len(others))
        changed = Message(old.role, (*others[:place], words, *others[place:]))
        rest = self.messages[i + 1 :] if old.role == "system" else []
        history = [*self.messages[:i], changed, *rest]
        if reply and old.role == "user":
            return self._answer_anew(history, **how)
        self._replace(history)
        return None

    def regenerate(self, *, reply: bool = True, **how: Any) -> Reply | None:
        """Drop the answer to the last user message and answer again.

        With ``reply=False`` the answer is only dropped. Sampling options, ``thinking`` and
        ``schema`` may be given as in :meth:`stream`.

        Raises ChatError if the user has not said anything yet, or the chat is answering, and what
        :meth:`stream` raises; the history is then as before.
        """
        self._put_right()
        last = self._last_user("regenerate")
        history = self.messages[: last + 1]
        if reply:
            return self._answer_anew(history, **how)
        self._replace(history)
        return None

    def undo(self) -> list[Message]:
        """Remove the last user message and everything after it; returns what was removed.

        Raises ChatError if there is none, or while the chat is answering.
        """
        self._put_right()
        last = self._last_user("undo")
        removed = self.messages[last:]
        self._replace(self.messages[:last])
        return removed

    def branch(self, i: int | None = None) -> "Chat":
        """A new, independent chat with the first ``i`` messages (without ``i``, all). It starts
        with a copy of the cache, so nothing is computed again.

        Raises ChatError if there are fewer messages.
        """
        if i is not None:
            i = i + len(self.messages) if i < 0 else i
            if not 0 <= i <= len(self.messages):
                raise ChatError(f"there are {len(self.messages)} messages, not {i}.")
        other = Chat(
            self.model,
            tools=self.tools.values(),
            thinking=self.thinking,
            options=self.options,
            messages=self.messages[:i],
            kv_bits=self.kv_bits,
            snapshot_bytes=self.snapshot_bytes,
            strict_tools=self.strict_tools,
            beyond_context=self.beyond_context,
            template=self._prompting.template,
        )
        if self.cache is not None:
            other.cache = engine().run(self.cache.fork)
        return other

    # Rendering and tracing

    def rendered(self, add_generation_prompt: bool | None = None) -> Rendered:
        """The conversation as text of the chat template. By default the model's turn is opened at
        the end, unless the last message is the model's.

        Raises ChatError for a history that is no conversation, or that the template refuses."""
        return self._prompting.rendered(
            self.messages, self.tools, self.thinking, add_generation_prompt
        )

    def inputs(self, add_generation_prompt: bool | None = None) -> ModelInputs:
        """The conversation as token ids and media, ready for the model.

        Raises ChatError for a history that is no conversation or that the template refuses,
        MediaError for media that cannot be read or that the model cannot take.
        """
        return self._prompting.inputs(
            self.messages, self.tools, self.thinking, add_generation_prompt
        )

    def trace(self, **plan: Any):
        """Trace the conversation so far, media included.

        Arguments and errors as of :func:`gemma4_mlx.trace`.
        """
        from ..tracing import trace

        return trace(self.model, self, **{"media_features": self._features, **plan})

    # Files

    def save(self, path: str | Path, *, media: str = "embed") -> None:
        """Write the conversation to a JSON file.

        Args:
            path: where to.
            media: "embed" puts pictures and sounds into the file, "reference" only their paths
                and addresses.

        Raises:
            ChatError: something in it is not plain data, or the file cannot be written.
        """
        history.save(
            path,
            self.messages,
            media=media,
            model=str(getattr(self.model, "source", "")),
            thinking=self.thinking,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        model,
        *,
        media_folders: Iterable[str | Path] = (),
        addresses: bool = False,
        **settings: Any,
    ) -> "Chat":
        """A chat that goes on from a saved one.

        Files may come from strangers: loading one opens and fetches nothing else. A reference to a
        picture or sound that is not allowed, or does not exist, is left unloaded with a warning
        that names message and part. The conversation can then be read and saved, but only be
        continued once that message is edited or dropped. Unanswered calls at its end run only if
        they are approved (see :meth:`run_stream`).

        Args:
            path: what :meth:`save` wrote.
            model: any model; functions cannot be saved, so pass ``tools=`` again.
            media_folders: folders, beside the file's own, from which pictures and sounds may be
                read; ``save(media="reference")`` writes where they are.
            addresses: whether pictures and sounds may be fetched from http(s) addresses when they
                are needed.
            settings: further arguments of :class:`Chat`.

        Raises:
            ChatError: the file is missing, damaged, or no saved conversation.
        """
        content = history.load(path, media_folders=media_folders, addresses=addresses)
        for reason in history.refused(content["messages"]):
            warnings.warn(reason, stacklevel=2)
        settings.setdefault("thinking", content.get("thinking", False))
        return cls(model, messages=content["messages"], **settings)

    def save_cache(self, path: str | Path) -> None:
        """Write the keys and values to a file, so that the conversation need not be read again
        after a restart.

        Raises ChatError if nothing is cached yet, CheckpointError if the file cannot be written.
        """
        if self.cache is None:
            raise ChatError("nothing is cached yet.")
        engine().run(self.cache.save, path)

    def load_cache(self, path: str | Path) -> None:
        """Read what :meth:`save_cache` wrote, for the same model. The next answer uses as much of
        it as matches the conversation.

        Raises CheckpointError for a file that is missing, damaged, cut short, or of another model.
        """
        cache = engine().run(PromptCache.load, path, self.model)
        if self.snapshot_bytes is not None:
            cache.snapshot_bytes = self.snapshot_bytes
        self.cache = cache

    # Inside

    def _answer_anew(self, history: list[Message], **how: Any) -> Reply:
        check_history(history)
        return _last(self._begin(history, (None, (), (), ()), **how))

    def _put_right(self) -> None:
        if not self._answering.busy:
            self._answering.put_right()

    def _replace(self, messages: list[Message]) -> None:
        if self._answering.busy:
            raise ChatError("this chat is answering: wait for it, or call chat.stop().")
        check_history(messages)
        self.messages[:] = messages

    def _index(self, i: int) -> int:
        check_messages(self.messages)
        if not -len(self.messages) <= i < len(self.messages):
            raise ChatError(f"there is no message {i}: the history has {len(self.messages)}.")
        return i % len(self.messages)

    def _last_user(self, what: str) -> int:
        check_messages(self.messages)
        for i in reversed(range(len(self.messages))):
            if self.messages[i].role == "user":
                return i
        raise ChatError(f"there is nothing to {what}: the user has not said anything yet.")


def _last(events: Generator, on_event: Callable[[Any], None] | None = None) -> Reply:
    """The reply that the events end with."""
    reply = None
    try:
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Done):
                reply = event.reply
    finally:  # an exception that somebody keeps would keep them open
        events.close()
    return reply
