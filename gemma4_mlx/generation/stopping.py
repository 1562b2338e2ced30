"""When the answer ends: stop tokens, stop strings, and text that must wait to be shown."""

from collections.abc import Iterable

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
    """Passes text on, holding back what may yet turn out to be the start of a stop string.

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
        """Length of the longest end of the text that begins some stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for keep in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-keep:]) for stop in self._stops):
                return keep
        return 0
