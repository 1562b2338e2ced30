"""What views ask an atlas for: tables of its labels, their significance, an expert's card.

:class:`AtlasSource` has the answers; :class:`AtlasAnswers` are those that ``Atlas`` and ``Routing``
both give.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from ..errors import StudyError
from ..studies.data.contexts import KEPT
from ..studies.data.counts import GROUPINGS, VOCABULARIES
from ..studies.data.lookup import Lookup
from ..tracing.data.specialisation import Specialisation
from .grouptable import group_table
from .jobs import Jobs
from .traceview import picture_bytes

#: Measures of experts: key -> (what it is called, what it says).
MEASURES = {
    "norm": (
        "mean norm of outputs",
        "mean norm of what the expert puts out, before it is weighted",
    ),
    "reap": ("REAP", "mean of weight times norm of the output: what is lost with the expert"),
    "gate": ("REAP without scale", "the same without the learned scale of the expert"),
    "largest": ("largest norm", "largest norm of an output of the expert"),
    "scale": ("learned scale", "what the model multiplies the expert's output by"),
}


@dataclass(frozen=True)
class Tested(Specialisation):
    """Loads and lifts by label; an expert is for the label with the highest lift of those that are
    more than chance and large: ``best`` (layers, E), -1 for none."""

    best: np.ndarray

    @property
    def purpose(self) -> np.ndarray:
        return self.best


class AtlasSource:
    """Answers for the front end (``static/atlas*.js``) from one atlas."""

    def __init__(self, atlas: Any):
        if not hasattr(atlas, "lifts"):
            raise TypeError(f"an atlas of experts is needed, not a {type(atlas).__name__}")
        self.atlas, self.lookup = atlas, Lookup(atlas)
        if not atlas.tokens:
            raise StudyError("this atlas has no documents yet: there is nothing to show")
        self.shown = np.flatnonzero(atlas.counts["tokens"])  # labels with documents
        self.pictures: dict[str, bytes] = {}  # PNGs that cards refer to

    def check_model(self, model: dict, routing: Any) -> None:
        """Raise StudyError unless the atlas is of the model of a trace (``Trace.model``, and its
        ``routing``)."""
        if routing is None:
            raise StudyError("this trace has no routing, whose experts an atlas could name")
        subject = self.atlas.counts.subject
        mine, theirs = subject.fingerprint, model.get("fingerprint", "")
        has = (tuple(routing.layers), routing.num_experts, routing.k)
        if mine != theirs or has != (subject.layers, subject.num_experts, subject.k):
            raise StudyError(
                f"this atlas is of another model than the trace: "
                f"{self.atlas.model.get('source') or 'unnamed'!r}, {len(subject.layers)} layers of "
                f"{subject.num_experts} experts, against {model.get('source') or 'unnamed'!r}, "
                f"{len(routing.layers)} of {routing.num_experts}. Build one with "
                "g4.atlas(model, ...)"
            )

    def groupings(self) -> list[str]:
        """By what documents or tokens are grouped here, where there are several groups."""
        atlas = self.atlas
        return ["label", *(by for by in GROUPINGS if (atlas.counts[f"{by}_tokens"] > 0).sum() > 1)]

    def labels(self) -> list[dict]:
        """Labels with documents: ``name``, ``documents``, ``tokens``."""
        counts = self.atlas.counts
        return [
            {
                "name": self.atlas.labels[g],
                "documents": int(counts["documents"][g]),
                "tokens": int(counts["tokens"][g]),
            }
            for g in self.shown
        ]

    def groups(self, by: str = "label") -> tuple[dict, bytes]:
        """Loads and lifts: :func:`.grouptable.group_table`. What experts are for by label is told
        with :meth:`significance`."""
        found = self.atlas.by(by)
        none = np.full(self.atlas.counts.all_counts.shape, -1) if by == "label" else None
        return group_table(found, none)

    @property
    def is_tested(self) -> bool:
        """Whether it is known which lifts are more than chance: at real sizes it takes a second."""
        return "lifts" in vars(self.lookup)

    def tested(self) -> Tested:
        """The labels' table, with what experts are for."""
        found, lifts = self.atlas.by("label"), self.lookup.lifts
        lift = np.where(lifts.found(), lifts.lift, 0)[:, self.shown]
        best = np.where(lift.max(axis=1) > 0, lift.argmax(axis=1), -1)
        return Tested(found.layers, found.groups, found.counts, best)

    def significance(self) -> bytes:
        """q of every lift by label, :attr:`.Lifts.q`: float32 (layers, labels, E), nan where there
        is nothing to test."""
        return self.lookup.lifts.q[:, self.shown].astype("<f4").tobytes()

    def kinds(self) -> dict[str, list[str]]:
        """Vocabulary -> kinds of its tokens, of vocabularies that were counted."""
        lookup = self.lookup
        counted = [name for name in VOCABULARIES if lookup.vocabulary(name).seen.any()]
        return {name: list(lookup.kinds(name)) for name in counted}

    def measures(self) -> dict[str, np.ndarray]:
        """(layers, E) of those of :data:`MEASURES` that were recorded."""
        atlas, found = self.atlas, {}
        if atlas.counts["normed"].any():
            found = {"norm": atlas.norm(), "reap": atlas.reap()}
            if atlas.scale is not None:
                found["gate"] = atlas.reap(scaled=False)
            found["largest"] = np.where(
                atlas.counts["normed"] > 0, atlas.counts["largest_norm"], np.nan
            )
        if atlas.scale is not None:
            found["scale"] = atlas.scale
        return found

    def card(self, layer: int, expert: int, contexts: int = KEPT) -> dict:
        """An expert's card, :meth:`.Lookup.card`, as JSON: pictures by their key in
        ``self.pictures``. ``contexts``: of each sort, at most."""
        card = self.lookup.card(int(layer), int(expert), contexts=int(contexts))
        card["contexts"] = [self._context(each) for each in card["contexts"]]
        for name in VOCABULARIES:
            card[name] = [
                [row["text"], row["count"], round(row["share"], 4), round(row["lift"], 2)]
                for row in card[name]
            ]
        for name in ("companions", "before", "after"):
            card[name] = [
                [row["expert"], round(row["share"], 4), round(row["lift"], 2)] for row in card[name]
            ]
        return card

    def _context(self, context: Any) -> dict:
        """What is shown of a ``Context``."""
        said = {
            "before": context.before,
            "text": context.text,
            "after": context.after,
            "label": context.label,
            "gate": round(float(np.nan_to_num(context.gate)), 3),
            "sort": context.sort,
        }
        if context.picture is not None and np.isfinite(context.box).all():
            key = blake2b(np.ascontiguousarray(context.picture), digest_size=8).hexdigest()
            if key not in self.pictures:
                self.pictures[key] = picture_bytes(context.picture)[0]
            said["picture"] = key
            said["size"] = list(context.picture.shape[1::-1])
            said["box"] = [round(side, 4) for side in context.box]
        return said

    def find(self, text: str = "", kind: str = "", vocabulary: str = "input", n: int = 20):
        """Which experts work on a text's tokens or on those of a kind: the tokens, and rows of
        ``[layer, expert, share, lift]``; then the lift of every expert, float32 (layers, E)."""
        lookup = self.lookup
        if kind:
            ids = lookup.of_kind(kind, vocabulary)
        else:
            ids = lookup.tokens(text, vocabulary)
        found = lookup.vocabulary(vocabulary)
        seen = found.seen[ids]
        order = np.argsort(-seen, kind="stable")[:40]
        among = found.among(ids)
        rows = [
            [row["layer"], row["expert"], round(row["share"], 4), round(row["lift"], 3)]
            for row in found.best(among, n)
        ]
        content = {
            "tokens": [self.atlas.text(ids[i]) for i in order],
            "kinds": len(ids),
            "occurrences": int(seen.sum()),
            "counted": round(among.counted, 4),
            "rows": rows,
        }
        return content, among.lift.astype("<f4").tobytes()

    def neighbours(self, layer: int, expert: int, by: str = "tokens", n: int = 20):
        """The experts most like one, rows of ``[layer, expert, similarity]``; then the similarity
        of every expert, float32 (layers, E)."""
        similar = self.lookup.similarity(int(layer), int(expert), by)
        rows = self.lookup.neighbours(int(layer), int(expert), n, by)
        content = [[r["layer"], r["expert"], round(r["similarity"], 4)] for r in rows]
        return {"rows": content}, similar.astype("<f4").tobytes()


