"""The ``.g4atlas`` file: an atlas's arrays and its description, laid out as a trace's file."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...errors import StudyError
from ...tracing.data import fileformat
from .contexts import FIELDS, SORTS, Contexts
from .counts import AXES, Counts, Subject
from .documents import TYPES, Documents

FILE = fileformat.Kind("g4atlas", "an atlas's file", 1, StudyError)
#: Name of the file in an atlas's folder.
NAME = "atlas.g4atlas"
#: Arrays that not every atlas has: number of axes, and kind of their type.
OPTIONAL = {"scale": (2, "f"), "promoted": (3, "i"), "suppressed": (3, "i")}


def write_atlas(atlas, path) -> Path:
    """Write an atlas; see :meth:`.Atlas.save`. Raises StudyError if it cannot be written."""
    path, subject = _file(path), atlas.counts.subject
    arrays = dict(atlas.counts.arrays)
    for sort in SORTS:
        kept = atlas.contexts.arrays[sort]
        arrays |= {f"contexts.{sort}.{name}": kept[name] for name in FIELDS}
    arrays |= {f"documents.{name}": atlas.documents.arrays[name] for name in TYPES}
    atlas.contexts.prune()
    arrays |= {f"picture.{key}": picture for key, picture in atlas.contexts.pictures.items()}
    arrays |= {name: getattr(atlas, name) for name in OPTIONAL if getattr(atlas, name) is not None}
    description = {
        "subject": {
            **vars(subject),
            "layers": list(subject.layers),
            "interventions": list(subject.interventions),
        },
        "labels": list(atlas.labels),
        "model": atlas.model,
        "texts": {str(id): text for id, text in atlas.texts.items()},
        "read": atlas.read,
        "marks": atlas.marks,
        "remarks": atlas.remarks,
    }
    try:
        fileformat.write(path, arrays, description, FILE)
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}") from None
    return path


def read_atlas(path, content: bytes | None = None) -> dict:
    """What an atlas is made of, by the names of its attributes; ``content``: of the file, if it is
    known.

    Raises StudyError if the file is missing, damaged, cut short or of a newer version.
    """
    path = _file(path)
    if content is None:
        arrays, description = fileformat.read(path, FILE)
    else:
        arrays, description = fileformat.parsed(path, np.frombuffer(content, np.uint8), FILE)
    try:
        return _parts(arrays, description)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _parts(arrays: dict, description: dict) -> dict:
    said = description["subject"]
    subject = Subject(
        str(said["fingerprint"]),
        tuple(map(int, said["layers"])),
        *(int(said[name]) for name in ("num_experts", "k", "vocabulary", "hidden")),
        interventions=tuple(map(str, said["interventions"])),
    )
    if not subject.layers or not 1 <= subject.k <= subject.num_experts or subject.hidden < 0:
        raise ValueError(f"an atlas of {subject}")
    labels = tuple(map(str, description["labels"]))
    if list(labels) != sorted(set(labels)):
        raise ValueError(f"labels {labels}")
    documents = {name: arrays[f"documents.{name}"] for name in TYPES}
    kept = {sort: {name: arrays[f"contexts.{sort}.{name}"] for name in FIELDS} for sort in SORTS}
    pictures = {
        int(name.removeprefix("picture.")): array
        for name, array in arrays.items()
        if name.startswith("picture.")
    }
    shape = (len(subject.layers), subject.num_experts)
    for name, (axes, kind) in OPTIONAL.items():
        if name in arrays:
            array = arrays[name]
            if array.shape[:2] != shape or array.ndim != axes or array.dtype.kind != kind:
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype}")
    marks, remarks = description["marks"].items(), description["remarks"].items()
    return {
        "counts": Counts.from_arrays(subject, labels, {name: arrays[name] for name in AXES}),
        "documents": Documents.from_arrays(subject, labels, documents),
        "contexts": Contexts.from_arrays(shape[0] * shape[1], len(labels), kept, pictures),
        "model": dict(description["model"]),
        "texts": {int(id): str(text) for id, text in description["texts"].items()},
        "read": {str(label): joined(spans) for label, spans in description["read"].items()},
        "marks": {str(label): [int(n), str(digest)] for label, (n, digest) in marks},
        "remarks": {str(label): [str(each) for each in said] for label, said in remarks},
        **{name: arrays.get(name) for name in OPTIONAL},
    }


def _file(path) -> Path:
    path = Path(path)
    return path / NAME if path.is_dir() else path


def joined(spans: Iterable) -> list[list[int]]:
    """Ranges [start, stop] in order, those that touch joined.

    >>> joined([[4, 6], [0, 2], [2, 3]])
    [[0, 3], [4, 6]]
    """
    found: list[list[int]] = []
    for start, stop in sorted((int(a), int(b)) for a, b in spans):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([start, stop])
    return found
