"""Specialisation of experts: how much more often they are chosen for some groups of tokens.

The *lift* of an expert for a group is its load among the group's tokens over its load among all
tokens: 1 says that the group makes no difference, 3 that a token of the group goes there three
times as often as any token. Weighted by the groups' shares of the tokens, an expert's lifts have
mean 1.
"""

from dataclasses import dataclass

import numpy as np

from ...errors import TraceError
from .groups import Groups

#: A lift is used only if the expert would get at least this many of the group's tokens by chance.
LEAST_EXPECTED = 5
#: An expert counts as one for a group if its lift, less two standard errors, is above this.
LEAST_LIFT = 1.15


@dataclass(frozen=True)
class Specialisation:
    """Loads and lifts of every expert for groups of tokens.

    ``layers``: the traced layers. ``groups``: names and sizes of the groups. ``counts``
    (layers, groups, E): how many of a group's tokens went to each expert.
    """

    layers: tuple[int, ...]
    groups: Groups
    counts: np.ndarray

    @property
    def load(self) -> np.ndarray:
        """Share of each group's tokens that an expert worked on: (layers, groups, E)."""
        return self.counts / self.groups.tokens[:, None]

    @property
    def overall(self) -> np.ndarray:
        """Share of all tokens that an expert worked on: (layers, E), the trace's load."""
        return self.counts.sum(axis=1) / self.groups.tokens.sum()

    @property
    def lift(self) -> np.ndarray:
        """Load among the group over load among all tokens, (layers, groups, E); nan for an expert
        nobody uses."""
        overall = self.overall[:, None]
        return np.divide(
            self.load, overall, where=overall > 0, out=np.full(self.load.shape, np.nan)
        )

    @property
    def enough(self) -> np.ndarray:
        """Whether a lift rests on enough tokens: :data:`LEAST_EXPECTED` or more of the group would
        go to the expert if the group made no difference. bool (layers, groups, E)."""
        return self.overall[:, None] * self.groups.tokens[:, None] >= LEAST_EXPECTED

    @property
    def purpose(self) -> np.ndarray:
        """Index of the group that each expert is most clearly for, (layers, E); -1 for none.

        The group with the highest lift after two standard errors of its count are taken away, so
        that a handful of tokens names no expert; none if that is not above :data:`LEAST_LIFT`.
        """
        expected = self.overall[:, None] * self.groups.tokens[:, None]
        sure = np.where(self.enough, self.counts - 2 * np.sqrt(self.counts), 0)
        sure = np.divide(sure, expected, where=expected > 0, out=np.zeros(expected.shape))
        best = sure.argmax(axis=1)
        return np.where(sure.max(axis=1) > LEAST_LIFT, best, -1)

    def experts(self, group: str, above: float = 2.0) -> list[dict]:
        """The experts whose lift for a group is at least ``above``, highest first, of those with
        enough tokens: ``layer``, ``expert``, ``lift``, ``load`` (of all tokens).

        Raises TraceError for a group that the trace does not have.
        """
        if group not in self.groups.names:
            raise TraceError(f"no {group!r} here; there are {', '.join(self.groups.names)}")
        g = self.groups.names.index(group)
        lift = np.where(self.enough[:, g], self.lift[:, g], 0)
        overall = self.overall
        found = [
            {
                "layer": self.layers[i],
                "expert": int(e),
                "lift": float(lift[i, e]),
                "load": float(overall[i, e]),
            }
            for i, e in zip(*np.nonzero(lift >= above))
        ]
        return sorted(found, key=lambda row: -row["lift"])
