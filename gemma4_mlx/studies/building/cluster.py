"""Building an atlas on the workers of a Dask cluster.

Each worker loads the model once and counts the documents of a task; the client merges what comes
back, in whatever order. Dask schedules: it gives a task of a worker that died to another one, and
its dashboard shows who does what.
"""

import threading
from collections.abc import Callable, Iterator

import numpy as np

from ...errors import StudyError
from ..data.atlas import Atlas
from ..data.counts import Counts
from .builder import Builder

#: Tokens of a task, about: seconds to minutes of work, so that little is lost with a worker.
TASK = 20_000
#: Tasks that wait at each of a worker's threads.
WAITING = 2

_loaded: dict[str, Builder] = {}
_loading = threading.Lock()


def count_on(client, run, builder: Builder, corpora, load: Callable) -> None:
    """Count the documents of a run on a cluster.

    Args:
        client: a ``dask.distributed.Client``.
        run: which documents are next, and the atlas they are merged into.
        load: gives a worker its model.

    Raises StudyError for a cluster without workers, and for workers that load another model.
    """
    from distributed import as_completed

    threads = sum(client.nthreads().values())
    if not threads:
        raise StudyError(f"{client} has no workers: start some, or wait until they are there")
    tasks = _tasks(run, builder, corpora)
    options = (load, builder.subject.fingerprint, builder.context, builder.answers)

    def submitted(task):
        return client.submit(_count, *options, *task, pure=False)

    waiting = as_completed()
    for _, task in zip(range(threads * WAITING), tasks):
        waiting.add(submitted(task))
    for future in waiting:
        run.atlas = run.atlas.merge(_whole(future.result()))
        future.release()
        run.after_group()
        for task in tasks:
            waiting.add(submitted(task))
            break


def _tasks(run, builder: Builder, corpora) -> Iterator[tuple[str, list]]:
    """(label, groups of (number, document)) of about :data:`TASK` tokens each."""
    ready: dict[str, list] = {}
    sizes: dict[str, int] = {}
    for label, documents in run.groups(corpora):
        size = sum(builder.length(document) for _, document in documents)
        run.planned[label] += size
        ready.setdefault(label, []).append(documents)
        sizes[label] = sizes.get(label, 0) + size
        if sizes[label] >= TASK:
            sizes[label] = 0
            yield label, ready.pop(label)
    yield from ready.items()


# The rest runs on a worker, but for the last function.


def _count(load, fingerprint: str, context: int, answers: int, label: str, groups: list):
    with _loading:
        if fingerprint not in _loaded:
            _loaded.clear()
            _loaded[fingerprint] = Builder(load(), context, answers)
        builder = _loaded[fingerprint]
    if builder.subject.fingerprint != fingerprint:
        raise StudyError(
            f"the workers load another model ({builder.model.source}) than this one: say how with "
            'load=, as in load=lambda: gemma4_mlx.load("folder", bits=4)'
        )
    builder.context, builder.answers = context, answers
    atlas = Atlas.empty(builder.subject, [label], scale=builder.known.scale)
    for documents in groups:
        builder.add(atlas, label, documents)
    atlas.counts.arrays = {name: _packed(array) for name, array in atlas.counts.arrays.items()}
    return atlas


def _packed(array: np.ndarray):
    """An array that is mostly zeros as its shape, places and values."""
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    if places.size * 3 > flat.size:
        return array
    return array.shape, array.dtype, places, flat[places]


def _whole(atlas: Atlas) -> Atlas:
    arrays = {}
    for name, packed in atlas.counts.arrays.items():
        if isinstance(packed, tuple):
            shape, kind, places, values = packed
            packed = np.zeros(shape, kind)
            packed.reshape(-1)[places] = values
        arrays[name] = packed
    atlas.counts = Counts(atlas.counts.subject, atlas.counts.labels, arrays)
    return atlas
