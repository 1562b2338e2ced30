"""When the answer ends: stop tokens, stop strings, and text held back in case one has begun."""

from collections.abc import Iterable, Sequence

from .sampling import SamplingOptions


def stop_token_ids(model, options: SamplingOptions) -> frozenset[int]:
    """All ids that end generation on this model.

    The union of what ``config.json``, ``generation_config.json`` and the tokenizer call end of
    sequence, and of the options' own. For Gemma 4 that is 1, 106 and 50: ``config.json`` alone
    lists 1 and 106, and without 50 (``<|tool_response>``) a model runs on and makes up the
    answers of its tools.
    """
    ids = set(options.stop_tokens)
    if not options.ignore_eos:
        file = getattr(model, "generation_config", None) or {}
        for found in (
            getattr(model.config, "eos_token_ids", None),
            file.get("eos_token_id"),
            getattr(getattr(model, "tokenizer", None), "eos_token_ids", None),
        ):
            ids.update(found if isinstance(found, Iterable) else [found])
    return frozenset(int(i) for i in ids if i is not None)


class TextGate:
    """Passes text on, but holds back an end that may be the beginning of a stop string.

    >>> gate = TextGate(("STOP",))
    >>> gate.add("abc ST"), gate.add("ART"), gate.add(" STO"), gate.add("P x"), gate.met
    ('abc ', 'START', ' ', '', 'STOP')
    """

    def __init__(self, stops: tuple[str, ...] = ()):
        self._stops = stops
        self._held = ""
        #: the stop string that was met; nothing passes after it
        self.met: str | None = None

    def add(self, text: str) -> str:
        """Take new text; return what is safe to show."""
        if not self._stops:
            return text
        if self.met is not None:
            return ""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.met = min(found, key=lambda pair: pair[0])
            self._held = ""
            return text[:at]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once nothing more can come."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest suffix of the text that is a prefix of some stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for keep in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-keep:]) for stop in self._stops):
                return keep
        return 0


#: Control tokens that begin a thinking channel or a tool call, which are not part of the answer,
#: and the tokens that end it. The end of a call also ends a channel that was never closed.
_LEAVES = {"<|channel>": ("<channel|>", "<tool_call|>"), "<|tool_call>": ("<tool_call|>",)}


class AnswerText:
    """The text of generated tokens, up to a stop string in the answer.

    Stop strings are looked for in the *answer* alone: the text of channels (with their name line)
    and of tool calls passes unchecked, and a stop string cannot begin before one and end after it.

    Args:
        tokenizer: the model's; None: all texts are empty.
        stops: the stop strings.
        prompt: the tokens before; they may have left a channel open.
    """

    def __init__(self, tokenizer, stops: tuple[str, ...] = (), prompt: Sequence[int] = ()):
        self._text = tokenizer.detokenizer() if tokenizer is not None else None
        self._gate = TextGate(stops)
        names = {} if tokenizer is None else {i: t for t, i in tokenizer.special_ids.items()}
        edges = {*_LEAVES, *sum(_LEAVES.values(), ())}
        self._edges = {i: t for i, t in names.items() if t in edges}
        self._ends: tuple[str, ...] = ()  # what ends the channel or call we are in
        for token in reversed(prompt):
            if token in self._edges or names.get(token) == "<|turn>":
                self._ends = _LEAVES.get(names[token], ())
                break

    @property
    def met(self) -> str | None:
        """The stop string that was met; nothing passes after it."""
        return self._gate.met

    def add(self, token: int) -> str:
        """The text that can be shown now that this token is known."""
        if self._text is None or self.met is not None:
            return ""
        edge = self._edges.get(token)
        if edge is None:
            return self._passed(self._text.add(token))
        text = self._passed(self._text.finish())  # of the stretch before
        if self.met is not None:
            return text
        if edge in self._ends:
            self._ends = ()
        elif edge in _LEAVES and self._ends != _LEAVES["<|tool_call>"]:
            text += self._gate.flush()
            self._ends = _LEAVES[edge]
        return text + self._text.add(token)

    def begin(self, token: int) -> str:
        """The same for a token that the answer was made to begin with, and that no stop string is
        looked for in. Such tokens come before those of :meth:`add`."""
        gate, self._gate = self._gate, TextGate()
        text = self.add(token)
        self._gate = gate
        return text

    def finish(self) -> str:
        """What was held back, once nothing more can come."""
        text = self._passed(self._text.finish()) if self._text is not None else ""
        return text + self._gate.flush()

    def _passed(self, text: str) -> str:
        return text if self._ends else self._gate.add(text)
