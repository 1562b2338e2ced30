"""From a history to the model's inputs, and to the options and constraint of its answer."""

import uuid
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from ..errors import ChatError, GenerationError
from ..generation.choices import CallsOrAnswer
from ..generation.constrained import Constraint
from ..generation.sampling import SamplingOptions
from ..processing.inputs import ModelInputs, expand
from ..processing.template import Rendered, render
from .loading import MediaLoader, as_parts
from .messages import Audio, Image, Message, Text, Video, check_history, pending_calls
from .parser import ReplyParser
from .rendering import media_of, to_template
from .tools import Tool

_MEDIA_TOKENS = (
    "<|image>", "<image|>", "<|audio>", "<audio|>", "<|image|>", "<|audio|>", "<|video|>",
)  # fmt: skip


class Prompting:
    """Renders and encodes a conversation; remembers the ids of text it has encoded before.

    Args:
        model: with a tokenizer.
        template: its chat template; None: the package's own.
        media: loads pictures and sounds.
    """

    def __init__(self, model, template: str | None, media: MediaLoader):
        self.model, self.template, self._media = model, template, media
        self._encoded: dict[str, list[int]] = {}

    def rendered(
        self,
        messages: Sequence[Message],
        tools: Mapping[str, Tool],
        thinking: bool | int,
        add_generation_prompt: bool | None = None,
    ) -> Rendered:
        """The template's text. By default it ends with the model's turn opened, unless the last
        message is the model's.

        Raises ChatError for a history that is no conversation, or that the template refuses.
        """
        check_history(messages)
        if add_generation_prompt is None:
            add_generation_prompt = not messages or messages[-1].role != "assistant"
        variables = {}
        if self.template is None:
            # The models that expect it (12B and up) are those without per-layer embeddings.
            large = self.model.config.text.hidden_size_per_layer_input == 0
            variables["empty_thought_block"] = large
        return render(
            to_template(messages),
            [tool.declaration for tool in tools.values()],
            bool(thinking),
            add_generation_prompt,
            self.template,
            **variables,
        )

    def inputs(
        self,
        messages: Sequence[Message],
        tools: Mapping[str, Tool],
        thinking: bool | int,
        add_generation_prompt: bool | None = None,
    ) -> ModelInputs:
        """Token ids, with the placeholders of all media expanded to their soft tokens.

        Raises ChatError for a history that is no conversation or that the template refuses,
        MediaError for media that cannot be read or that the model cannot take.
        """
        rendered = self.rendered(messages, tools, thinking, add_generation_prompt)
        ids = rendered.encode(self.model.tokenizer, self._encoded)
        media = [self._media.load(part) for part in media_of(messages)]
        return expand(ids, media, self.model.config, self.model.tokenizer.encode)

    def parser(self, inputs: ModelInputs) -> ReplyParser:
        """A parser for the answer; it begins in the thinking channel if the inputs end there."""
        special = self.model.tokenizer.special_ids
        opens, closes = special.get("<|channel>"), special.get("<channel|>")
        channel = [t for t in inputs.tokens if t in (opens, closes)]
        return ReplyParser(
            self.model.tokenizer,
            thinking_open=bool(channel) and channel[-1] == opens,
            new_id=lambda: f"call_{uuid.uuid4().hex[:12]}",
        )


def continued(inputs: ModelInputs, begin: Sequence[int]) -> ModelInputs:
    """The inputs followed by the given beginning of the answer. Raises GenerationError."""
    if not begin:
        return inputs
    if not all(isinstance(token, Integral) for token in begin):
        raise GenerationError(
            f"begin takes token ids, such as model.tokenizer.encode(text), not {begin!r:.80}."
        )
    types = np.concatenate([inputs.token_types, np.zeros(len(begin), np.uint8)])
    return ModelInputs([*inputs.tokens, *begin], types, inputs.media)


def check_can_be_answered(messages: Sequence[Message]) -> None:
    """Raise ChatError unless the model's answer is what comes next."""
    open_calls = pending_calls(messages[:-1])
    if open_calls and getattr(messages[-1], "role", None) == "user":
        names = ", ".join(c.name for c in open_calls)
        raise ChatError(
            f"the model waits for the results of its calls to {names}: chat.run() without a "
            "text makes them, or append a tool message with a ToolResult for each."
        )
    check_history(messages)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ChatError("there is nothing to answer: the last message is not the user's.")


def answer_options(model, options: SamplingOptions, sampling: Mapping[str, Any]) -> SamplingOptions:
    """The options of one answer, with media placeholders banned, and with the end of the turn and
    the token after which a tool's result follows as stop tokens."""
    options = options.override(**sampling)
    special, vocabulary = model.tokenizer.special_ids, model.config.text.vocab_size
    banned = [special[t] for t in _MEDIA_TOKENS if special.get(t, vocabulary) < vocabulary]
    stops = [special[t] for t in ("<turn|>", "<|tool_response>") if t in special]
    return options.override(
        suppress_tokens=tuple(dict.fromkeys([*options.suppress_tokens, *banned])),
        stop_tokens=tuple(dict.fromkeys([*options.stop_tokens, *stops])),
    )


def answer_constraint(
    tokenizer,
    tools: Mapping[str, Tool],
    schema: Any,
    *,
    thinking: bool,
    strict: bool,
    require: bool,
    or_calls: bool = False,
) -> Constraint | CallsOrAnswer | None:
    """The constraint of the answer, None for none.

    With a ``schema``: that, or with ``or_calls`` also calls of tools in its place. With
    ``require``: only calls. With ``strict``: any text, then only calls that fit their schemas.
    Raises ChatError and SchemaError."""
    if require and schema is not None:
        raise ChatError("schema and require_tool exclude one another.")
    if require and not tools:
        raise ChatError("require_tool needs a chat with tools.")

    def calls(required: bool) -> Constraint:
        schemas = {name: tool.schema for name, tool in tools.items()}
        return Constraint.from_tools(schemas, tokenizer, required=required, thinking=thinking)

    if schema is not None:
        answer = Constraint.of(schema, tokenizer, thinking=thinking)
        if not (or_calls and tools):
            return answer
        return CallsOrAnswer(answer, calls(required=True) if strict else None)
    return calls(require) if require or (strict and tools) else None


def user_message(text: Any, images: Any, audio: Any, videos: Any) -> Message | None:
    """The user's message, in the order the models were trained with: pictures, videos, words,
    sounds. None if all are missing.

    Raises ChatError for words that are no text, and for an empty message.
    """
    before = [*as_parts(images, Image), *as_parts(videos, Video)]
    after = as_parts(audio, Audio)
    if text is None and not before and not after:
        return None
    words = [] if text is None else [Text(checked_text(text))]
    if not before and not after and not text.strip():
        raise ChatError("the message is empty: say something, or pass an image or a sound.")
    return Message("user", (*before, *words, *after))


def checked_text(text: Any) -> str:
    """The text, if it is a string that UTF-8 can encode. Raises ChatError."""
    if not isinstance(text, str):
        raise ChatError(f"a message's words are a string, not {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ChatError(
            f"character {error.start} of the text is half of a surrogate pair and cannot be "
            "encoded; repair the text first."
        ) from None
    return text


def checked_thinking(thinking: Any) -> bool | int:
    """True, False or a budget above 0; a budget of 0 is False. Raises ChatError."""
    if isinstance(thinking, bool):
        return thinking
    if isinstance(thinking, int) and thinking >= 0:
        return thinking or False
    raise ChatError(f"thinking is True, False or a number of tokens, not {thinking!r}.")
