"""Parses a model's output as it streams: answer, thinking, tool calls.

    <|channel>thought\\n ... \\n<channel|> answer <|tool_call>call:f{a:1}<tool_call|> <turn|>

The markers are control tokens, recognised by their ids: text that merely spells a marker stays
text. For output that exists as text only, :meth:`ReplyParser.feed_text` finds the markers in it.
Missing markers are tolerated: a call inside the thinking ends the thinking, and the end of the turn
ends a call.
"""

from collections.abc import Callable

from ..errors import ChatError
from ..processing.characters import open_suffix
from ..processing.tokenizer import Tokenizer
from .call_reader import QUOTE, CallSyntaxError, read_call
from .events import TextDelta, ThinkingDelta, ToolCallDelta
from .messages import Text, Thinking, ToolCall, calls_of, text_of, thinking_of

Event = TextDelta | ThinkingDelta | ToolCallDelta | ToolCall

_OPEN, _CLOSE = "<|channel>", "<channel|>"
_CALL, _CALLED = "<|tool_call>", "<tool_call|>"
_QUOTE = '<|"|>'
_MARKERS = (_OPEN, _CLOSE, _CALL, _CALLED, _QUOTE)
_ENDS = ("<turn|>", "<eos>", "<|tool_response>", "<|turn>")
_NAME_LINE = "thought\n"


