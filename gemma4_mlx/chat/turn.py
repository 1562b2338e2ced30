"""One answer of the model: turns generation events into chat events, a message and a reply."""

from collections.abc import Iterator
from typing import Any

from ..errors import Gemma4Error
from ..generation.choices import CallsOrAnswer
from ..generation.constrained import Constraint
from ..generation.events import Finish, Progress, Token
from .events import Reply, TextDelta, ThinkingDelta, ToolCallDelta
from .messages import Message, Text, ToolCall
from .parser import ReplyParser

ChatEvent = Progress | Token | TextDelta | ThinkingDelta | ToolCallDelta | ToolCall


class Turn:
    """Collects one generation.

    Args:
        parser: fresh, told whether the prompt left the thinking channel open.
        constraint: the answer's constraint, None if there is none.
        wants_value: the constraint is the user's schema, so the reply gets a parsed value.
    """

    def __init__(
        self,
        parser: ReplyParser,
        constraint: Constraint | CallsOrAnswer | None = None,
        wants_value: bool = False,
    ):
        self.parser, self.constraint, self.wants_value = parser, constraint, wants_value
        self._answered_in_thought = False
        self.tokens: list[Token] = []
        self.stats: Finish | None = None

    def take(self, event: Progress | Token | Finish) -> Iterator[ChatEvent]:
        """The chat events of one generation event."""
        if isinstance(event, Token):
            self.tokens.append(event)
            yield event
            yield from self.parser.feed(event.id, event.text)
        elif isinstance(event, Finish):
            self.stats = event
            yield from self.close(complete=event.reason == "stop")
        else:
            yield event

    def begin(self, id: int, text: str) -> Iterator[ChatEvent]:
        """The chat events of a token that the answer was made to begin with."""
        yield from self.parser.feed(id, text)

    def close(self, *, complete: bool) -> Iterator[ChatEvent]:
        """The chat events at the end of the output; ``complete=False`` if it was cut off."""
        held = self.stats.text if self.stats is not None else ""
        yield from self.parser.finish(held, complete=complete)
        parser = self.parser
        if complete and parser.left_open and not parser.calls and not parser.text.strip():
            # The model ended its turn without closing the channel: its thought is the answer.
            shown, answer = len(parser.text), Text(parser.parts[-1].text)
            parser.parts[-1] = answer
            self._answered_in_thought = True
            yield TextDelta(answer.text, shown)

    def message(self, *, keep_calls: bool = True) -> Message:
        """The assistant's message, with an empty text if there is nothing else."""
        parts = [p for p in self.parser.parts if keep_calls or not isinstance(p, ToolCall)]
        return Message("assistant", tuple(parts) or (Text(""),))

    def reply(self, message: Message) -> Reply:
        """The reply that goes with the message."""
        reason = self.stats.reason if self.stats is not None else "cancelled"
        if message.tool_calls:
            reason = "tool_calls"
        value, problem = self._parsed()
        return Reply(
            message.text,
            self.parser.thinking,
            message.tool_calls,
            tuple(self.tokens),
            self.stats,
            reason,
            answered_in_thought=self._answered_in_thought,
            _value=value,
            _problem=problem,
        )

    def _parsed(self) -> tuple[Any, str | None]:
        """(value, None), or (None, why there is none)."""
        if not self.wants_value or self.parser.calls:
            return None, None
        if not self.constraint.complete:
            why = self.stats.reason if self.stats is not None else "cancelled"
            ended = {
                "length": "max_tokens was reached",
                "memory": "there was no memory for more",
                "cancelled": "it was cancelled",
            }
            return None, (
                f"the answer is not complete: {ended.get(why, why)} after "
                f"{len(self.tokens)} tokens; it ends {self.constraint.text[-60:]!r}."
            )
        try:
            return self.constraint.value(), None
        except Gemma4Error as error:
            return None, str(error)
        except ValueError as error:  # a validator of the pydantic class
            return None, f"the answer has the schema's form, but was refused: {error}"
