"""Snapshots: alive from a file without network, and inside nbconvert's HTML."""

import base64
import io

import pytest
import traitlets
from PIL import Image

from gemma4_mlx.widgets.base import Widget
from gemma4_mlx.widgets.still import draw_conversation

HOSTILE = "Hello </script><script>window.canary = 1</script> <img src=x onerror='window.canary=2'>"


class Conversation(Widget):
    """The Prompt widget's front end with recorded turns: no model is needed to keep a snapshot."""

    front = "prompt"
    turns = traitlets.List().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    stats = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def answer_tokens(self, turn, start):
        return [["Hello", 0.9, [[1, "Hello", 0.9], [2, "Hi", 0.05]]], [HOSTILE, 0.2, []]]

    def snapshot_requests(self):
        return [{"type": "tokens", "turn": 1, "start": 0}]

    def snapshot_image(self):
        return draw_conversation(self.turns, "a model", "42 tokens/s").pil()


@pytest.fixture
def widget():
    base = {"status": "done", "branch": 0, "branches": 1, "editable": True}
    text = [{"kind": "text", "text": HOSTILE}]
    return Conversation(
        turns=[
            {"id": "0", "role": "user", "parts": text, "tokens": 0} | base,
            {"id": "1", "role": "assistant", "parts": text, "tokens": 2} | base,
        ],
        about={"name": "a model", "detail": "recorded"},
    )


def test_a_saved_page_is_alive_without_network(widget, browser, tmp_path, accessible):
    path = widget.snapshot().save(tmp_path / "chat.html")
    context = browser.new_context(offline=True, reduced_motion="reduce")
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.get_by_role("button", name="Show the tokens").click()
    page.locator(".g4-tok").first.hover()
    page.locator(".g4-choice", has_text="Hi").wait_for()
    assert page.evaluate("window.canary") is None
    assert not page.get_by_role("textbox").count(), "a snapshot has nobody to write to"
    accessible(page, "main")
    assert not errors
    context.close()


def test_nbconvert_shows_it_alive_offline_and_as_a_picture(widget, browser, tmp_path):
    nbconvert = pytest.importorskip("nbconvert")
    import nbformat

    bundle = widget.snapshot()._repr_mimebundle_()
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 400 and len(set(picture.convert("L").getdata())) > 10
    output = nbformat.v4.new_output("display_data", data=bundle)
    cell = nbformat.v4.new_code_cell("widget.snapshot()", outputs=[output])
    page_html, _ = nbconvert.HTMLExporter().from_notebook_node(
        nbformat.v4.new_notebook(cells=[cell])
    )
    path = tmp_path / "notebook.html"
    path.write_text(page_html, encoding="utf-8")
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.route("http*://**", lambda route: route.abort())
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Show the tokens").click()
    frame.locator(".g4-tok").first.wait_for()
    height = page.locator("iframe").evaluate("e => e.clientHeight")
    inside = frame.locator("#g4-root").evaluate("e => e.getBoundingClientRect().height")
    assert height >= inside, "the frame takes the height that its page reports"
    assert frame.locator("body").evaluate("() => window.canary") is None
    context.close()
