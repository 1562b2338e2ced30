"""Head roles: what each attention head does over many prompts, as a value.

It can be saved to one file and opened on a machine without MLX and without weights. Everything in
this module and what it imports needs numpy alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import AttributionError
from ..tracing.data import fileformat
from ..tracing.data.frames import to_frame

FILE = fileformat.Kind("g4heads", "a file of head roles", 1, AttributionError)
#: Role -> what its score is. The order is that of labels: the most special first.
ROLES = {
    "retrieval": "share of the needle's tokens that the head copies",
    "induction": "mass on the tokens that followed earlier copies of the query's token",
    "duplicate": "mass on earlier copies of the query's token",
    "previous": "mass on the token before",
    "picture": "mass of text on the tokens of pictures and films",
    "sound": "mass of text on the tokens of sounds",
    "sink": "mass on the first token of the context",
}
#: A head has a role from this score on: of retrieval what Wu et al. take, of masses half of all.
FROM = {name: 0.1 if name == "retrieval" else 0.5 for name in ROLES}


@dataclass(frozen=True)
class HeadRole:
    """A head and its score in one role. ``chance``: what a head would have that looks everywhere
    alike."""

    layer: int
    head: int
    role: str
    score: float
    chance: float


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """The roles of every attention head of a model: see :func:`.head_roles`.

    Attributes:
        scores: role -> (layers, heads) float32 from 0 to 1, mean over the prompts that could tell;
            nan where none could. See :data:`ROLES`.
        chance: role -> (layers,) float32, the score of a head that looks everywhere alike.
        prompts: role -> (layers,) int32, how many prompts could tell.
        layer_types: of each layer, "sliding_attention" or "full_attention".
        model: facts about the model, as a trace's.
        interventions: what was changed in the model, as text.
    """

    scores: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    prompts: dict[str, np.ndarray]
    layer_types: tuple[str, ...]
    model: dict = field(default_factory=dict)
    interventions: tuple[str, ...] = ()

    def __repr__(self):
        layers, heads = self.shape
        counts = {name: sum(name in roles for roles in self.labels.values()) for name in ROLES}
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"HeadRoles({layers} layers x {heads} heads: {said or 'no head has a role'})"

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.scores["sink"].shape

    def of(self, role: str) -> np.ndarray:
        """Scores (layers, heads) of a role. Raises AttributionError for one that is none."""
        if role not in ROLES:
            raise AttributionError(f"no role {role!r}; there are {', '.join(ROLES)}")
        return self.scores[role]

    def top(self, role: str, n: int = 10) -> list[HeadRole]:
        """The n heads with the highest scores in a role, of those that could be scored.

        Raises AttributionError for a role that is none.
        """
        scores = self.of(role)
        order = np.argsort(-scores, axis=None, kind="stable")[: np.isfinite(scores).sum()][:n]
        places = (divmod(int(i), scores.shape[1]) for i in order)
        return [
            HeadRole(i, j, role, float(scores[i, j]), float(self.chance[role][i]))
            for i, j in places
        ]

    @property
    def labels(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """(layer, head) -> its roles, the most special first, of heads that have any: scores from
        :data:`FROM` on."""
        found: dict[tuple[int, int], tuple[str, ...]] = {}
        for role, scores in self.scores.items():
            for i, j in np.argwhere(np.nan_to_num(scores) >= FROM[role]).tolist():
                found[i, j] = (*found.get((i, j), ()), role)
        return found

    def to_dataframe(self, library: str = "pandas"):
        """One row for each head: layer, head, type, the score of each role (nan where no prompt
        could tell), and label, its roles joined by commas.

        Raises TraceError if that library is not installed or not known.
        """
        layers, heads = self.shape
        columns = {
            "layer": np.repeat(np.arange(layers, dtype=np.int32), heads),
            "head": np.tile(np.arange(heads, dtype=np.int32), layers),
            "type": [kind for kind in self.layer_types for _ in range(heads)],
        }
        columns |= {role: scores.ravel() for role, scores in self.scores.items()}
        labels = self.labels
        columns["label"] = [
            ", ".join(labels.get((i, j), ())) for i in range(layers) for j in range(heads)
        ]
        return to_frame(columns, library)

    def save(self, path) -> Path:
        """Write a ``.g4heads`` file, laid out as a trace's; returns its path.

        Raises AttributionError if it cannot be written.
        """
        arrays = {}
        for kind in ("scores", "chance", "prompts"):
            arrays |= {f"{kind}.{role}": x for role, x in getattr(self, kind).items()}
        description = {
            "layer_types": list(self.layer_types),
            "model": self.model,
            "interventions": list(self.interventions),
        }
        return fileformat.save(path, arrays, description, FILE)


def open_head_roles(path) -> HeadRoles:
    """Open a ``.g4heads`` file.

    Raises AttributionError if the file is missing, damaged, cut short or of a newer version.
    """
    return fileformat.opened(path, _from_file, FILE)


def _from_file(arrays: dict, said: dict) -> HeadRoles:
    kinds = {"scores": np.float32, "chance": np.float32, "prompts": np.int32}
    found = {kind: {role: arrays.pop(f"{kind}.{role}") for role in ROLES} for kind in kinds}
    if arrays:
        raise ValueError(f"an array {min(arrays)!r}")
    layers, heads = found["scores"]["sink"].shape
    for kind, dtype in kinds.items():
        shape = (layers, heads) if kind == "scores" else (layers,)
        for role, array in found[kind].items():
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{kind} of {role}: {array.dtype} {array.shape}, not {shape}")
    layer_types = tuple(map(str, said["layer_types"]))
    if len(layer_types) != layers:
        raise ValueError(f"types of {len(layer_types)} layers, scores of {layers}")
    return HeadRoles(
        **found,
        layer_types=layer_types,
        model=dict(said["model"]),
        interventions=tuple(map(str, said["interventions"])),
    )