class ReplyParser:
    """Turns a stream of tokens into events, and finally into the parts of a message.

    Args:
        tokenizer: the model's; without one, only :meth:`feed_text` works.
        thinking_open: the prompt already opened the thinking channel, with its name line.
        new_id: makes the ids of tool calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        *,
        thinking_open: bool = False,
        new_id: Callable[[], str] | None = None,
    ):
        self._tokenizer = tokenizer
        self._bytes = tokenizer.detokenizer() if tokenizer is not None else None
        self._names = {i: t for t, i in tokenizer.special_ids.items()} if tokenizer else {}
        count = iter(range(10**9))
        self._new_id = new_id or (lambda: f"call_{next(count)}")
        self._mode = "thinking" if thinking_open else "text"
        self._named = thinking_open  # the channel's name line was read
        self._pending = ""  # held back: part of a character, or of the name line
        self._marker = ""  # feed_text only: a possible beginning of a marker
        self._call: list = []  # pieces of the call being written
        self._written = {"text": 0, "thinking": 0, "call": 0}
        self._fresh = True  # the next thinking text begins a new part
        self._ended = False
        #: whether the turn ended inside a thinking channel
        self.left_open = False
        #: the parts of the message so far
        self.parts: list[Text | Thinking | ToolCall] = []

    @property
    def text(self) -> str:
        """The answer so far; the texts of all TextDelta events joined."""
        return text_of(self.parts)

    @property
    def thinking(self) -> str:
        """The thinking so far; the texts of all ThinkingDelta events joined."""
        return thinking_of(self.parts)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The complete calls so far."""
        return calls_of(self.parts)

    # Input

    def feed(self, id: int, text: str | None = None) -> list[Event]:
        """Take one generated token.

        Args:
            id: of the token
            text: what can be shown now that it is known, as in a ``Token`` event: it ends with a
                control token's name, unless that token ended the output. None: the parser works
                it out from the ids.

        Raises ChatError for a parser without tokenizer.
        """
        if self._tokenizer is None:
            raise ChatError("a parser without tokenizer reads text: call feed_text, not feed.")
        name = self._names.get(id)
        if text is None:
            before = self._bytes.add(id) if name is None else self._bytes.finish()
            text = before + (name or "")
        if name is None or not text.endswith(name):
            return self._characters(text)
        events = self._characters(text.removesuffix(name))
        return events + self._control(name)

    def feed_text(self, text: str) -> list[Event]:
        """Take output in which markers are spelled out as text. It may be cut anywhere."""
        events: list[Event] = []
        text = self._marker + text
        self._marker = ""
        every = (*_MARKERS, *_ENDS)
        while text and not self._ended:
            at = text.find("<")
            if at < 0:
                events += self._characters(text)
                break
            events += self._characters(text[:at])
            text = text[at:]
            marker = next((m for m in every if text.startswith(m)), None)
            if marker is not None:
                events += self._control(marker)
                text = text[len(marker) :]
            elif any(m.startswith(text) for m in every):
                self._marker = text
                break
            else:
                events += self._characters("<")
                text = text[1:]
        return events

    def finish(self, text: str = "", *, complete: bool = True) -> list[Event]:
        """The output is over: release what was held back, close what is open.

        Args:
            text: text of the tokens that :meth:`feed` was not told of, as in ``Finish.text``.
            complete: False if the output was cut off; an unfinished call is then dropped.
        """
        events = self._characters(self._marker)
        self._marker = ""
        if self._bytes is not None:
            events += self._characters(self._bytes.finish() + text)
        if not complete and self._mode == "call":
            self._mode, self._call = "text", []
        return events + self._end()

    # States

    def _characters(self, text: str) -> list[Event]:
        if not text or self._ended:
            return []
        if self._mode == "call":
            self._call.append(text)
            return [self._delta(ToolCallDelta, "call", text)]
        self._pending += text
        if self._mode == "thinking" and not self._named:
            if _NAME_LINE.startswith(self._pending):
                return []
            self._pending = self._pending.removeprefix(_NAME_LINE)
            self._named = True
        hold = open_suffix(self._pending)
        if self._mode == "thinking" and self._pending.endswith("\n"):
            hold = 2 if self._pending.endswith("\r\n") else 1
            # Held back: a line break before the closing marker is not part of the thought.
        ready = self._pending[: len(self._pending) - hold]
        self._pending = self._pending[len(self._pending) - hold :]
        return self._show(ready)

    def _control(self, name: str) -> list[Event]:
        if self._ended:
            return []
        if name in _ENDS:
            events = self._end()
            self._ended = True
            return events
        if self._mode == "call":
            if name == _CALLED:
                return self._close()
            if name == _QUOTE:
                self._call.append(QUOTE)
                return [self._delta(ToolCallDelta, "call", _QUOTE)]
            if name != _CALL:
                return self._characters(name)
        if name == _CALL:
            events = self._close()
            self._mode, self._written["call"] = "call", 0
            return events
        if name == _OPEN:
            events = self._close()
            self._mode, self._named, self._fresh = "thinking", False, True
            return events
        if name in (_CLOSE, _CALLED):  # also without a matching opening marker
            return self._close()
        return self._characters(name)  # any other control token is shown as text

    def _close(self) -> list[Event]:
        """End the current channel, call or text; what follows is text."""
        mode, self._mode = self._mode, "text"
        if mode == "call":
            pieces, self._call = self._call, []
            return [self._read_call(pieces)]
        rest, self._pending = self._pending, ""
        if mode == "thinking":
            if not self._named and _NAME_LINE.startswith(rest):
                rest = ""
            rest = rest.removesuffix("\n")
            self._mode = "thinking"
            events = self._show(rest)
            self._mode = "text"
            return events
        return self._show(rest)

    def _end(self) -> list[Event]:
        """Close what is open at the end of the turn."""
        inside = self._mode == "thinking"
        events = self._close()
        self.left_open |= inside and not self._fresh
        return events

    def _show(self, text: str) -> list[Event]:
        if not text:
            return []
        if self._mode == "text":
            if self.parts and isinstance(self.parts[-1], Text):
                self.parts[-1] = Text(self.parts[-1].text + text)
            else:
                self.parts.append(Text(text))
            return [self._delta(TextDelta, "text", text)]
        if not self._fresh:
            self.parts[-1] = Thinking(self.parts[-1].text + text)
        else:
            earlier = any(isinstance(p, Thinking) for p in self.parts)
            self.parts.append(Thinking(text))
            self._fresh = False
            text = "\n\n" + text if earlier else text
        return [self._delta(ThinkingDelta, "thinking", text)]

    def _delta(self, kind: type, counter: str, text: str) -> Event:
        offset = self._written[counter]
        self._written[counter] += len(text)
        return kind(text, offset)

    def _read_call(self, pieces: list) -> ToolCall:
        try:
            name, arguments = read_call(pieces)
            call = ToolCall(self._new_id(), name, arguments)
        except CallSyntaxError as error:
            problem = f"the call could not be read: {error}"
            call = ToolCall(self._new_id(), error.name or "unknown", {}, problem)
        self.parts.append(call)
        return call
