"""Finding experts in an atlas: by a token or a text, by likeness to another one; and one's card.

What questions share is worked out once, so an atlas that is looked into should be counted to its
end.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...errors import StudyError
from ...tracing.data.groups import text_kind
from .contexts import KEPT
from .labels import Lifts
from .vocabulary import VOCABULARIES

if TYPE_CHECKING:
    from .atlas import Atlas

#: By what experts are alike.
LIKENESS = ("tokens", "labels")


class Lookup:
    """Answers about the experts of ``atlas``."""

    def __init__(self, atlas: Atlas):
        self.atlas = atlas
        self.vocabulary = lru_cache(atlas.vocabulary)

    @cached_property
    def lifts(self) -> Lifts:
        """As :meth:`.Atlas.lifts`."""
        return self.atlas.lifts()

    # By tokens

    @cached_property
    def _folded(self) -> dict[int, str]:
        return {id: text.strip().casefold() for id, text in self.atlas.texts.items()}

    @cached_property
    def _kind_of(self) -> dict[int, str]:
        return {id: text_kind(text) for id, text in self.atlas.texts.items()}

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {text: id for id, text in self.atlas.texts.items() if text}

    def kinds(self, vocabulary: str = "input") -> dict[str, list[int]]:
        """Token ids that occurred, by kind: "numbers", "punctuation", "symbols", "blanks", or the
        script of a word ("Latin", "Han", ...); kinds with most occurrences first.

        Raises StudyError for another vocabulary.
        """
        seen, found = self.vocabulary(vocabulary).seen, {}
        for id, kind in self._kind_of.items():
            if seen[id]:
                found.setdefault(kind, []).append(id)
        return dict(sorted(found.items(), key=lambda item: -seen[item[1]].sum()))

    def tokens(self, text: str, vocabulary: str = "input") -> list[int]:
        """Ids of the tokens that a text stands for, of those that occurred.

        Tokens that are equal to it but for blanks and case; where there are none, those that have
        it in them; and where there are none either, the tokens it is made of, the longest first
        from its beginning on (an atlas has no tokenizer: the model's may cut it otherwise).

        Raises StudyError for another vocabulary, and if there are no such tokens.
        """
        seen, wanted = self.vocabulary(vocabulary).seen, text.strip().casefold()
        if not text:
            raise StudyError("no text to look for")
        if wanted:
            same = [id for id, said in self._folded.items() if said == wanted]
            inside = [id for id, said in self._folded.items() if wanted in said]
        else:
            same = [id for id, said in self.atlas.texts.items() if said == text]
            inside = [id for id, said in self.atlas.texts.items() if text in said]
        for ids in (same, inside, self._cut(text)):
            if ids := [id for id in ids if seen[id]]:
                return ids
        raise StudyError(f"no token of this atlas ({vocabulary}) has {text!r} in its text")

    def _cut(self, text: str) -> list[int]:
        longest = max(map(len, self._exact), default=0)
        found, at = {}, 0
        while at < len(text):
            for stop in range(min(len(text), at + longest), at, -1):
                if (id := self._exact.get(text[at:stop])) is not None:
                    found[id] = None
                    break
            at = stop
        return list(found)

    def of_kind(self, kind: str, vocabulary: str = "input") -> list[int]:
        """Ids of a kind. Raises StudyError for one that did not occur."""
        kinds = self.kinds(vocabulary)
        if kind not in kinds:
            raise StudyError(
                f"no {vocabulary} tokens of kind {kind!r}; there are {', '.join(kinds)}"
            )
        return kinds[kind]

    # By likeness

    @cached_property
    def _token_roots(self) -> np.ndarray:
        """(layers, E, buckets) float32: square roots of each expert's distribution over tokens."""
        counts = self.atlas.counts["input_counts"]
        total = counts.sum(axis=-1, keepdims=True, dtype=np.float32)
        roots = np.zeros(counts.shape, np.float32)
        np.divide(counts, total, where=total > 0, out=roots)
        return np.sqrt(roots, out=roots)

    @cached_property
    def _label_roots(self) -> np.ndarray:
        """(layers, E, labels): the same over labels, of which each counts alike."""
        tokens = np.maximum(self.atlas.counts["tokens"], 1)
        load = np.moveaxis(self.atlas.counts["counts"] / tokens[:, None, None], 0, -1)
        total = load.sum(axis=-1, keepdims=True)
        return np.sqrt(np.divide(load, total, where=total > 0, out=np.zeros(load.shape)))

    def similarity(self, layer: int, expert: int, by: str = "tokens") -> np.ndarray:
        """How alike every expert is to one: (layers, E), 0 to 1.

        ``sum over x of sqrt(p(x | a) p(x | b))``, where x are the tokens that experts a and b read
        (the buckets of :mod:`.vocabulary`), or the labels of the documents, each label counting
        alike: 1 where they are distributed alike, 0 where none is of both (Bhattacharyya, "On a
        Measure of Divergence Between Two Statistical Populations", 1943).

        Raises StudyError for a layer or expert that does not exist, and for another ``by``.
        """
        if by not in LIKENESS:
            raise StudyError(f"experts are alike by {' or '.join(LIKENESS)}, not by {by!r}")
        here = (self.atlas.at(layer), self.atlas.expert_at(expert))
        roots = self._token_roots if by == "tokens" else self._label_roots
        flat = roots.reshape(-1, roots.shape[-1])
        return np.minimum(flat @ roots[here], 1).reshape(roots.shape[:2])

    def neighbours(self, layer: int, expert: int, n: int = 10, by: str = "tokens") -> list[dict]:
        """The experts, of any layer, that are most alike: ``layer``, ``expert``, ``similarity``.

        Raises StudyError as :meth:`similarity`.
        """
        similar = self.similarity(layer, expert, by)
        similar[self.atlas.at(layer), expert] = -1
        best = np.argsort(-similar, axis=None, kind="stable")[:n]
        return [
            {"layer": self.atlas.layers[i], "expert": int(e), "similarity": float(similar[i, e])}
            for i, e in zip(*np.unravel_index(best, similar.shape))
            if similar[i, e] > 0
        ]

    # One expert

    def card(self, layer: int, expert: int, n: int = 8, contexts: int = KEPT) -> dict:
        """What is known of one expert besides its loads and lifts.

        ``tokens``: how many it worked on, ``rank``: its place in the layer by these; ``norm``,
        ``reap`` and ``scale``, None where not recorded; ``input``, ``next`` and ``predicted``: rows
        of :meth:`.Vocabulary.top` with the ``text`` of the token; ``promoted`` and ``suppressed``:
        texts of tokens, an approximation; ``companions``: experts of its layer that its tokens went
        to as well; ``before`` and ``after``: experts of the layers next to it that its tokens came
        from and went to; ``contexts``: as of :meth:`.Atlas.examples`.

        Rows of experts have ``expert``, ``share`` (of this one's tokens) and ``lift`` (share over
        the other one's load), ordered by share times the logarithm of lift.

        Raises StudyError for a layer or expert that does not exist.
        """
        atlas, i, e = self.atlas, self.atlas.at(layer), self.atlas.expert_at(expert)
        everywhere = atlas.counts.all_counts
        found = {
            "layer": layer,
            "expert": e,
            "tokens": int(everywhere[i, e]),
            "rank": int((everywhere[i] > everywhere[i, e]).sum()) + 1,
            **{name: None if array is None else _number(array[i, e])
               for name, array in self._measured.items()},
            **{name: self._top(name, layer, e, n) for name in VOCABULARIES},
            "companions": self._partners(atlas.counts["together"][i, e], i, i, e, n),
            "before": [],
            "after": [],
            "contexts": atlas.examples(layer, e, contexts),
        }  # fmt: skip
        if i:
            found["before"] = self._partners(atlas.counts["paths"][i - 1][:, e], i - 1, i, e, n)
        if i + 1 < len(atlas.layers):
            found["after"] = self._partners(atlas.counts["paths"][i][e], i + 1, i, e, n)
        for name in ("promoted", "suppressed"):
            ids = getattr(atlas, name)
            said = [] if ids is None else [atlas.text(id) for id in ids[i, e].tolist() if id >= 0]
            found[name] = said
        return found

    @cached_property
    def _measured(self) -> dict[str, np.ndarray | None]:
        recorded = bool(self.atlas.counts["normed"].any())
        return {
            "norm": self.atlas.norm() if recorded else None,
            "reap": self.atlas.reap() if recorded else None,
            "scale": self.atlas.scale,
        }

    def _top(self, name: str, layer: int, expert: int, n: int) -> list[dict]:
        rows = self.vocabulary(name).top(layer, expert, n)
        return [{"text": self.atlas.text(row["id"]), **row} for row in rows]

    def _partners(self, together: np.ndarray, there: int, i: int, e: int, n: int) -> list[dict]:
        """Experts of layer number ``there`` by how many tokens of expert (i, e) they had."""
        everywhere = self.atlas.counts.all_counts
        total = max(1, int(everywhere[i, e]))
        share = together / total
        load = everywhere[there] / max(1, self.atlas.tokens)
        lift = np.divide(share, load, where=load > 0, out=np.zeros(len(load)))
        score = share * np.log2(np.maximum(lift, 1e-9))
        if there == i:
            score[e] = 0
        return [
            {"expert": int(b), "share": float(share[b]), "lift": float(lift[b])}
            for b in np.argsort(-score, kind="stable")[:n]
            if score[b] > 0
        ]


def _number(value) -> float | None:
    return float(value) if np.isfinite(value) else None
