"""The command line: what it prints, and one line for a user's mistake."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from waiting import PATIENCE

import gemma4_mlx as g4
from gemma4_mlx import cli
from gemma4_mlx.errors import Gemma4Error
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image


def run(*arguments):
    try:
        return cli.main(list(arguments))
    except SystemExit as end:  # argparse
        return end.code


def test_chat_prints_an_answer(capsys):
    assert run("chat", "Count", "from 3 to 9", "--max-tokens", "12", "--seed", "1", "--stats") == 0
    out = capsys.readouterr()
    assert out.out.strip()
    assert "tokens/s" in out.err


def test_chat_takes_files_and_says_what_they_cost(capsys, tmp_path):
    image, sound = tmp_path / "dot.png", tmp_path / "beep.wav"
    Image.new("RGB", (96, 96), "red").save(image)
    soundfile.write(sound, np.sin(np.arange(8000) / 6) / 2, 16_000)
    files = ("--image", str(image), "--audio", str(sound))
    assert run("chat", "What is this?", *files, "--max-tokens", "3", "--stats") == 0
    said = capsys.readouterr().err
    model = g4.load()
    cost = load_image(image, model).n_soft, load_audio(sound, model).n_soft
    assert f"dot.png: {cost[0]} tokens\nbeep.wav: {cost[1]} tokens\n" in said
    read = int(re.search(r"(\d+) tokens read", said)[1])
    assert read > sum(cost)


def test_a_process_that_chatted_ends_well():
    """MLX's CPU backend aborts at exit if the thread that ran the model has ended."""
    command = [sys.executable, "-m", "gemma4_mlx", "chat", "hi", "--max-tokens", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, "terminate" in done.stderr) == (0, False), done.stderr


def test_chat_holds_a_schema(capsys, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"enum": ["yes", "no"]}')
    assert run("chat", "Is it?", "--schema", str(file), "--seed", "0") == 0
    assert json.loads(capsys.readouterr().out) in ("yes", "no")