class AtlasAnswers:
    """What a widget with an atlas answers; it sets ``source``, which may be None."""

    source: AtlasSource | None
    _jobs: Jobs

    def _needed(self) -> AtlasSource:
        if self.source is None:
            raise StudyError("there is no atlas here: Routing(trace, atlas=atlas)")
        return self.source

    def answer_significance(self) -> dict | tuple[dict, bytes]:
        """:meth:`AtlasSource.significance`, or how far that is, ``{"running": share}``."""
        source = self._needed()
        found = self._jobs.poll("significance", lambda tell: source.significance())
        return found if isinstance(found, dict) else ({}, found)

    def answer_card(self, layer: int, expert: int) -> dict:
        """An expert's card: :meth:`AtlasSource.card`.

        Raises StudyError for a layer or expert that does not exist.
        """
        return self._needed().card(layer, expert)

    def answer_picture(self, key: str) -> tuple[dict, bytes]:
        """A small picture that a card refers to: PNG. Raises StudyError for another key."""
        pictures = self._needed().pictures
        if key not in pictures:
            raise StudyError(f"no card has a picture {key!r}")
        return {}, pictures[key]

    def picture_requests(self) -> list[dict]:
        """For a snapshot: the pictures of all cards that were made."""
        return [{"type": "picture", "key": key} for key in self._needed().pictures]

    def significance_request(self) -> dict:
        """For a snapshot; waits until there is an answer."""
        source = self._needed()
        self._jobs.job("significance", lambda tell: source.significance()).wait()
        return {"type": "significance"}
