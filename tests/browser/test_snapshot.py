"""Snapshots: alive from a file without network, and inside nbconvert's HTML."""

import base64
import io
import json
import re

import pytest
import traitlets
from PIL import Image
from synthetic import make_routing, make_tokens

from gemma4_mlx.tracing import Trace
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


def test_its_frame_leads_nowhere(widget, browser):
    frame_html = widget.snapshot()._repr_mimebundle_()["text/html"]
    assert re.search(r'sandbox="([^"]*)"', frame_html)[1] == "allow-scripts allow-downloads"
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    asked = []
    page.route("**/*", lambda route: (asked.append(route.request.url), route.abort()))
    page.set_content(f"<!doctype html><body>{frame_html}</body>")
    inside = page.frame_locator("iframe")
    inside.get_by_role("button", name="Show the tokens").wait_for()
    frame = page.frames[1]
    frame.evaluate(
        """() => {
          const make = (tag, how) =>
            document.body.append(Object.assign(document.createElement(tag), how));
          make("a", { href: "https://example.org/", textContent: "leave" });
          make("a", { href: "https://example.org/", textContent: "open", target: "_blank" });
          make("form", { action: "https://example.org/", id: "form" });
          document.getElementById("form").submit();
          window.open("https://example.org/");
        }"""
    )
    for name in ("leave", "open"):
        inside.get_by_role("link", name=name).click()
    page.wait_for_timeout(500)
    assert asked == [] and len(context.pages) == 1 and frame.url == "about:srcdoc"
    context.close()


def long_trace(n=6000):
    """Of twelve pages, more than a snapshot holds."""
    tokens = make_tokens(n, media=False)
    return Trace(tokens, routing=make_routing(tokens))


def test_a_long_trace_can_be_searched_and_says_what_it_lacks(browser, tmp_path):
    """Any text in the pages that it holds; a page that it does not hold is not entered."""
    from gemma4_mlx.widgets import Routing

    trace = long_trace()
    snapshot = Routing(trace).snapshot()
    pages = {key: json.loads(key) for key in snapshot.answers if '"type":"tokens"' in key}
    assert pages
    for key, asked in pages.items():  # whatever it keeps of the text: here only the beginning
        if asked["start"] >= 2048:
            del snapshot.answers[key]
    path = snapshot.save(tmp_path / "routing.html")
    context = browser.new_context(offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.goto(path.as_uri())
    root = page.locator(".g4-routing")
    root.locator(".g4-word").first.wait_for()
    search, found = (
        root.get_by_label("Find text in the trace"),
        root.locator(".g4-tokenview [role=status]"),
    )
    word = trace.tokens.texts[600].strip()
    search.fill(word)
    search.press("Enter")
    found.filter(has_text=re.compile(r"1 of \d")).wait_for()
    search.fill("no such text")
    search.press("Enter")
    found.filter(has_text="not found in this snapshot").wait_for()
    before = root.locator(".g4-where").inner_text()
    search.fill(word)
    search.press("Enter")
    box = root.locator("canvas.g4-strip").bounding_box()
    page.mouse.click(box["x"] + 0.97 * box["width"], box["y"] + 11)
    calm = root.locator(".g4-problem.g4-calm")
    calm.wait_for()
    assert "snapshot" in calm.inner_text()
    assert root.locator(".g4-where").inner_text().split(" ")[1] != "5632", before
    calm.wait_for(state="hidden")
    context.close()
