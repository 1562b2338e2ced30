"""The tokens of a trace: text, kind, role, and where a soft token lies in its picture or sound."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import TraceError

#: Kinds by code, as stored. The first four are those of ``ModelInputs.token_types``.
KINDS = ("text", "image", "video", "audio", "special")


@dataclass(frozen=True)
class TokenInfo:
    """One token of a trace.

    ``box`` is (x0, y0, x1, y1) in pixels of the picture, ``time`` is (start, end) in seconds of
    the clip; both None for text. ``media`` is the index of the picture or clip in the trace.
    """

    index: int
    id: int
    text: str
    kind: str
    role: str
    media: int | None = None
    box: tuple[float, float, float, float] | None = None
    time: tuple[float, float] | None = None

    @property
    def span(self):
        """The token's place in its medium: its box, its time span, or None."""
        return self.box if self.box is not None else self.time


class Tokens(Sequence):
    """All tokens of a trace, stored as arrays; indexing returns a :class:`TokenInfo`.

    Args:
        ids: (n,) token ids
        texts: n strings, each token as a reader sees it
        kinds: (n,) codes into :data:`KINDS`
        roles: n role names, "" where there is no chat
        boxes: (n, 4) float32, nan rows where there is none, or None
        times: (n, 2) float32 seconds, nan rows where there is none, or None
        media: (n,) number of the token's picture or clip, -1 for none, or None
        media_labels: a name for each medium

    Raises TraceError if the lengths differ.
    """

    def __init__(
        self,
        ids,
        texts,
        kinds=None,
        roles=None,
        boxes=None,
        times=None,
        media=None,
        media_labels=(),
    ):
        self.ids = np.ascontiguousarray(ids, np.int32)
        n = len(self.ids)
        self.texts = list(texts)
        self.kinds = np.zeros(n, np.uint8) if kinds is None else np.asarray(kinds, np.uint8)
        self.roles = [""] * n if roles is None else list(roles)
        self.boxes = None if boxes is None else np.asarray(boxes, np.float32)
        self.times = None if times is None else np.asarray(times, np.float32)
        self.media = np.full(n, -1, np.int16) if media is None else np.asarray(media, np.int16)
        self.media_labels = list(media_labels)
        for name in ("texts", "kinds", "roles", "boxes", "times", "media"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise TraceError(f"{len(values)} {name} for {n} tokens")

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        """One token as :class:`TokenInfo`, a slice as a list of them.

        Raises IndexError for a token outside the trace.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"token {index} of a trace of {n} tokens")
        i = int(index) % n
        box = None if self.boxes is None else tuple(map(float, self.boxes[i]))
        time = None if self.times is None else tuple(map(float, self.times[i]))
        return TokenInfo(
            index=i,
            id=int(self.ids[i]),
            text=self.texts[i],
            kind=KINDS[self.kinds[i]],
            role=self.roles[i],
            media=int(self.media[i]) if self.media[i] >= 0 else None,
            box=None if box is None or np.isnan(box[0]) else box,
            time=None if time is None or np.isnan(time[0]) else time,
        )

    def of_kind(self, kind: str) -> np.ndarray:
        """Which tokens are of a kind: bool (n,). Raises TraceError for an unknown kind."""
        if kind not in KINDS:
            raise TraceError(f"no token kind {kind!r}; there are {', '.join(KINDS)}")
        return self.kinds == KINDS.index(kind)

    @property
    def text(self) -> str:
        """The texts joined."""
        return "".join(self.texts)

    def find(self, text: str) -> list[slice]:
        """Spans of tokens that together hold ``text``, one for each occurrence.

        Raises TraceError for an empty text.
        """
        if not text:
            raise TraceError("an empty text has no span")
        ends = np.cumsum([len(t) for t in self.texts])
        whole, found, at = self.text, [], 0
        while (at := whole.find(text, at)) >= 0:
            first = int(np.searchsorted(ends, at, side="right"))
            last = int(np.searchsorted(ends, at + len(text), side="left"))
            found.append(slice(first, last + 1))
            at += len(text)
        return found

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and JSON-ready values for the trace file."""
        names = sorted(set(self.roles))
        code = {name: i for i, name in enumerate(names)}
        arrays = {
            "ids": self.ids,
            "kinds": self.kinds,
            "roles": np.array([code[r] for r in self.roles], np.uint16),
            "media": self.media,
        }
        if self.boxes is not None:
            arrays["boxes"] = self.boxes
        if self.times is not None:
            arrays["times"] = self.times
        return arrays, {"texts": self.texts, "roles": names, "media_labels": self.media_labels}

    @classmethod
    def from_arrays(cls, arrays, meta) -> "Tokens":
        """From what a trace's file holds. Raises ValueError for a kind that does not exist, and
        for texts that are none."""
        for name in ("texts", "roles", "media_labels"):
            if not all(isinstance(text, str) for text in meta[name]):
                raise ValueError(f"{name} that are no text")
        if arrays["kinds"].size and arrays["kinds"].max() >= len(KINDS):
            raise ValueError(f"tokens of kind {arrays['kinds'].max()}, there are {len(KINDS)}")
        return cls(
            arrays["ids"],
            meta["texts"],
            arrays["kinds"],
            [meta["roles"][i] for i in arrays["roles"]],
            arrays.get("boxes"),
            arrays.get("times"),
            arrays["media"],
            meta["media_labels"],
        )


#: Control token that opens a stretch -> (role inside, control token that closes it).
_STRETCHES = {
    "<|channel>": ("thinking", "<channel|>"),
    "<|tool_call>": ("tool call", "<tool_call|>"),
    "<|tool_response>": ("tool", "<tool_response|>"),
    "<|tool>": ("tools", "<tool|>"),
}


def roles_of(texts: Sequence[str], special: Sequence[bool]) -> list[str]:
    """The role of every token, derived from the chat format's control tokens.

    ``<|turn>user\\n ... <turn|>`` makes "user", ``system`` and ``model`` likewise; inside a turn,
    thinking channels, tool declarations, calls and responses have roles of their own. ``special``
    says which tokens are real control tokens: text that spells one changes nothing.
    """
    roles, turn, inner, closing = [], "", None, None
    naming = False  # between <|turn> and the end of the line that names the role
    for text, control in zip(texts, special):
        if control and text == "<|turn>":
            turn, inner, naming = "", None, True
            start = len(roles)
            roles.append("")
            continue
        if naming:
            turn += text
            roles.append("")
            if "\n" in text or control:
                turn = turn.split("\n")[0].strip()
                roles[start:] = [turn] * (len(roles) - start)
                naming = False
            continue
        if control and text in _STRETCHES:
            inner, closing = _STRETCHES[text]
        roles.append(inner or turn)
        if control and inner and text == closing:
            inner = None
        elif control and text == "<turn|>":
            turn, inner = "", None
    if naming:
        roles[start:] = [turn.strip()] * (len(roles) - start)
    return roles
