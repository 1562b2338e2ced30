"""One layer's attention in a trace: its arrays, retained queries and keys, and file entries."""

from dataclasses import dataclass, field

import numpy as np

from .tiles import as_float32

#: The fields that are written to the trace file: arrays, and properties as JSON.
_ARRAYS = (
    "normaliser",
    "mass",
    "peak",
    "columns",
    "offset_mass",
    "link_queries",
    "link_keys",
    "link_weights",
    "queries",
    "keys",
)
_FACTS = (
    "layer",
    "type",
    "window",
    "donor",
    "heads",
    "all_heads",
    "kv_heads",
    "back",
    "dtype",
    "kept",
)


@dataclass
class LayerAttention:
    """One layer's arrays; H recorded heads, n tokens, R bins.

    ``mass``, ``peak`` (H, R, R) or, with ``back`` set, the band (H, R, columns) whose column c
    is key bin ``row - back + c``. ``normaliser`` (H, n), ``columns`` (H, n), ``statistics``
    {name: (H, R)} sums over each bin's queries. ``offset_mass`` (H, R, B) float16, for a sliding
    layer: mean mass of each bin's queries by how far back the key lies, in B cells of
    ceil(window / B) tokens. ``link_*`` (H, K), strongest first.
    ``queries`` (K, n, D) of the heads ``kept`` (by default all of ``heads``) and ``keys`` (kv
    heads, n, D) where retained, in ``dtype``, bfloat16 as its 16 bits: see
    :meth:`.AttentionData.queries`. A KV-shared layer's keys are its donor's.
    """

    layer: int
    type: str
    window: int | None
    donor: int
    heads: tuple[int, ...]
    all_heads: int
    kv_heads: int
    normaliser: np.ndarray
    mass: np.ndarray | None = None
    peak: np.ndarray | None = None
    back: int | None = None
    columns: np.ndarray | None = None
    offset_mass: np.ndarray | None = None
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    link_queries: np.ndarray | None = None
    link_keys: np.ndarray | None = None
    link_weights: np.ndarray | None = None
    queries: np.ndarray | None = None
    keys: np.ndarray | None = None
    dtype: str = "float32"
    kept: tuple[int, ...] = ()

    def __post_init__(self):
        if self.queries is None:
            self.kept = ()
        elif not self.kept:
            self.kept = self.heads

    def kv_head(self, head: int) -> int:
        """The KV head whose keys a query head uses."""
        return head // (self.all_heads // self.kv_heads)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays by name and facts, for the trace file."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        arrays |= {f"statistics.{name}": sums for name, sums in self.statistics.items()}
        return arrays, {fact: getattr(self, fact) for fact in _FACTS}

    @classmethod
    def from_arrays(cls, arrays: dict, facts: dict, n: int, width: int) -> "LayerAttention":
        """The layer that :meth:`to_arrays` gave, of ``n`` tokens in bins of ``width``.

        Raises ValueError if its arrays and facts do not belong together.
        """
        _check_facts(facts)
        prefix = "statistics."
        statistics = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        values = {k: v for k, v in arrays.items() if "." not in k}
        facts = {**facts, "heads": tuple(facts["heads"]), "kept": tuple(facts.get("kept", ()))}
        part = cls(**facts, statistics=statistics, **values)
        _check_shapes(part, n, width)
        return part


@dataclass
class Vectors:
    """Queries and keys of one layer, of some heads and spans of tokens, as the model made them.

    ``queries`` (K, r, D) of ``heads``, from token ``query_start`` on; ``keys`` (kv heads, c, D)
    from token ``key_start`` on; bfloat16 as its 16 bits, see ``dtype``.
    """

    heads: tuple[int, ...]
    queries: np.ndarray
    keys: np.ndarray
    dtype: str
    query_start: int = 0
    key_start: int = 0

    @property
    def nbytes(self) -> int:
        return self.queries.nbytes + self.keys.nbytes

    def queries_of(self, head: int, rows: slice) -> np.ndarray:
        """float32 (r, D); only what is asked for is converted."""
        rows = slice(rows.start - self.query_start, rows.stop - self.query_start)
        return as_float32(self.queries[self.heads.index(head), rows], self.dtype)

    def keys_of(self, kv_head: int, rows: slice) -> np.ndarray:
        """float32 (c, D); only what is asked for is converted."""
        rows = slice(rows.start - self.key_start, rows.stop - self.key_start)
        return as_float32(self.keys[kv_head, rows], self.dtype)


def check_whole(values: list, least: int, what: str) -> None:
    """Raise ValueError unless all are integers of at least ``least``."""
    if any(type(value) is not int or value < least for value in values):
        raise ValueError(f"{what}: {values}, expected whole numbers from {least} on")


def _check_facts(facts: dict) -> None:
    """Raise ValueError if properties that must be integers are not, as in a damaged file."""
    known = [facts[name] for name in ("window", "back") if facts[name] is not None]
    known += [facts["layer"], facts["donor"], *facts["heads"], *facts.get("kept", ())]
    check_whole(known, 0, "a layer's facts")
    check_whole([facts["all_heads"], facts["kv_heads"]], 1, "numbers of heads")


def _check_shapes(part: LayerAttention, n: int, width: int) -> None:
    """Raise ValueError unless the shapes of a layer's arrays match."""
    H, R = len(part.heads), -(-n // width)
    if not all(0 <= head < part.all_heads for head in part.heads):
        raise ValueError(f"heads {part.heads} of {part.all_heads} in layer {part.layer}")
    if not set(part.kept) <= set(part.heads):
        raise ValueError(f"kept heads {part.kept} among {part.heads} in layer {part.layer}")
    columns = (R,) if part.back is None else np.shape(part.mass)[2:]
    links = np.shape(part.link_weights)[1:]
    wanted = {
        "normaliser": (H, n), "columns": (H, n),
        "offset_mass": (H, R, *np.shape(part.offset_mass)[2:3]),
        "mass": (H, R, *columns), "peak": (H, R, *columns),
        "link_weights": (H, *links), "link_queries": (H, *links), "link_keys": (H, *links),
        "queries": (len(part.kept), n, part.queries.shape[-1] if part.queries is not None else 0),
        "keys": (part.kv_heads, n, part.keys.shape[-1] if part.keys is not None else 0),
    }  # fmt: skip
    found = {name: getattr(part, name) for name in wanted}
    for names in (("mass", "peak"), ("link_weights", "link_queries", "link_keys")):
        if len({found[name] is None for name in names}) > 1:
            raise ValueError(f"not all of {', '.join(names)} are there for layer {part.layer}")
    found |= part.statistics
    wanted |= dict.fromkeys(part.statistics, (H, R))
    for name, array in found.items():
        if array is not None and array.shape != wanted[name]:
            raise ValueError(
                f"{name} of layer {part.layer} has the shape {array.shape}, expected {wanted[name]}"
            )
