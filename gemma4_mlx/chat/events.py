"""The events of a chat's stream, and the reply that ends it.

``Chat.stream`` yields, in the order things happen: the generation's ``Progress`` and ``Token``,
:class:`TextDelta` and :class:`ThinkingDelta` as words arrive, :class:`ToolCall` when a call is
complete, and last :class:`Done`. The agent loop adds :class:`Step` and :class:`ToolResult`.
"""

from dataclasses import dataclass, field
from typing import Any

from ..errors import SchemaError
from ..generation.events import Finish, Token
from .messages import ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New words of the answer.

    Attributes:
        text: whole characters as a reader sees them, never part of one.
        offset: where they begin in the reply's text, in code points: a view can tell from it that
            it missed a delta.
    """

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """New words of the thinking channel; ``offset`` is their place in the reply's thinking."""

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """New characters of a call that is being written, without its markers.

    ``offset`` is their place in the call. The parsed :class:`ToolCall` comes when it is complete.
    """

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Step:
    """The agent loop begins its ``number``-th generation, of at most ``limit``."""

    number: int
    limit: int


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every stream."""

    reply: "Reply"


@dataclass(frozen=True)
class Reply:
    """A model's answer.

    Attributes:
        text: the answer.
        thinking: what it thought before.
        tool_calls: the calls it wants made.
        tokens: the generated tokens, control tokens included.
        stats: counts and times of the generation, ``stats.tokens_per_second``.
        finish_reason: ``"stop"``, ``"tool_calls"``, ``"length"`` (max_tokens reached),
            ``"stop_string"``, ``"memory"`` (no room for more), ``"cancelled"``, or from the agent
            loop ``"step_limit"``.
        steps: from the agent loop, the replies of all its steps, this one last.
        answered_in_thought: the model ended its turn inside the thinking channel and wrote no
            answer after it, so its last thought was taken as the answer.
    """

    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    stats: Finish | None = field(default=None, repr=False)
    finish_reason: str = "stop"
    steps: tuple["Reply", ...] = field(default=(), repr=False)
    answered_in_thought: bool = False
    _value: Any = field(default=None, repr=False)
    _problem: str | None = field(default=None, repr=False)

    @property
    def thinking_cut(self) -> bool:
        """Whether a budget ended the thinking before the model did."""
        return self.stats is not None and self.stats.thinking_cut

    @property
    def parsed(self) -> Any:
        """The value asked for with ``schema=``: a pydantic object, plain data, or text of a
        grammar; None if no schema was given.

        Raises:
            SchemaError: the answer was cut off before it was complete, or a validator of the
                pydantic class refuses it.
        """
        if self._problem is not None:
            raise SchemaError(self._problem)
        return self._value

    def __str__(self) -> str:
        return self.text
