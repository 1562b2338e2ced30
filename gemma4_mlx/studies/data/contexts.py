"""Places in the corpus where an expert was at work: the strongest, and a random sample.

Of either an expert keeps a bounded number, by a rule that does not depend on the order in which
documents come or on how the corpus was split: those with the smallest keys. The key of the
strongest is what their gate lacks of the largest number; each piece of text gives an expert at most
one, so that they are of different texts. The key of the sample is a hash of the text, the place,
the layer and the expert, which makes it a uniform sample of the expert's tokens (bottom-k
sampling; Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches", 2007). A text that occurs
twice in the corpus counts twice and has one context.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ...tracing.data.trace import Trace
from .pieces import Pieces

#: Tokens shown on each side of the one that the expert worked on.
AROUND = 20
#: Contexts kept of each expert: so many of the strongest, and so many drawn at random.
KEPT = 8
#: Longest side of a kept picture, in pixels.
THUMBNAIL = 48
NOBODY = np.iinfo(np.uint64).max
SORTS = ("strongest", "sampled")
#: Type and trailing shape of what is kept of each context.
FIELDS = {
    "key": (np.uint64, ()),
    "piece": (np.uint64, ()),
    "position": (np.int32, ()),
    "label": (np.int16, ()),
    "gate": (np.float32, ()),
    "medium": (np.uint64, ()),
    "box": (np.float32, (4,)),
    "ids": (np.int32, (2 * AROUND + 1,)),
}


@dataclass(frozen=True)
class Context:
    """A place where an expert was at work.

    Attributes:
        before, text, after: the tokens' texts: up to 20, the one that went to the expert, up to 20.
        id: token id.
        label: of the document.
        position: of the token in its piece of the document.
        gate: the expert's share of the token's gate.
        sort: "strongest" or "sampled".
        picture: for a picture's patch the picture, small, (h, w, 3) uint8; else None.
        box: left, top, right, bottom of the patch as parts of the picture's width and height; or
            None.
    """

    before: str
    text: str
    after: str
    id: int
    label: str
    position: int
    gate: float
    sort: str
    picture: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None


class Contexts:
    """Contexts of ``rows`` experts (layer after layer).

    ``arrays[sort][field]`` (rows, kept, ...), smallest keys first; a slot without context has the
    largest key. ``pictures``: key -> picture, of those that contexts point at.
    """

    def __init__(self, rows: int, arrays=None, pictures=None):
        self.arrays = arrays or {sort: _empty(rows, KEPT) for sort in SORTS}
        self.pictures: dict[int, np.ndarray] = pictures or {}
        self._many = 64 + 2 * len(self.pictures)  # so many, and it is looked who needs them

    def add(self, number: int, documents: Pieces, keys: np.ndarray) -> None:
        """Offer the tokens of some documents. ``number``: of their label; ``keys``: of each piece,
        of :func:`piece_key`."""
        routing = documents.routing
        E, shape = routing.num_experts, routing.experts.shape
        rows = ((np.arange(shape[0]) * E)[:, None, None] + routing.experts).ravel()
        at = np.broadcast_to(np.arange(shape[1])[:, None], shape).ravel()
        gate = np.stack([routing.gate(layer) for layer in routing.layers]).ravel()
        drawn = _drawn(keys[documents.piece[at]], rows, documents.position[at])
        for sort, key in (("strongest", _weakness(gate)), ("sampled", drawn)):
            kept = self.arrays[sort]
            chosen = np.flatnonzero(key <= kept["key"][rows, -1])
            if sort == "strongest":
                chosen = _first_of_each(rows, documents.piece[at], key, chosen)
            if len(chosen):
                some = rows[chosen], key[chosen], at[chosen], gate[chosen]
                self._offer(kept, number, documents, keys, *some)

    def _offer(self, kept, number, documents: Pieces, keys, rows, key, at, gate) -> None:
        piece = keys[documents.piece[at]]
        order = np.lexsort((documents.position[at], piece, key, rows))
        rows, key, at, gate, piece = (x[order] for x in (rows, key, at, gate, piece))
        starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
        few = rank < KEPT
        rows, key, at, gate, piece, rank = (x[few] for x in (rows, key, at, gate, piece, rank))
        touched, slot = np.unique(rows, return_inverse=True)
        offered = _empty(len(touched), int(rank.max()) + 1)
        place = (slot, rank)
        offered["key"][place], offered["piece"][place] = key, piece
        offered["position"][place], offered["label"][place] = documents.position[at], number
        offered["gate"][place] = gate
        offered["ids"][place] = _windows(documents, at)
        offered["medium"][place], offered["box"][place] = self._pictures_of(documents, at)
        merged = _best({name: kept[name][touched] for name in FIELDS}, offered)
        for name in FIELDS:
            kept[name][touched] = merged[name]
        if len(self.pictures) > self._many:
            self.prune()

    def _pictures_of(self, documents: Pieces, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Key of the picture that each token is a part of (0: of none), and its box in it."""
        keys, boxes = np.zeros(len(at), np.uint64), np.full((len(at), 4), np.nan, np.float32)
        for i, (start, piece) in enumerate(zip(documents.starts, documents.pieces)):
            trace = piece.trace
            if not trace.media or trace.tokens.boxes is None:
                continue
            mine = np.flatnonzero(documents.piece[at] == i)
            places = at[mine] - start
            for number, medium in enumerate(trace.media):
                here = trace.tokens.media[places] == number
                if not here.any() or medium.ndim != 3:
                    continue
                key = int.from_bytes(blake2b(np.ascontiguousarray(medium), digest_size=8).digest())
                keys[mine[here]] = key
                height, width = medium.shape[:2]
                size = np.float32([width, height, width, height])
                boxes[mine[here]] = trace.tokens.boxes[places[here]] / size
                self.pictures[key] = _thumbnail(medium)
        return keys, boxes

    def merged(self, other: "Contexts", numbers: np.ndarray, theirs: np.ndarray) -> "Contexts":
        """Both in one; ``numbers``, ``theirs``: the new numbers of the labels of each."""
        joined = {}
        for sort in SORTS:
            parts = []
            for part, new in ((self, numbers), (other, theirs)):
                fields = dict(part.arrays[sort])
                renumbered = np.array([*new, -1], np.int16)  # an empty slot's -1 finds the last
                fields["label"] = renumbered[fields["label"]]
                parts.append(fields)
            joined[sort] = _best(*parts)
        result = Contexts(0, joined, {**self.pictures, **other.pictures})
        result.prune()
        return result

    @classmethod
    def from_arrays(cls, rows: int, labels: int, arrays: dict, pictures: dict) -> "Contexts":
        """From what a file holds. Raises ValueError for arrays that do not belong together, a label
        that does not exist, and pictures that are none."""
        for fields in arrays.values():
            for name, (kind, tail) in FIELDS.items():
                array = fields[name]
                if array.shape != (rows, KEPT, *tail) or array.dtype != kind:
                    raise ValueError(f"{name} of shape {array.shape} and type {array.dtype}")
            used = fields["key"] != NOBODY
            if (
                used.any()
                and not 0 <= fields["label"][used].min() <= fields["label"].max() < labels
            ):
                raise ValueError(f"a context of label {fields['label'].max()}, there are {labels}")
        for key, picture in pictures.items():
            if (
                picture.ndim != 3
                or picture.shape[2] != 3
                or not picture.size
                or (picture.dtype != np.uint8)
            ):
                raise ValueError(f"picture {key} of shape {picture.shape}")
        return cls(rows, arrays, pictures)

    def prune(self) -> None:
        """Forget pictures that no context points at any longer."""
        used = {int(k) for sort in SORTS for k in np.unique(self.arrays[sort]["medium"])}
        self.pictures = {key: self.pictures[key] for key in sorted(self.pictures) if key in used}
        self._many = 64 + 2 * len(self.pictures)

    def of(self, row: int, labels, texts, most: int) -> list[Context]:
        """One expert's contexts, of each sort at most so many. ``texts(id)``: a token's text."""
        found = []
        for sort in SORTS:
            # Lists: a number of an array that lies in a file takes microseconds.
            own = {name: self.arrays[sort][name][row, :most].tolist() for name in FIELDS}
            for slot in range(len(own["key"])):
                one = {name: own[name][slot] for name in FIELDS}
                if one["key"] == NOBODY:
                    continue
                words = [texts(i) if i >= 0 else "" for i in one["ids"]]
                picture = self.pictures.get(one["medium"])
                found.append(
                    Context(
                        "".join(words[:AROUND]),
                        words[AROUND],
                        "".join(words[AROUND + 1 :]),
                        one["ids"][AROUND],
                        labels[one["label"]],
                        one["position"],
                        one["gate"],
                        sort,
                        picture,
                        None if picture is None else tuple(one["box"]),
                    )
                )
        return found