def test_thoughts_stay_out_of_what_another_program_reads(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer", "minimum": 0, "maximum": 99}')
    ask = ["chat", "What is 27 + 15 - 8?", "--schema", str(file), "--thinking"]
    command = [sys.executable, "-m", "gemma4_mlx", *ask]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(done.stdout) == 34
    assert "27 + 15 = 42" in done.stderr


def test_a_terminal_of_few_characters():
    """It shows marks for the characters it has not."""
    command = [sys.executable, "-m", "gemma4_mlx", "chat", "请从2数到6。", "--max-tokens", "8"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout


def test_chat_reads_lines(capsys, monkeypatch):
    lines = iter(["hello", " ", "again"])

    def read(prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert run("chat", "--max-tokens", "4") == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    lines = iter(["/quit", "hello"])
    assert run("chat", "--max-tokens", "4") == 0
    assert not capsys.readouterr().out and list(lines) == ["hello"]


@pytest.mark.parametrize(
    "arguments, thinking, said",
    [
        (["--thinking", "How many?"], True, "How many?"),
        (["--thinking", "How", "many?"], True, "How many?"),
        (["How", "--thinking", "many?"], True, "How many?"),
        (["How", "many?", "--thinking"], True, "How many?"),
        (["--thinking", "256", "How many?"], 256, "How many?"),
        (["--thinking=256", "How many?"], 256, "How many?"),
        (["How many?"], False, "How many?"),
    ],
)
def test_thinking_takes_a_number_and_leaves_the_question(arguments, thinking, said, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "_answer", lambda chat, text, *_: asked.append((chat.thinking, text)))
    assert run("chat", *arguments) == 0
    assert asked == [(thinking, said)]


@pytest.mark.parametrize("name", ["t.g4trace", "t.html"])
def test_trace_writes_a_file(capsys, tmp_path, name):
    assert run("trace", "hello", "-o", str(tmp_path / name)) == 0
    assert (tmp_path / name).stat().st_size > 1000
    assert "tokens traced" in capsys.readouterr().out


def test_fit_and_check(capsys):
    assert run("fit", "26b-a4b", "--bits", "4") == 0
    assert "experts" in capsys.readouterr().out
    assert run("fit") == 0
    assert "e2b" in capsys.readouterr().out
    assert run("check") == 0
    assert "memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["chat", "hi", "--image", "nope.png"], "nope.png"),
        (["chat", "hi", "--temperature", "-1"], "temperature"),
        (["chat", "hi", "--model", "/no/such/folder"], "/no/such/folder"),
        (["chat", "hi", "--schema", "/no/such/file"], "cannot be read"),
        (["chat", "hi", "--thinking", "-3"], "thinking"),
        (["chat", "hi", "--schema", __file__], "is no JSON Schema"),
        (["trace"], "give a text"),
        (["trace", "x", "--file", __file__], "not both"),
        (["trace", "x", "-o", "x.txt"], "must end in"),
        (["trace", "x", "-o", "/no/such/folder/x.html"], "not a folder"),
        (["trace", "--file", "/no/such/file"], "cannot be read"),
        (["fit", "nonsense"], "nonsense"),
        (["fit", "e2b", "--context", "0"], "context is 0 tokens"),
        (["fit", "--memory", "0"], "no number of GiB"),
        (["lab", "--port", "70000"], "no port"),
        (["chat", "hi", "--image", "/"], "/ is a folder, not a file"),
        (["chat", "hi", "--model", "e4b"], "such as google/gemma-4-E4B-it"),
        (["sing"], "invalid choice"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_mistakes_are_one_line_and_status_2(capsys, arguments, words):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    if "usage:" not in error:  # argparse says how a command is used, too
        assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["trace", "-"], ["chat"]])
def test_what_is_no_text_on_standard_input(arguments, capsys, monkeypatch):
    binary = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", binary)
    assert run(*arguments) == 2
    assert "standard input cannot be read" in capsys.readouterr().err


def test_a_trace_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "t.html").mkdir()
    assert run("trace", "x", "-o", str(tmp_path / "t.html")) == 2
    assert "t.html cannot be written" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert run() == 0
    assert "COMMAND" in capsys.readouterr().out
    assert run("--version") == 0


def test_ctrl_c(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupted)
    assert run("chat", "hi") == 130


def test_lab_opens_a_copy_of_the_course(monkeypatch, tmp_path):
    """From a checkout, too: running a notebook must not change the repository's files."""
    called = []
    monkeypatch.chdir(tmp_path)
    waits = iter([KeyboardInterrupt, KeyboardInterrupt])  # JupyterLab answers them, not we

    class Process:
        def __init__(self, command, env):
            assert env == cli.kernel_environment()
            called.append(command)

        def wait(self):
            for interrupt in waits:
                raise interrupt
            return 0

    monkeypatch.setattr("subprocess.Popen", Process)
    assert run("lab", "--no-browser", "--port", "9999") == 0
    (command,) = called
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    folder = tmp_path / "gemma4-notebooks"
    source = Path(cli.__file__).parent.parent / "notebooks"
    assert sorted(f.name for f in folder.iterdir()) == sorted(
        f.name for pattern in cli.COURSE for f in source.glob(pattern)
    )
    for page in ("glossary.md", "01_anatomy.ipynb"):  # where the notebooks lead
        assert (folder / page).is_file()
    assert f"--notebook-dir={folder}" in command
    assert f"--LabApp.default_url=/lab/tree/{cli.START_NOTEBOOK}" in command
    assert (folder / cli.START_NOTEBOOK).is_file()


def test_a_model_folder_is_found_from_the_notebooks(monkeypatch, tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for named, passed_on in (
        ("models/mine", str((tmp_path / "models" / "mine").resolve())),
        ("google/gemma-4-E2B-it", "google/gemma-4-E2B-it"),
    ):
        monkeypatch.setenv("GEMMA4_MODEL", named)
        assert cli.kernel_environment()["GEMMA4_MODEL"] == passed_on


def test_an_installed_course_is_copied_and_never_overwritten(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "gemma4_mlx"
    (package / "notebooks").mkdir(parents=True)
    (package / "notebooks" / "00_start_here.ipynb").write_text("new")
    (package / "notebooks" / "01_more.ipynb").write_text("more")
    monkeypatch.setattr(cli, "__file__", str(package / "cli.py"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "00_start_here.ipynb").write_text("my notes")
    assert cli.notebooks_folder(folder) == folder
    assert (folder / "00_start_here.ipynb").read_text() == "my notes"
    assert (folder / "01_more.ipynb").read_text() == "more"
    monkeypatch.chdir(tmp_path)
    assert cli.notebooks_folder() == tmp_path / "gemma4-notebooks"
    (tmp_path / "file").write_text("")
    with pytest.raises(Gemma4Error, match="cannot be written"):
        cli.notebooks_folder(tmp_path / "file" / "x")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "nowhere" / "cli.py"))
    with pytest.raises(Gemma4Error, match="no notebooks"):
        cli.notebooks_folder()


def test_atlas_reads_corpora_and_goes_on(capsys, tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(3):
        text = f"Count from {i} to {i + 3}"
        (tmp_path / "texts" / f"{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "texts" / "bad.txt").write_bytes(b"\xff")
    corpora = ("--corpus", f"count={tmp_path}/texts/*.txt", "--corpus", f"all={tmp_path}/texts")
    out = tmp_path / "made.g4atlas"
    for _ in range(2):
        assert run("atlas", *corpora, "--out", str(out), "--tokens", "500") == 0
        said = capsys.readouterr()
        assert "all 3 documents, count 3 documents" in said.out
        assert f"written to {out}" in said.out and "bad.txt is not UTF-8" in said.err
    assert g4.open_atlas(out).counts["documents"].tolist() == [3, 3]


def test_atlas_without_corpora_takes_the_teaching_models_own(capsys, tmp_path):
    assert run("atlas", "--out", str(tmp_path / "a"), "--tokens", "160") == 0
    labels = g4.open_atlas(tmp_path / "a").labels
    assert labels == (
        "arithmetic", "audio", "chat", "code", "image", "languages", "needle", "tools"
    )  # fmt: skip


def test_atlas_of_one_label_says_that_nothing_can_be_compared(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("Count from 3 to 9", encoding="utf-8")
    page = tmp_path / "a.html"
    out = ("--out", str(tmp_path / "a"), "--html", str(page))
    assert run("atlas", "--corpus", f"count={tmp_path}/a.txt", *out) == 0
    assert "one label: there is nothing to compare it with" in capsys.readouterr().out
    assert "Count from 3 to 9" in page.read_text(encoding="utf-8")


def test_atlas_says_what_is_wrong(capsys, tmp_path):
    out = ("--out", str(tmp_path / "a"))
    for arguments, says in (
        (("--corpus", "code"), "no LABEL=PATH"),
        (("--corpus", "a=no/such"), "no/such of the corpus 'a' is not there"),
        (("--corpus", "a=x", "--corpus", "a=y"), "a label was given twice"),
        (("--tokens", "0"), "an atlas of 0 tokens"),
    ):
        assert run("atlas", *arguments, *out) == 2
        assert says in capsys.readouterr().err
