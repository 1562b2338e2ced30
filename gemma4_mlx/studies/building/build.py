"""``atlas(model, corpora)``: reads labelled documents and counts what each expert does."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import StudyError
from ...progress import Teller
from ..data.atlas import Atlas, open_atlas
from ..data.counts import Counts, Subject
from ..data.documents import Documents
from ..data.file import NAME
from . import sources
from .builder import CONTEXT, Builder
from .progress import AtlasProgress

#: Seconds between two savings, at least; and their share of the time, at most.
SAVE_EVERY, SAVE_SHARE = 30.0, 0.05
#: Documents that are read together: so many, or those that have so many tokens, about.
MOST, GROUP = 16, 1024


def atlas(
    model,
    corpora: Mapping,
    *,
    folder=None,
    tokens: int = 1_000_000,
    context: int = CONTEXT,
    answers: int = 0,
    cluster=None,
    load: Callable | None = None,
    progress: bool | Callable[[AtlasProgress], None] = True,
) -> Atlas:
    """What every expert of a model is for, over labelled documents.

    Documents are read in turn of the labels, short ones several at once (:data:`MOST`,
    :data:`GROUP`), as rows of a batch that do not see each other: each by itself from position 0.
    Memory is bounded whatever the corpora: counts (:func:`.counts.state_bytes`: 277 MiB for 30
    layers of 128 experts and 8 labels), a sample of documents (30 MiB), contexts (13 MiB, and 7 KB
    for each picture that they show), and the documents that are read at once.

    Args:
        model: a loaded model with experts. The heads of one without are studied over texts by
            :func:`.head_roles`.
        corpora: label -> documents: a path (file, folder, pattern such as ``texts/*.txt``) or an
            iterable of texts, conversations, ``ModelInputs``, token ids, ``Path`` objects or rows
            of a ``datasets`` dataset; see :func:`.sources.documents`. To go on with an atlas, the
            same documents have to come in the same order again.
        folder: where the atlas is kept while it is built. If there is one of this model, it is
            gone on with, and no document is counted twice; labels may be added. None keeps it in
            memory alone.
        tokens: how many are counted, the same for each label; documents that are read at once are
            counted as a whole.
        context: tokens of a piece: a longer document is read in pieces, each without those before.
        answers: tokens of the model's own answer to each conversation that ends in a question,
            which is then counted with it; 0 for none.
        cluster: a ``dask.distributed.Client``, on whose workers the documents are read. Each loads
            the model once; the result is the same.
        load: what a worker calls to load the model; by default ``gemma4_mlx.load`` with the folder
            of this one, which has to be there on every machine.
        progress: True shows a bar with tokens, rate and time left; False nothing; or it is
            called with an :class:`.AtlasProgress` after each reading.

    Ctrl-C ends the building: what was counted is saved and returned. The file in ``folder`` is
    written every half minute, whole or not at all, and can be opened meanwhile.

    Raises:
        StudyError: no corpora, one without documents or of something that is no document, a model
            without experts or tokenizer, numbers that make no sense, a folder with an atlas of
            another model or of other documents, and a folder that cannot be written.
    """
    builder = Builder(model, context, answers)
    state = _opened(folder, builder.subject, corpora, tokens)
    state.model, state.scale = builder.known.facts, builder.known.scale
    tell = Teller(progress)
    run, said = _Run(state, folder, tokens, tell), ""
    try:
        if cluster is None:
            _count_here(run, builder, corpora)
        else:
            _check_sendable(model)
            from .cluster import count_on

            count_on(cluster, run, builder, corpora, load or _Load(model))
        run.check_not_empty()
    except KeyboardInterrupt:
        said = f"Stopped after {run.atlas.tokens:,} tokens."
    finally:
        tell.end(said)
    if run.atlas.tokens:
        builder.finish(run.atlas)
    run.save()
    return run.atlas


def _count_here(run: "_Run", builder: Builder, corpora: Mapping) -> None:
    for label, documents in run.groups(corpora):
        before = run.atlas.tokens
        builder.add(run.atlas, label, documents)
        run.planned[label] += run.atlas.tokens - before
        run.after_group()


def _check_sendable(model) -> None:
    if model.interventions:
        raise StudyError(
            f"the model runs under {', '.join(map(str, model.interventions))}, which the workers "
            "of a cluster do not know: build this atlas without cluster="
        )


@dataclass(frozen=True)
class _Load:
    """Loads the model of a folder, on another machine."""

    folder: str

    def __init__(self, model):
        if model.folder is None:
            raise StudyError("this model has no folder for workers to load it from: give load=")
        object.__setattr__(self, "folder", str(model.folder))

    def __call__(self):
        from ...checkpoints import load

        return load(self.folder)


def _opened(folder, subject: Subject, corpora, tokens: int) -> Atlas:
    """The atlas in a folder, or an empty one, with all labels of the corpora."""
    if not isinstance(corpora, Mapping) or not corpora:
        raise StudyError(
            'corpora are given by label, as in {"code": "src/", "law": list_of_texts}; there '
            f"are none in {corpora!r:.60}"
        )
    if wrong := [label for label in corpora if not isinstance(label, str) or not label]:
        raise StudyError(f"a label is a text, not {wrong[0]!r}")
    if tokens < 1:
        raise StudyError(f"an atlas of {tokens} tokens is empty; give a number from 1 on")
    if folder is None:
        return Atlas.empty(subject, corpora)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder} cannot be made a folder: {error.strerror}") from None
    if not (folder / NAME).exists():
        return Atlas.empty(subject, corpora)
    found = open_atlas(folder)
    if found.counts.subject != subject:
        raise StudyError(
            f"{folder} holds an atlas of {found.model.get('source', 'another model')} "
            f"({found.counts.subject}), this would be one of {subject}: choose another folder"
        )
    counts = found.counts.with_labels({*corpora, *found.labels})
    renamed = found.contexts.merged(
        found.contexts, *[[counts.labels.index(label) for label in found.labels]] * 2
    )
    own = Counts(subject, counts.labels, {n: a.copy() for n, a in counts.arrays.items()})
    sample = found.documents.merged(Documents(subject, counts.labels))
    return Atlas(
        own,
        sample,
        renamed,
        texts=found.texts,
        read=found.read,
        marks=found.marks,
        remarks=found.remarks,
    )


@dataclass
class _Run:
    """One run of the building: which document comes next, and when to save."""

    atlas: Atlas
    folder: Path | str | None
    tokens: int
    tell: Teller

    def __post_init__(self):
        self._began = self._saved = time.perf_counter()
        self._already, self._took = self.atlas.tokens, 0.0
        #: Tokens of each label's documents that were given out, those counted before included.
        self.planned = dict(zip(self.atlas.labels, self.atlas.counts["tokens"].tolist()))

    def groups(self, corpora: Mapping) -> Iterator[tuple[str, list[tuple[int, object]]]]:
        """(label, [(number, document), ...]) of those not counted yet, the label with the fewest
        tokens next."""
        waiting = {label: _grouped(self._new(label, corpora[label])) for label in sorted(corpora)}
        each = self.tokens / len(corpora)
        while waiting:
            label = min(waiting, key=lambda name: (self.planned[name], name))
            found = None if self.planned[label] >= each else next(waiting[label], None)
            if found is None:
                del waiting[label]
            else:
                yield label, found

    def _new(self, label: str, corpus) -> Iterator[tuple[int, object]]:
        """Documents with their numbers, from the first on that is not counted."""
        spans, number = self.atlas.read.get(label, []), 0
        mark = self.atlas.marks.get(label)
        for found in sources.documents(label, corpus):
            known = any(start <= number < stop for start, stop in spans)
            if isinstance(found, sources.Remark):
                if not known:
                    self.atlas.remark(label, found.sentence)
                continue
            if mark and number == mark[0] and sources.digest(found) != mark[1]:
                raise StudyError(
                    f"document {number} of the corpus {label!r} is another one than when the atlas "
                    f"in {self.folder} was begun: give the same documents in the same order, or "
                    "choose another folder"
                )
            if not known:
                yield number, found
            number += 1

    def after_group(self) -> None:
        now = time.perf_counter()
        new = self.atlas.tokens - self._already
        documents = int(self.atlas.counts["documents"].sum())
        seconds = now - self._began
        far = AtlasProgress(
            self.atlas.tokens, self.tokens, "tokens", seconds, new / seconds, documents
        )
        self.tell(far)
        if now - self._saved >= max(SAVE_EVERY, self._took / SAVE_SHARE):
            self.save()

    def save(self) -> None:
        """Write the atlas, if it has a folder."""
        if self.folder is not None:
            began = time.perf_counter()
            self.atlas.save(self.folder)
            self._saved = time.perf_counter()
            self._took = self._saved - began

    def check_not_empty(self) -> None:
        """Raise StudyError for a label without documents."""
        for label, documents in zip(self.atlas.labels, self.atlas.counts["documents"].tolist()):
            if not documents:
                said = "; ".join(self.atlas.remarks.get(label, ())[:3])
                raise StudyError(
                    f"the corpus {label!r} has no documents" + (f": {said}" if said else "")
                )


def _grouped(documents: Iterator[tuple[int, object]]) -> Iterator[list[tuple[int, object]]]:
    """Documents that are read and counted together. Which ones depends on the corpus alone, so that
    an atlas that was interrupted, or is built on several machines, comes out the same."""
    group, tokens = [], 0
    for number, document in documents:
        group.append((number, document))
        tokens += sources.size(document)
        if len(group) == MOST or tokens >= GROUP:
            yield group
            group, tokens = [], 0
    if group:
        yield group