def piece_key(label: str, trace: Trace) -> np.uint64:
    """A number for a piece of text under a label, the same wherever it is met."""
    said = label.encode() + b"\0" + trace.tokens.ids.tobytes()
    for medium in trace.media:
        said += blake2b(np.ascontiguousarray(medium), digest_size=8).digest()
    return np.uint64(int.from_bytes(blake2b(said, digest_size=8).digest()) >> 1)


def hash_of(*keys: int) -> int:
    """One number, below :data:`NOBODY`, of several."""
    said = b"".join(key.to_bytes(8) for key in keys)
    return int.from_bytes(blake2b(said, digest_size=8).digest()) >> 1


def _weakness(gate: np.ndarray) -> np.ndarray:
    """Smaller for a larger share of the gate: float32 bits are in the order of their numbers."""
    bits = np.ascontiguousarray(gate, np.float32).view(np.uint32)
    return (np.uint32(0xFFFFFFFF) - bits).astype(np.uint64)


def _drawn(piece: np.ndarray, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A hash of (piece, row, position), uint64 below :data:`NOBODY` (splitmix64)."""
    with np.errstate(over="ignore"):
        x = piece + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = _mixed(x) + at.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        return _mixed(x) >> np.uint64(1)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _first_of_each(rows: np.ndarray, piece: np.ndarray, key: np.ndarray, chosen: np.ndarray):
    """Of those chosen the one with the smallest key in each row and piece, the earliest of
    equals."""
    chosen = chosen[np.lexsort((chosen, key[chosen], piece[chosen], rows[chosen]))]
    row, number = rows[chosen], piece[chosen]
    first = np.ones(len(chosen), bool)
    first[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1])
    return chosen[first]


def _windows(documents: Pieces, at: np.ndarray) -> np.ndarray:
    """Each of the tokens ``at`` with those around it, -1 beyond its piece: (r, 2 * AROUND + 1)."""
    around = at[:, None] + np.arange(-AROUND, AROUND + 1)
    inside = np.clip(around, 0, len(documents.ids) - 1)
    here = (inside == around) & (documents.piece[inside] == documents.piece[at][:, None])
    return np.where(here, documents.ids[inside], -1)


def _empty(rows: int, kept: int) -> dict[str, np.ndarray]:
    fields = {name: np.zeros((rows, kept, *tail), kind) for name, (kind, tail) in FIELDS.items()}
    for name in ("key", "piece"):
        fields[name][:] = NOBODY
    for name in ("position", "label", "ids"):
        fields[name][:] = -1
    fields["box"][:] = np.nan
    return fields


def _best(a: dict, b: dict) -> dict[str, np.ndarray]:
    """The :data:`KEPT` smallest keys of each row of both, each context once."""
    both = {name: np.concatenate([a[name], b[name]], axis=1) for name in FIELDS}
    both = _sorted(both)
    same = np.zeros(both["key"].shape, bool)
    same[:, 1:] = both["key"][:, 1:] != NOBODY
    for name in ("key", "piece", "position"):
        same[:, 1:] &= both[name][:, 1:] == both[name][:, :-1]
    if same.any():
        nothing = _empty(*same.shape)
        for name in FIELDS:
            both[name][same] = nothing[name][same]
        both = _sorted(both)
    return {name: both[name][:, :KEPT] for name in FIELDS}


def _sorted(fields: dict) -> dict[str, np.ndarray]:
    order = np.lexsort((fields["position"], fields["piece"], fields["key"]), axis=-1)
    rows = np.arange(len(order))[:, None]
    return {name: values[rows, order] for name, values in fields.items()}


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) uint8 as means of equal squares, at most :data:`THUMBNAIL` on a side."""
    height, width = picture.shape[:2]
    block = max(1, -(-max(height, width) // THUMBNAIL))
    rows, columns = max(1, height // block), max(1, width // block)
    cut = picture[: rows * block, : columns * block]
    if cut.shape[:2] != (rows * block, columns * block):  # narrower than one square
        return picture[:1, :1]
    squares = cut.reshape(rows, block, columns, block, 3)
    return squares.mean(axis=(1, 3)).round().astype(np.uint8)
