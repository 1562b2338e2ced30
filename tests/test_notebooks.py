"""The course runs from top to bottom, and is kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def ids(path):
    return path.stem


def test_the_course_is_complete_and_in_order():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(11)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_kept_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_opens_with_what_and_why_and_links_lead_somewhere(path):
    import re

    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
    assert cells[0].source.startswith("# ")
    assert "What you will see" in cells[0].source and "Why it matters" in cells[0].source
    assert any("<details><summary>" in cell.source for cell in cells), "no hidden solutions"
    assert any("On a real model" in cell.source for cell in cells)
    for cell in cells:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", cell.source):
            assert (FOLDER / target).exists(), target


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_runs(path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
