"""The course runs from top to bottom, and is kept without outputs."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def ids(path):
    return path.stem


def test_the_course_is_complete_and_in_order():
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]
    assert numbers[:4] == ["00", "01", "02", "02b"] and numbers == sorted(set(numbers))
    whole = [number for number in numbers if number.isdigit()]
    assert whole == [f"{i:02}" for i in range(len(whole))] and len(whole) >= 11
    for listed in ("index.md", "mkdocs.yml"):
        text = (FOLDER / listed).read_text(encoding="utf-8")
        assert [path.name for path in NOTEBOOKS if path.name not in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_kept_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_what_the_tests_assert_is_hidden(path):
    """A cell that asserts what the prose says is folded away, and left out of the site's pages."""
    for cell in nbformat.read(path, 4).cells:
        tags = cell.metadata.get("tags", [])
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == ("check" in tags or "answer" in tags), cell.source
        if "check" in tags:
            assert cell.source.startswith("# Checked by the tests: ") and "assert" in cell.source
        if "answer" in tags:
            assert cell.source.startswith("# Compares your answer") and "verdict(" in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_mlx_comes_behind_the_package(path):
    """Which loads a fast BLAS before it on Linux: the other way round all takes four times as
    long."""
    sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    lines = "\n".join(sources).splitlines()
    first = {name: [i for i, line in enumerate(lines) if line.startswith(f"import {name}")][:1]
             for name in ("gemma4_mlx", "mlx")}  # fmt: skip
    assert not first["mlx"] or first["gemma4_mlx"] < first["mlx"]


def test_words_are_explained():
    """Every link into the glossary finds its entry, and every entry is found from a notebook."""
    import re

    text = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    entries = {name.lower().replace(" ", "-") for name in re.findall(r"(?m)^## (.*)$", text)}
    linked = re.findall(r"\]\(#([\w-]+)\)", text)
    for path in NOTEBOOKS:
        linked += re.findall(r"\]\(glossary\.md#([\w-]+)\)", path.read_text(encoding="utf-8"))
    assert set(linked) == entries


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


def test_a_page_of_the_site_fetches_nothing():
    """The hook of notebooks/mkdocs.yml takes out what nbconvert adds for live widgets."""
    from nbconvert import HTMLExporter

    spec = importlib.util.spec_from_file_location("site_hook", FOLDER / "site_hook.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    state = {"version_major": 2, "version_minor": 0, "state": {"a": {"model_name": "X"}}}
    frame = nbformat.v4.new_output("display_data", {"text/html": '<iframe srcdoc="x"></iframe>'})
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("1", outputs=[frame]),
            nbformat.v4.new_markdown_cell(
                "a [head](glossary.md#head), `x.md`, [q](http://q.org/r.md)"
            ),
        ],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": state}},
    )
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "html-manager" in page and "widget-state+json" in page, "nbconvert does so no more"
    kept = hook.on_post_page(page, None, None)
    assert "html-manager" not in kept and "widget-state+json" not in kept
    assert 'href="glossary.html#head"' in kept and "x.md" in kept and "q.org/r.md" in kept
    assert '<iframe srcdoc="x">' in kept and kept.rstrip().endswith("</html>")


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_runs(path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
