"""Corpora from lists, files, folders and tables, and what is said of those that cannot be read."""

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from gemma4_mlx.errors import StudyError
from gemma4_mlx.processing.inputs import ModelInputs
from gemma4_mlx.studies.building import sources
from gemma4_mlx.studies.building.sources import Remark, digest, documents

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def read(corpus):
    """(documents, sentences) of a corpus."""
    found = list(documents("code", corpus))
    said = [each.sentence for each in found if isinstance(each, Remark)]
    return [each for each in found if not isinstance(each, Remark)], said


@pytest.fixture
def folder(tmp_path):
    """A folder of everything."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "a.py").write_text("a = 1\n", encoding="utf-8")
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xef\xbb\xbf" + "schön".encode())
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "latin.txt").write_bytes("schön".encode("latin-1"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "void.txt").write_text(" \n")
    lines = [json.dumps("one"), json.dumps({"text": "two"}), "{broken", "", "[1, 2]",
             json.dumps({"messages": CHAT}), json.dumps({"title": "no text"})]  # fmt: skip
    (tmp_path / "talk.jsonl").write_text("\n".join(lines))
    table = pyarrow.table({"id": [1, 2, 3], "text": ["three", None, "four"]})
    parquet.write_table(table, tmp_path / "zoo.parquet")
    parquet.write_table(pyarrow.table({"id": [1]}), tmp_path / "zz.parquet")
    (tmp_path / "zzz.parquet").write_bytes(b"PAR1 not really")
    return tmp_path


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_folder_is_read_in_order_and_what_cannot_be_is_said(folder, kind):
    found, said = read(kind(folder))
    assert found == ["a = 1\n", "schön", "one", "two", CHAT, "three", "four"]
    assert [sentence.replace(str(folder), ".") for sentence in said] == [
        "./latin.txt is not UTF-8 (at byte 3): skipped",
        "./picture.png is not UTF-8 (at byte 0): skipped",
        "./talk.jsonl, line 3 is not JSON: skipped",
        "./talk.jsonl, line 5 is neither text nor a conversation: skipped",
        "./talk.jsonl, line 7 has title, and none of messages, text, content: skipped",
        "./void.txt is empty: skipped",
        "./zoo.parquet, row 1 has text, and none of messages, text, content: skipped",
        "./zz.parquet has no column messages, text, content: skipped",
        said[-1].replace(str(folder), "."),
    ]
    assert "zzz.parquet is no Parquet file" in said[-1]


def test_patterns_and_lists_of_paths(folder):
    assert read(f"{folder}/*.py") == (["a = 1\n"], [])
    assert read(f"{folder}/**/b.*")[0] == ["schön"]
    assert read([folder / "a.py", "a text", folder / "sub" / "b.txt"])[0] == [
        "a = 1\n", "a text", "schön"
    ]  # fmt: skip


def test_documents_of_every_kind():
    ids, array = [2, 5, 6], np.array([2, 7], np.int32)
    inputs = ModelInputs.of_tokens([2, 3])
    rows = [{"text": "row", "id": 3}, {"messages": CHAT}, {"content": "c"}]
    found, said = read([ids, array, inputs, CHAT, *rows, ""])
    assert found[:3] == [ids, array, inputs] and found[3:] == [CHAT, "row", CHAT, "c"]
    assert said == ["document 7 of 'code' is empty: skipped"]
    assert read(text for text in ("x", "y")) == (["x", "y"], [])  # streamed
    marks = [digest(document) for document in (*found, "xx")]
    assert len(set(marks)) == len(marks) - 1  # the conversation stands there twice
    assert digest(ModelInputs.of_tokens([2, 3])) == digest(inputs) != digest([2, 3])


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        ("no/such/file.txt", "no/such/file.txt of the corpus 'code' is not there; texts"),
        ("nothing/*.txt", "is not there"),
        ({"train": ["a"], "test": ["b"]}, "of train, test: give one of these"),
        (3, "is a int: give a path or a list"),
        ([3.5], "document 0 of 'code' is a float: give text"),
        ([b"bytes"], "a bytes"),
        ([[0.5]], "a list"),
        ([[]], "a list"),
    ],
)
def test_what_is_no_corpus_is_refused(corpus, says):
    with pytest.raises(StudyError, match=says):
        read(corpus)


def test_a_long_file_is_several_documents_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST", 100)
    text = "".join(f"line number {i}\n" for i in range(40))
    (tmp_path / "long.txt").write_text(text)
    found, said = read(tmp_path)
    assert "".join(found) == text and len(found) > 3
    assert all(part.endswith("\n") and len(part) < 200 for part in found)
    assert len(said) == 1 and "read as several documents" in said[0]
