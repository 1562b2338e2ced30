"""An atlas of experts: what they are for, over a corpus, as a value.

It is made by :func:`gemma4_mlx.atlas`, or of traces with :meth:`Atlas.of`, saved to one file and
opened on a machine without MLX and without weights. This module and all it imports need numpy
alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ... import atomic
from ...errors import StudyError
from ...tracing.data.frames import to_frame
from ...tracing.data.ranges import ranges
from ...tracing.data.trace import Trace
from .contexts import KEPT, Context, Contexts, hash_of, piece_key
from .counts import Counts, Subject
from .documents import Documents
from .file import joined, read_atlas, write_atlas
from .labels import Lifts, lifts
from .lookup import Lookup
from .measures import Measures
from .pieces import Piece, Pieces

#: Sentences kept about a label's documents, and what stands behind them.
REMARKS, _MORE = 100, re.compile(r"and (\d+) more")


@dataclass
class Atlas(Measures):
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

    def add(self, label: str, *documents: Sequence[Piece]) -> None:
        """Count documents, each given as its pieces, one or several.

        Raises StudyError for a label that does not exist, and for pieces that do not fit; then
        nothing is counted.
        """
        whole = Pieces(documents)
        tokens, counts = self.counts.add(label, whole)
        keys = [piece_key(label, piece.trace) for piece in whole.pieces]
        self.contexts.add(self.labels.index(label), whole, np.array(keys, np.uint64))
        for pieces, n, chosen in zip(documents, tokens.tolist(), counts):
            mine, keys = keys[: len(pieces)], keys[len(pieces) :]
            self.documents.add(label, hash_of(*map(int, mine)), n, chosen)

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
        """Note something about a label's documents, once; :data:`REMARKS` of them at most, and
        behind them how many more there were."""
        said = self.remarks.setdefault(label, [])
        more = _MORE.fullmatch(sentence)
        if sentence in said and not more:
            return
        if len(said) < REMARKS and not more:
            said.append(sentence)
            return
        last = _MORE.fullmatch(said[-1]) if said else None
        count = (int(more[1]) if more else 1) + (int(last[1]) if last else 0)
        said[len(said) - bool(last) :] = [f"and {count:d} more"]

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

    def lifts(self) -> Lifts:
        """Which labels each expert prefers, and whether that is more than chance."""
        return lifts(self.counts, self.documents)

    # Looking things up

    def text(self, id: int) -> str:
        """A token's text; ``<id>`` where it is not known."""
        return self.texts.get(int(id), f"<{id}>")

    def find(
        self,
        text: str | None = None,
        n: int = 10,
        *,
        kind: str | None = None,
        vocabulary: str = "input",
    ) -> list[dict]:
        """The experts that work on some tokens more than on others: "who works on digits?"

        Tokens are given by a ``text`` (see :meth:`.Lookup.tokens`), or by their ``kind``, as in
        ``atlas.find(kind="numbers")`` (see :meth:`.Lookup.kinds`). ``vocabulary``: of "input", the
        tokens that experts read, "next" or "predicted". Rows as of :meth:`.Vocabulary.experts`.

        Raises StudyError if no token that occurred is such a one.
        """
        lookup = Lookup(self)
        if (text is None) == (kind is None):
            raise StudyError('give either a text or a kind of tokens: atlas.find(kind="numbers")')
        if kind is None:
            ids = lookup.tokens(text, vocabulary)
        else:
            ids = lookup.of_kind(kind, vocabulary)
        return lookup.vocabulary(vocabulary).experts(ids, n)

    def neighbours(self, layer: int, expert: int, n: int = 10, by: str = "tokens") -> list[dict]:
        """The experts, of any layer, that read the most similar tokens, or that documents of the
        same ``labels`` use: see :meth:`.Lookup.neighbours`.

        Raises StudyError for a layer or expert that does not exist, and for another ``by``.
        """
        return Lookup(self).neighbours(layer, expert, n, by)

    def card(self, layer: int, expert: int, n: int = 8) -> dict:
        """One expert's tokens, contexts, companions and paths: see :meth:`.Lookup.card`.

        Raises StudyError for a layer or expert that does not exist.
        """
        return Lookup(self).card(layer, expert, n)

    def examples(self, layer: int, expert: int, most: int = KEPT) -> list[Context]:
        """Places at which an expert was at work: the strongest, then a random sample, of each at
        most so many (8 are kept).

        Raises StudyError for a layer or expert that does not exist.
        """
        row = self.at(layer) * self.counts.subject.num_experts + self.expert_at(expert)
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
        """Write a web page of at most about 10 MB with the view of the Atlas widget. It is
        interactive, also from ``file://`` and without a network: the map by all that it can be
        coloured by, and the cards of all experts that were used, with as many contexts as fit.

        Raises StudyError if it cannot be written, and for an atlas without documents.
        """
        from ...widgets.atlaspage import atlas_page
        from ...widgets.snapshot import encoded

        path, page = Path(path), encoded(atlas_page(self))
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
