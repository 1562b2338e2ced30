"""Corpora: labelled documents from lists, files, folders and tables, one at a time.

A document is a text, a conversation (a list of messages, or a ``Chat``), token ids or a
``ModelInputs``. Everything is read when it is needed; nothing is executed or fetched.
"""

import glob
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ...errors import StudyError

#: Characters of a text file that make a document; a longer file is several.
LONGEST = 1 << 18
#: Columns of a table or keys of an object that hold a document, the first that is there.
COLUMNS = ("messages", "text", "content")


@dataclass(frozen=True)
class Remark:
    """Something that was not read as it stands, as a sentence."""

    sentence: str


def documents(label: str, corpus) -> Iterator:
    """The documents of a corpus, in an order that is the same every time, and remarks between.

    Args:
        label: for messages.
        corpus: a path (a file, a folder whose files are all read but for hidden ones, or a pattern
            such as ``texts/*.txt``), or an iterable of documents, ``Path`` objects, and objects
            with a text under "text" or "content" or a conversation under "messages", as the rows of
            a ``datasets`` dataset are. Files named ``.jsonl`` hold one such object, or text, a
            line; those named ``.parquet`` are tables with such a column; all others are text.

    Raises StudyError for what is none of these, and for files that cannot be opened.
    """
    if isinstance(corpus, str | Path):
        yield from _of_path(label, corpus)
        return
    if isinstance(corpus, Mapping):
        raise StudyError(
            f"the corpus {label!r} is a {type(corpus).__name__} of {', '.join(map(str, corpus))}: "
            "give one of these"
        )
    if not isinstance(corpus, Iterable):
        raise StudyError(
            f"the corpus {label!r} is a {type(corpus).__name__}: give a path or a list of documents"
        )
    for number, item in enumerate(corpus):
        if isinstance(item, Path):
            yield from _of_path(label, item)
        else:
            yield from _of_object(item, f"document {number} of {label!r}")


def digest(document) -> str:
    """A hash by which a document is known again."""
    if isinstance(document, str):
        said = document.encode("utf-8", "surrogatepass")
    elif hasattr(document, "tokens"):
        said = np.array(document.tokens, np.int64).tobytes()
        said += "".join(span.key for span in document.media).encode()
    elif hasattr(document, "messages"):
        said = repr(document.messages).encode()
    else:
        said = repr(document).encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=8).hexdigest()


def size(document) -> int:
    """Tokens of a document, about, without a tokenizer: four characters count as one."""
    if hasattr(document, "tokens"):
        return len(document.tokens)
    if hasattr(document, "messages"):
        return sum(len(message.text) for message in document.messages) // 4
    if isinstance(document, str):
        return len(document) // 4
    if isinstance(document[0], Mapping):
        return sum(len(str(message.get("content", ""))) for message in document) // 4
    return len(document)


def _of_path(label: str, given: str | Path) -> Iterator:
    path = Path(given).expanduser()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
        )
    elif path.is_file():
        files = [path]
    else:
        files = sorted(map(Path, glob.glob(str(path), recursive=True)))
        files = [file for file in files if file.is_file()]
        if not files:
            raise StudyError(
                f"{given} of the corpus {label!r} is not there; texts themselves go into a list"
            )
    for file in files:
        reader = _READERS.get(file.suffix.lower(), _of_text)
        try:
            yield from reader(file)
        except UnicodeDecodeError as error:
            yield Remark(f"{file} is not UTF-8 (at byte {error.start}): skipped")
        except OSError as error:
            yield Remark(f"{file} cannot be read ({error.strerror}): skipped")


def _of_text(path: Path) -> Iterator:
    """A file's text; of a long one, parts of about :data:`LONGEST` characters that end in lines."""
    with path.open(encoding="utf-8-sig") as file:
        first, part = True, file.read(LONGEST)
        while part:
            part += file.readline(LONGEST)
            more = file.read(LONGEST)
            if more and first:
                yield Remark(f"{path} is long: read as several documents")
            yield from _of_object(part, str(path))
            first, part = False, more


def _of_lines(path: Path) -> Iterator:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except (ValueError, RecursionError):
                yield Remark(f"{path}, line {number} is not JSON: skipped")
                continue
            yield from _of_object(item, f"{path}, line {number}", from_file=True)


def _of_parquet(path: Path) -> Iterator:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as missing:
        raise StudyError(f"{path} needs pyarrow ({missing}): pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            known = [name for name in COLUMNS if name in file.schema_arrow.names]
            if not known:
                yield Remark(f"{path} has no column {', '.join(COLUMNS)}: skipped")
                return
            number = 0
            for batch in file.iter_batches(64, columns=known[:1]):
                for row in batch.to_pylist():
                    yield from _of_object(row, f"{path}, row {number}", from_file=True)
                    number += 1
    except ArrowException as error:
        yield Remark(f"{path} is no Parquet file ({error}): skipped")


_READERS = {".jsonl": _of_lines, ".parquet": _of_parquet}


def _of_object(item, where: str, from_file: bool = False) -> Iterator:
    """One document, or a remark why it is none."""
    if isinstance(item, Mapping):
        found = next((item[name] for name in COLUMNS if item.get(name) is not None), None)
        if found is None:
            names = ", ".join(map(str, item))
            yield Remark(f"{where} has {names}, and none of {', '.join(COLUMNS)}: skipped")
            return
        item = found
    if isinstance(item, str):
        if item.strip():
            yield item
        else:
            yield Remark(f"{where} is empty: skipped")
    elif isinstance(item, list | tuple) and item and all(isinstance(m, Mapping) for m in item):
        yield [dict(message) for message in item]
    elif from_file:
        yield Remark(f"{where} is neither text nor a conversation: skipped")
    elif hasattr(item, "tokens") or hasattr(item, "inputs") or _ids(item):
        yield item
    else:
        raise StudyError(
            f"{where} is a {type(item).__name__}: give text, messages, token ids or a ModelInputs"
        )


def _ids(item) -> bool:
    try:
        ids = np.asarray(item)
    except (TypeError, ValueError):
        return False
    return ids.ndim == 1 and ids.size > 0 and ids.dtype.kind in "iu"
