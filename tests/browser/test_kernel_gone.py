"""A kernel that is gone, busy or silent: within seconds a sentence says so."""

import base64
import io
import json
import re

import nbformat
import pytest
from front import FrontEnd
from PIL import Image
from waiting import until

META = {"parts": [], "layers": [], "empty": "Nothing to see."}
BANNER = ".g4-banner[role=status]"


@pytest.fixture
def waiting(page):
    """A widget that has asked and got no answer, and a clock that tests move."""
    page.clock.install()
    front = FrontEnd(page, "attention", {"meta": META, "error": "", "selection": {}})
    page.evaluate("globalThis.answered = null")
    page.evaluate("ask('tile').then(() => { answered = true; }); undefined")
    return front


def host(page, **kernel):
    state = {"status": "idle", "connectionStatus": "connected"} | kernel
    page.evaluate("(kernel) => { fake.widget_manager = { kernel }; }", state)


def pass_seconds(page, seconds):
    page.clock.run_for(1000 * seconds)
    return page.locator(BANNER).inner_text() if page.locator(BANNER).is_visible() else ""


def test_silence_is_told_by_what_the_host_knows(waiting, page):
    host(page, status="idle")
    assert pass_seconds(page, 3) == ""
    assert "No answer" in pass_seconds(page, 4)
    host(page, status="busy")
    assert "busy with another cell" in pass_seconds(page, 1)
    page.evaluate("fake.widget_manager = undefined")
    assert "If no other cell is running" in pass_seconds(page, 1)
    waiting.reply("tile", content=None)
    assert pass_seconds(page, 2) == "", "the answer came after all"
    assert page.evaluate("answered")


def test_a_long_answer_is_not_declared_dead(waiting, page):
    host(page, status="idle")
    id = waiting.sent("tile")[-1]["id"]
    beat = "([id, p]) => emit('msg:custom', { alive: { [id]: p } }, [])"
    for _ in range(10):
        page.evaluate(beat, [id, None])
        text = pass_seconds(page, 2)
    assert text == "Python is computing the answer."
    page.evaluate(beat, [id, {"what": "Comparing", "done": 341, "total": 1000}])
    assert pass_seconds(page, 1) == "Comparing: 34 %"
    assert "No answer" in pass_seconds(page, 11), "it lived, and then fell silent"


def test_without_a_kernel_it_says_so_before_anything_is_asked(page):
    page.clock.install()
    FrontEnd(page, "attention", {"meta": META, "error": "", "selection": {}})
    host(page)
    assert pass_seconds(page, 10) == ""
    host(page, status="dead")
    assert "Run the cell again" in pass_seconds(page, 2)


def pictures(file) -> list[str]:
    """What the outputs of a saved notebook show without their widgets, in base64."""
    try:
        saved = nbformat.read(file, 4)
    except ValueError:  # half written
        return []
    outputs = [output for cell in saved.cells[1:] for output in cell.outputs]
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def test_shut_down_and_reopened_in_jupyterlab(notebook, page, lab):
    opened = notebook(
        "import gemma4_mlx as g4\nmodel = g4.load()",
        "g4.widgets.Anatomy(model)",
        "g4.widgets.Routing(g4.trace(model, 'one two', attention=None))",
    )
    routing = page.locator(".g4-routing")
    routing.locator(".g4-headline").wait_for()
    asleep = page.locator(".g4-asleep")
    for sentence in asleep.all():
        assert not sentence.is_visible(), "a live widget needs no sentence"

    def saved():
        opened.execute("docmanager:save")
        page.wait_for_timeout(1000)
        return len(pictures(lab.folder / opened.name)) == 2

    until(saved)
    for picture in pictures(lab.folder / opened.name):
        assert len(picture) < 150_000
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert image.width > 400 and len(set(image.convert("L").getdata())) > 10
    shutdown = "window.jupyterapp.shell.currentWidget.context.sessionContext.shutdown()"
    page.evaluate(shutdown)
    gone = page.locator(BANNER, has_text="Run the cell again")
    gone.nth(1).wait_for(state="attached")
    assert gone.count() == 2
    opened.open()
    asleep.first.wait_for()
    assert asleep.first.is_visible()


def test_nbconvert_shows_the_picture(lab, tmp_path):
    """Of a notebook saved with live widgets, without their state, as JupyterLab saves it."""
    nbconvert = pytest.importorskip("nbconvert")
    import gemma4_mlx as g4

    bundle, _ = g4.widgets.Fit(memory=24)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    output = nbformat.v4.new_output("display_data", data=bundle)
    cell = nbformat.v4.new_code_cell("Fit()", outputs=[output])
    html, _ = nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert re.search(r'<img[^>]*src="data:image/png;base64', html)
    assert json.dumps(bundle["application/vnd.jupyter.widget-view+json"]["model_id"]) not in html
