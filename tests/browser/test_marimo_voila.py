"""The widgets in marimo, by `mo.ui.anywidget`, and in Voila."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from waiting import PATIENCE, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SETUP = """
import gemma4_mlx as g4
from gemma4_mlx.widgets import Anatomy, Attention, Fit, Prompt, Routing
model = g4.load()
trace = g4.trace(model, "one two three four", attention=g4.AttentionPlan(retain="all"))
"""
WIDGETS = (
    "Attention(trace)",
    "Routing(trace)",
    "Anatomy(model)",
    "Fit(memory=24)",
    "Prompt(model)",
)

#: How many colours each canvas has.
COLOURS = """(all) => all.filter((c) => c.width > 20 && c.offsetParent).map((c) => {
  const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
  return new Set(new Uint32Array(data.buffer)).size;
})"""


@contextlib.contextmanager
def served(*command, folder):
    """A server of notebooks on a free port; gives its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(folder)}
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}"],
        env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(4 * PATIENCE):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/static/", timeout=30)
                break
            if Path(log.name).read_text().count(str(port)):  # it answers, with an error
                time.sleep(1)
                break
            time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()


@pytest.fixture
def host_page(browser):
    """A page whose host may ask for fonts elsewhere, and gets none."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.route(
        "**/*",
        lambda route: route.continue_() if "//127.0.0.1" in route.request.url
        or not route.request.url.startswith("http") else route.abort(),
    )  # fmt: skip
    yield page
    context.close()


def drive(page, name):
    """Every widget answers, its canvases are painted with the theme's colours."""
    folder = Path(__file__).parent / "artifacts"
    folder.mkdir(exist_ok=True)
    try:
        for widget in ("attention", "routing"):
            root = page.locator(f".g4-{widget}")
            root.locator(".g4-tokens [data-i='3']").click()
            root.locator(".g4-tokens [data-i='3'].g4-selected").wait_for()
            root.screenshot(path=folder / f"{name}-{widget}.png")
            ink = root.evaluate("(e) => getComputedStyle(e).getPropertyValue('--g4-fg')")
            assert ink, "the style sheet reaches the widget"
            painted = root.locator("canvas").evaluate_all
            until(lambda painted=painted: min(painted(COLOURS), default=0) > 2)
        page.locator(".g4-anatomy [data-block=layer2][data-part=router]").dispatch_event("click")
        page.locator(".g4-anatomy h4", has_text="Router of layer 2").wait_for()
        page.locator(".g4-fit .g4-verdict strong").wait_for()
        prompt = page.locator(".g4-prompt")
        prompt.locator("textarea").fill("Count from 3 to 6.")
        prompt.locator("textarea").press("Enter")
        prompt.locator(".g4-from-assistant", has_text=re.compile("six|6")).wait_for()
        prompt.screenshot(path=folder / f"{name}-prompt.png")
        assert not page.locator(".g4-asleep:visible").count()
    except Exception:
        page.screenshot(path=folder / f"{name}-failed.png", full_page=True)
        raise


def test_marimo(host_page, tmp_path):
    pytest.importorskip("marimo", reason="marimo is not installed")
    names = "Anatomy, Attention, Fit, Prompt, Routing, mo, model, trace"
    cells = [f"def _():\n    import marimo as mo{SETUP.replace(chr(10), chr(10) + '    ')}"]
    cells[0] = cells[0].rstrip() + f"\n    return {names}"
    cells += [f"def _({names}):\n    mo.ui.anywidget({code})\n    return" for code in WIDGETS]
    source = "import marimo\n\napp = marimo.App()\n\n\n"
    source += "".join(f"@app.cell\n{cell}\n\n\n" for cell in cells)
    (tmp_path / "course.py").write_text(source)
    how = ("run", "course.py", "--headless", "--no-token")
    with served("marimo", *how, folder=tmp_path) as address:
        host_page.goto(address)
        drive(host_page, "marimo")


def test_voila(host_page, tmp_path):
    pytest.importorskip("voila", reason="Voila is not installed")
    cells = [nbformat.v4.new_code_cell(code) for code in (SETUP, *WIDGETS)]
    spec = {"name": "python3", "display_name": "python3", "language": "python"}
    document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.write(document, tmp_path / "course.ipynb")
    with served("voila", "course.ipynb", "--no-browser", folder=tmp_path) as address:
        host_page.goto(address)
        drive(host_page, "voila")
