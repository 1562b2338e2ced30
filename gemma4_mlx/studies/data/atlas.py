"""An atlas of experts: what they are for, over a corpus, as a value.

It is made by :func:`gemma4_mlx.atlas`, or of traces with :meth:`Atlas.of`, saved to one file and
opened on a machine without MLX and without weights. This module and all it imports need numpy
alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ... import atomic
from ...errors import StudyError
from ...tracing.data.frames import to_frame
from ...tracing.data.groups import Groups
from ...tracing.data.ranges import ranges
from ...tracing.data.specialisation import Specialisation
from ...tracing.data.trace import Trace
from .contexts import KEPT, Context, Contexts, hash_of, piece_key
from .counts import GROUPINGS, UNIT, Counts, Piece, Subject
from .documents import Documents
from .file import joined, read_atlas, write_atlas
from .labels import Lifts, lifts, number_of
from .page import atlas_page
from .vocabulary import Vocabulary

#: Sentences kept about a label's documents.
REMARKS = 100


@dataclass
class Atlas:
    """What the experts of a model did over labelled documents.

    Attributes:
        counts: the sums that everything is computed from.
        documents: a sample of each label's documents.
        contexts: places at which each expert was at work.
        model: facts about the model, as a trace's.
        scale: (layers, E) float32 learned scale of each expert, or None.
        texts: token id -> text, of ids that occurred.
        read: label -> ranges [start, stop] of the corpus's documents that are counted, by number.
        marks: label -> [number, digest] of the last document that is counted, by which a corpus is
            known again.
        remarks: label -> sentences about what was not read as it stands (skipped, split).
        promoted, suppressed: (layers, E, 10) int32 ids of tokens that an expert's average output
            makes likelier and less likely, strongest first; or None. An approximation: see
            :func:`.building.writing.promoted_tokens`.
    """

    counts: Counts
    documents: Documents
    contexts: Contexts
    model: dict = field(default_factory=dict)
    scale: np.ndarray | None = None
    texts: dict[int, str] = field(default_factory=dict)
    read: dict[str, list] = field(default_factory=dict)
    marks: dict[str, list] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    promoted: np.ndarray | None = None
    suppressed: np.ndarray | None = None

    @classmethod
    def empty(cls, subject: Subject, labels: Iterable[str], model=None, scale=None) -> "Atlas":
        """An atlas without documents."""
        counts = Counts(subject, tuple(labels))
        rows = len(subject.layers) * subject.num_experts
        documents = Documents(subject, counts.labels)
        return cls(counts, documents, Contexts(rows), dict(model or {}), scale)

    @classmethod
    def of(cls, traces: Mapping[str, Iterable[Trace]], vocabulary: int | None = None) -> "Atlas":
        """An atlas of recorded traces, each a document, by label.

        ``vocabulary``: number of token ids; None takes the largest that occurs, and then atlases of
        other traces may not merge with this one.

        Raises StudyError if there are none, and for traces without routing or of several models.
        """
        traces = {label: list(some) for label, some in traces.items()}
        every = [trace for some in traces.values() for trace in some]
        if not every:
            raise StudyError("an atlas needs at least one trace")
        if any(trace.routing is None for trace in every):
            raise StudyError("a trace without routing: record it with routing=g4.RoutingPlan()")
        routing = every[0].routing
        if vocabulary is None:
            vocabulary = 1 + max(int(trace.tokens.ids.max(initial=0)) for trace in every)
        subject = Subject(
            every[0].model.get("fingerprint", ""),
            routing.layers,
            routing.num_experts,
            routing.k,
            vocabulary,
            interventions=tuple(every[0].interventions),
        )
        atlas = cls.empty(subject, traces, every[0].model, routing.scale)
        for label, some in traces.items():
            for trace in some:
                atlas.add(label, [Piece(trace)])
                for id, text in zip(trace.tokens.ids.tolist(), trace.tokens.texts):
                    if text:
                        atlas.texts.setdefault(id, text)
        return atlas

    def add(self, label: str, pieces: list[Piece]) -> None:
        """Count a document, given in one or several pieces.

        Raises StudyError for a label that does not exist, and for pieces that do not fit; then
        nothing is counted.
        """
        tokens, counts = self.counts.add(label, pieces)
        keys = [int(piece_key(label, piece.trace)) for piece in pieces]
        self.documents.add(label, hash_of(*keys), tokens, counts)
        number = self.labels.index(label)
        for piece in pieces:
            routing = piece.trace.routing
            gates = np.stack([routing.gate(layer) for layer in routing.layers])
            self.contexts.add(label, number, piece.trace, gates)

    def merge(self, other: "Atlas") -> "Atlas":
        """The atlas of the documents of both.

        Counts are those that one pass over all of them gives, to the bit, and so are contexts.
        What experts write (``promoted``) is left out: it would have to be computed anew.

        Raises StudyError for an atlas of another model.
        """
        counts = self.counts.merged(other.counts)
        numbers = [[counts.labels.index(label) for label in a.labels] for a in (self, other)]
        merged = Atlas(
            counts,
            self.documents.merged(other.documents),
            self.contexts.merged(other.contexts, *numbers),
            self.model or other.model,
            other.scale if self.scale is None else self.scale,
            {**other.texts, **self.texts},
        )
        for part in (self, other):
            for label, spans in part.read.items():
                merged.read[label] = joined([*merged.read.get(label, ()), *spans])
            for label, mark in part.marks.items():
                merged.marks[label] = max(merged.marks.get(label, mark), mark)
            for label, sentences in part.remarks.items():
                for sentence in sentences:
                    merged.remark(label, sentence)
        return merged

    def count_read(self, label: str, number: int, mark: list) -> None:
        """Note that a document has been read."""
        self.read[label] = joined([*self.read.get(label, ()), [number, number + 1]])
        self.marks[label] = max(self.marks.get(label, mark), mark)

    def remark(self, label: str, sentence: str) -> None:
        """Note something about a label's documents, once; :data:`REMARKS` of them at most."""
        said = self.remarks.setdefault(label, [])
        if len(said) < REMARKS and sentence not in said:
            said.append(sentence)
        elif len(said) == REMARKS and sentence not in said:
            said.append("and more")

    def __repr__(self):
        labels = ", ".join(
            f"{label} {d:,} documents"
            for label, d in zip(self.labels, self.counts["documents"].tolist())
        )
        subject = self.counts.subject
        return (
            f"Atlas({self.tokens:,} tokens; layers {ranges(self.layers)} of "
            f"{subject.num_experts} experts; {labels})"
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the layers, in the order of every array's first axis."""
        return self.counts.subject.layers

    @property
    def labels(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return self.counts.labels

    @property
    def tokens(self) -> int:
        """Tokens that were counted."""
        return int(self.counts["tokens"].sum())

    def at(self, layer: int) -> int:
        """Place of a layer among :attr:`layers`. Raises StudyError for one that is not there."""
        if layer not in self.layers:
            raise StudyError(f"layer {layer} is not in this atlas, which has {ranges(self.layers)}")
        return self.layers.index(layer)

    def _expert(self, expert: int) -> int:
        if not 0 <= expert < self.counts.subject.num_experts:
            last = self.counts.subject.num_experts - 1
            raise StudyError(f"expert {expert}: there are experts 0 to {last}")
        return int(expert)

    # Load and labels

    def load(self, label: str | None = None) -> np.ndarray:
        """Share of the tokens (of a label) that went to each expert: (layers, E). A row sums to k.

        Of a label it is OLMoE's domain specialisation, N(e, D) / N(D): Muennighoff et al., "OLMoE:
        Open Mixture-of-Experts Language Models" (2024), section 5.

        Raises StudyError for a label that does not exist, and one without documents.
        """
        if label is None:
            return _share(self.counts.all_counts, self.tokens, "this atlas")
        g = number_of(label, self.labels)
        return _share(self.counts["counts"][g], int(self.counts["tokens"][g]), repr(label))

    def lifts(self) -> Lifts:
        """Which labels each expert prefers, and whether that is more than chance."""
        return lifts(self.counts, self.documents)

    def by(self, grouping: str) -> Specialisation:
        """Counts, loads and lifts of the experts by "label", or by the "position", "role" or "kind"
        of tokens; groups without tokens have loads of nan.

        Raises StudyError for another grouping.
        """
        if grouping == "label":
            names, tokens, counts = self.labels, self.counts["tokens"], self.counts["counts"]
            counts = counts.swapaxes(0, 1)
        elif grouping in GROUPINGS:
            names, tokens = GROUPINGS[grouping], self.counts[f"{grouping}_tokens"]
            counts = self.counts[f"{grouping}_counts"]
        else:
            known = ", ".join(("label", *GROUPINGS))
            raise StudyError(f"no grouping {grouping!r}; there are {known}")
        some = np.flatnonzero(tokens)
        names = tuple(names[i] for i in some)
        groups = Groups(grouping, names, np.zeros(0, np.uint8), tokens[some])
        return Specialisation(self.layers, groups, counts[:, some])

    def entropy(self, label: str | None = None) -> np.ndarray:
        """Entropy of each layer's load in bits, ``-sum p log2 p`` with ``p = load / k``: (layers,).

        log2(E) where all experts are used alike, log2(k) where only k are (Shannon, 1948).

        Raises StudyError as :meth:`load`.
        """
        p = self.load(label) / self.counts.subject.k
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)

    def evenness(self, label: str | None = None) -> np.ndarray:
        """Entropy over its maximum, log2(E): (layers,), 1 where all experts are used alike.

        Pielou, "The Measurement of Diversity in Different Types of Biological Collections" (1966).

        Raises StudyError as :meth:`load`.
        """
        return self.entropy(label) / np.log2(max(2, self.counts.subject.num_experts))

    # Pairs

    def coactivation(self, layer: int) -> np.ndarray:
        """Share of an expert's tokens that went to another one of its layer as well: (E, E), the
        former first, N(a, b) / N(a); nan for experts without tokens, 1 on the diagonal.

        Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models" (2024), section 5.

        Raises StudyError for a layer that is not in the atlas.
        """
        together = self.counts["together"][self.at(layer)]
        return _ratio(together, np.diag(together)[:, None])

    def paths(self, layer: int) -> np.ndarray:
        """Share of an expert's tokens that went to each expert of the next layer: (E, E), the
        former first; a row sums to k.

        N(a in this layer, b in the next) / N(a); nan for experts without tokens.

        Raises StudyError for a layer that is not in the atlas, and for the last one.
        """
        i = self.at(layer)
        if i + 1 == len(self.layers):
            raise StudyError(f"layer {layer} is the last one: no path leads on from it")
        return _ratio(self.counts["paths"][i], self.counts.all_counts[i][:, None])

    # Norms

    def norm(self) -> np.ndarray:
        """Mean Euclidean norm of what an expert puts out for a token, before it is weighted:
        (layers, E); nan for experts without tokens.

        The mean activation norm of Liu et al., "How to Score Experts for One-Shot MoE Expert
        Pruning" (2026).

        Raises StudyError if norms were not recorded.
        """
        return _ratio(self._normed("norms") / UNIT, self.counts["normed"])

    def reap(self, scaled: bool = True) -> np.ndarray:
        """Mean of an expert's weight times the norm of its output, over its tokens: (layers, E).

        What the model would lose with the expert. ``scaled``: the weight that the model multiplies
        by; else without the learned ``per_expert_scale``, the gate's share alone (nan for a scale
        of 0). nan for experts without tokens.

        Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (2025).

        Raises StudyError if norms, or what ``scaled=False`` needs, were not recorded.
        """
        mean = _ratio(self._normed("weighted_norms") / UNIT, self.counts["normed"])
        if scaled:
            return mean
        if self.scale is None:
            raise StudyError("the learned scale of the experts was not recorded")
        return _ratio(mean, self.scale.astype(np.float64))

    def super_experts(self, percentile: float = 99.5, part: float = 0.1) -> list[tuple[int, int]]:
        """Experts with extreme outputs, as (layer, expert), largest first.

        Those whose largest output is above the percentile of all experts' largest outputs and above
        ``part`` of the very largest. After Su et al., "Unveiling Super Experts in
        Mixture-of-Experts Large Language Models" (2025), with the norm of an output in place of its
        largest entry.

        Raises StudyError if norms were not recorded.
        """
        self._normed("norms")
        largest = self.counts["largest_norm"]
        used = largest[largest > 0]
        if not used.size:
            return []
        extreme = (largest > np.percentile(used, percentile)) & (largest > part * used.max())
        order = np.argsort(-largest, axis=None, kind="stable")[: int(extreme.sum())]
        return [(self.layers[i], int(e)) for i, e in zip(*np.unravel_index(order, largest.shape))]

    def _normed(self, name: str) -> np.ndarray:
        if not self.counts["normed"].any():
            raise StudyError("norms were not recorded: trace with g4.RoutingPlan(norms=True)")
        return self.counts[name]

    # Prediction

    def early_recall(self, m: int | None = None) -> np.ndarray:
        """How early a layer's experts are known: (steps,), from each layer to the next.

        The share of the next layer's experts that are among the ``m`` best (None: k) when its
        router reads the stream that this layer's router reads. Guessing gives m / E. This is what
        fetching experts ahead of time can count on: Eliseev and Mazur, "Fast Inference of
        Mixture-of-Experts Language Models with Offloading" (2023).

        Raises StudyError for less than one, and if it was not recorded.
        """
        m = self.counts.subject.k if m is None else m
        if m < 1:
            raise StudyError(f"recall among the {m} best experts; give a number from 1 on")
        early = self.counts["early"]
        if not early.any():
            raise StudyError("early routing was not recorded: gemma4_mlx.atlas records it")
        return early[:, :m].sum(axis=1) / early.sum(axis=1)

    def vocabulary(self, name: str = "input") -> Vocabulary:
        """The tokens of every expert: those it reads ("input"), those that follow in the text
        ("next"), or those that the model finds likeliest there ("predicted", at a sample of
        places).

        Raises StudyError for another name.
        """
        return Vocabulary.of(self.counts, name)

    # Looking things up

    def text(self, id: int) -> str:
        """A token's text; ``<id>`` where it is not known."""
        return self.texts.get(int(id), f"<{id}>")

    def find(self, text: str, n: int = 10) -> list[dict]:
        """The experts that work on tokens of a text more than on others: "who works on digits?"

        ``text`` is looked for in every token's text, without regard to case; tokens that are equal
        to it but for blanks are taken alone if there are any. Rows as of
        :meth:`.Vocabulary.experts`.

        Raises StudyError if no token that occurred has such a text.
        """
        wanted = text.strip().casefold()
        texts = {id: said.strip().casefold() for id, said in self.texts.items()}
        same = [id for id, said in texts.items() if said == wanted]
        inside = [id for id, said in texts.items() if wanted and wanted in said]
        seen = self.counts["input_seen"]
        for ids in (same, inside):
            if ids := [id for id in ids if seen[id]]:
                return self.vocabulary().experts(ids, n)
        raise StudyError(f"no token of this atlas has {text!r} in its text")

    def neighbours(self, layer: int, expert: int, n: int = 10) -> list[dict]:
        """The experts, of any layer, that read the most similar tokens: ``layer``, ``expert``,
        ``similarity``, most similar first.

        ``sum over x of sqrt(p(x | a) p(x | b))`` over the tokens that experts a and b read: 1 where
        they are distributed alike, 0 where no token is read by both (Bhattacharyya, 1943).

        Raises StudyError for a layer or expert that does not exist.
        """
        here = (self.at(layer), self._expert(expert))
        counts = self.counts["input_counts"].astype(np.float32)
        roots = np.sqrt(_ratio(counts, counts.sum(axis=-1, keepdims=True)))
        similar = np.nan_to_num(roots @ roots[here])
        similar[here] = -1
        best = np.argsort(-similar, axis=None, kind="stable")[:n]
        return [
            {"layer": self.layers[i], "expert": int(e), "similarity": float(similar[i, e])}
            for i, e in zip(*np.unravel_index(best, similar.shape))
            if similar[i, e] > 0
        ]

    def examples(self, layer: int, expert: int, most: int = KEPT) -> list[Context]:
        """Places at which an expert was at work: the strongest, then a random sample, of each at
        most so many (8 are kept).

        Raises StudyError for a layer or expert that does not exist.
        """
        row = self.at(layer) * self.counts.subject.num_experts + self._expert(expert)
        return self.contexts.of(row, self.labels, self.text, most)

    def to_dataframe(self, library: str = "pandas"):
        """One row for each layer and expert.

        Columns: layer, expert, tokens, load, and where they were recorded norm and reap; for each
        label its load and log2 lift, and whether that is more than chance.

        Raises TraceError if that library is not installed or not known.
        """
        L, E = len(self.layers), self.counts.subject.num_experts
        columns = {
            "layer": np.repeat(np.array(self.layers, np.int32), E),
            "expert": np.tile(np.arange(E, dtype=np.int32), L),
            "tokens": self.counts.all_counts.ravel(),
            "load": self.load().ravel(),
        }
        if self.counts["normed"].any():
            columns |= {"norm": self.norm().ravel(), "reap": self.reap().ravel()}
        found = self.lifts()
        for g, label in enumerate(self.labels):
            if self.counts["tokens"][g]:
                columns[f"load of {label}"] = self.load(label).ravel()
                columns[f"lift of {label}"] = found.lift[:, g].ravel()
                columns[f"found for {label}"] = found.found()[:, g].ravel()
        return to_frame(columns, library)

    # Files

    def save(self, path) -> Path:
        """Write a ``.g4atlas`` file, laid out as a trace's; returns its path. Into a folder, under
        the name :data:`.file.NAME`.

        Raises StudyError if it cannot be written.
        """
        return write_atlas(self, path)

    def to_html(self, path) -> Path:
        """Write a web page of at most about 10 MB: maps of load and of every label's lift, and a
        card for each expert that was used, with its tokens and some of its examples. It needs no
        scripts, no network and no server.

        Raises StudyError if it cannot be written, and for an atlas without documents.
        """
        path = Path(path)
        page = atlas_page(self).encode("utf-8", "replace")
        try:
            atomic.write(path, page)
        except OSError as error:
            raise StudyError(f"{path} cannot be written: {error.strerror}") from None
        return path


def open_atlas(path) -> Atlas:
    """Open a ``.g4atlas`` file, or the one in an atlas's folder. Arrays stay in the file until they
    are looked at.

    Raises StudyError if the file is missing, damaged, cut short or of a newer version.
    """
    return Atlas(**read_atlas(path))


def _share(counts: np.ndarray, tokens: int, whose: str) -> np.ndarray:
    if not tokens:
        raise StudyError(f"the load of no tokens is undefined: {whose} has no documents")
    return counts / tokens


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """nan where ``below`` is 0."""
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, where=below != 0, out=np.full(shape, np.nan))
