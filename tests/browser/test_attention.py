"""The trace views in Chromium from a saved page: zoom, rows, spans, routing, keyboard, network off.

The page is a snapshot opened from ``file://``: the widgets' real modules over recorded answers, so
these tests need neither a kernel nor JupyterLab.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from front import FrontEnd
from synthetic import make_media, make_trace

from gemma4_mlx.widgets.attention import Attention

N = 230


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    view = Attention(make_trace(N, needle=(200, 40)), media=make_media())
    folder = tmp_path_factory.mktemp("attention")
    view.snapshot().save(folder / "page.html")
    return f"file://{folder / 'page.html'}"


@pytest.fixture
def opened(page, saved):
    page.goto(saved)
    page.wait_for_selector('.g4-attention[data-missing="0"]')
    yield page
    assert not page.errors, page.errors


def test_map_zooms_to_single_tokens_and_reads_cells(opened, accessible, picture):
    root = opened.locator(".g4-attention")
    root.locator(".g4-mapbox h4", has_text="Layer 2, head 1").wait_for()
    root.locator(".g4-mapfoot .g4-chip", has_text="one cell is one token pair").wait_for()
    canvas = root.locator("canvas.g4-map")
    canvas.focus()
    for key in ("+", "+", "ArrowDown", "ArrowRight"):
        opened.keyboard.press(key)
    readout = root.locator(".g4-mapbox .g4-readout")
    assert "→" in readout.inner_text()
    opened.keyboard.press("Enter")  # selects the query token
    root.get_by_role("button", name="Zoom to token").click()
    # the picture holds more than one colour where weights are shown
    colors = canvas.evaluate(
        "c => new Set(c.getContext('2d').getImageData(120, 120, 300, 300).data).size"
    )
    assert colors > 20
    accessible(opened, ".g4-attention")
    picture(root, "attention")


def test_the_needle_row_is_painted_over_the_text(opened):
    root = opened.locator(".g4-attention")
    root.locator(".g4-side h4", has_text="(200) looks at").wait_for()
    first = root.get_by_role("table", name="Strongest keys").locator("tbody tr").first
    assert first.locator("td").first.inner_text() == "40"
    background = "i => document.querySelector(`[data-i='${i}']`).style.backgroundColor"
    assert opened.evaluate(background, 40) != ""
    facts = root.locator(".g4-facts").inner_text()
    assert "exact" in facts and "Sink" in facts
    root.get_by_label("Without sink").check()
    root.locator(".g4-facts", has_text="taken out").wait_for()
    root.get_by_role("button", name="Is looked at by").click()
    root.locator(".g4-side h4", has_text="Who looks at").wait_for()
    # mass by part of the conversation, and its names
    parts = root.locator(".g4-side .g4-table").first.inner_text()
    assert all(name in parts for name in ("system", "user", "image", "audio", "thinking"))


def test_text_is_selected_by_keyboard_and_media_unfold(opened):
    root = opened.locator(".g4-attention")
    text = root.locator(".g4-tokens")
    text.focus()
    before = opened.evaluate("document.querySelector('.g4-selected').dataset.i")
    opened.keyboard.press("ArrowLeft")
    opened.wait_for_function(
        f"document.querySelector('.g4-selected').dataset.i === '{int(before) - 1}'"
    )
    assert text.locator("canvas.g4-image").count() == 1
    assert text.locator("canvas.g4-audio").count() == 1
    assert text.locator('[dir="auto"]').count() > 1
    opened.keyboard.press("Home")
    opened.keyboard.press("Shift+ArrowRight")


def test_a_snapshot_searches_and_shows_other_heads_as_they_were_kept(opened):
    root = opened.locator(".g4-attention")
    root.get_by_role("button", name="Pictures").click()
    thumb = root.locator(".g4-dozens .g4-thumb").nth(3)
    thumb.click()
    root.locator(".g4-mapfoot .g4-chip", has_text="pooled").wait_for()
    root.locator(".g4-facts", has_text="pooled").wait_for()
    assert root.locator(".g4-problem").is_hidden()
    root.get_by_label("Find text in the trace").fill("needle")
    opened.keyboard.press("Enter")
    root.locator(".g4-tokenview [role=status]", has_text="1 of ").wait_for()
    assert "needle" in root.locator(".g4-word.g4-selected").inner_text()
    root.get_by_label("Find text in the trace").fill("no such text")
    opened.keyboard.press("Enter")
    root.locator(".g4-tokenview [role=status]", has_text="not found").wait_for()
    assert "needs the notebook" in root.locator(".g4-spans").inner_text()


def test_light_and_dark_differ(opened):
    read = "getComputedStyle(document.querySelector('.g4-attention')).color"
    light = opened.evaluate(read)
    opened.evaluate("document.documentElement.dataset.g4Theme = 'dark'")
    opened.wait_for_selector('.g4-attention[data-theme="dark"]')
    assert opened.evaluate(read) != light


LONG = 131_072
#: A long context as Python would send it; twelve strong keys stand on pages not yet loaded.
LONG_CONTEXT = """
const n = 131072, weights = new Float32Array(n).fill(1e-9);
for (let k = 1; k <= 12; k++) weights[k * 9000] = 0.08 - 0.001 * k;
globalThis.asked = [];
globalThis.serve = ({ type, start, stop, tiles }) => {
  asked.push(type === "tiles" ? tiles.length : type);
  if (type === "tokens") return { content: { start, text: Array(stop - start).fill(" word"), special: [] } };
  if (type === "weights") return { content: { pooled: 0 }, buffer: weights.slice().buffer };
  if (type === "heads") return { content: { names: [], groups: [], method: "", by: "unlike" }, buffer: new ArrayBuffer(12) };
  if (type === "tiles") {
    const content = tiles.map(([level, row, column]) => ({ level, row, column, rows: 1, columns: 1,
      query: row * 128 * 2 ** level, key: column * 128 * 2 ** level, rowCell: 128 * 2 ** level, columnCell: 128 * 2 ** level }));
    return { content, buffer: new Float32Array(tiles.length).fill(0.5).buffer };
  }
};
globalThis.sorts = 0; globalThis.rebuilt = 0;
const sort = Float32Array.prototype.sort;
Float32Array.prototype.sort = function (...by) { if (this.length === n) sorts++; return sort.apply(this, by); };
"""  # noqa: E501


@pytest.fixture
def long_context(page):
    layer = {"index": 0, "kind": "full", "window": None, "donor": None, "heads": [0]}
    meta = {
        "n": LONG,
        "source": "a long one",
        "layers": [layer | {"kv_heads": 1, "kept": [0], "exact": 4, "demand": False}],
        "bin": 512,
        "pages": 256,
        "pictures": {"side": 48, "kept": 48},
        "parts": [{"start": 0, "stop": LONG, "name": "user", "role": "user"}],
        "media": [],
        "blocks": [],
        "start": {"layer": 0, "head": 0, "token": None},
    }
    state = {"meta": meta, "selection": {}, "selection_key": "", "error": ""}
    front = FrontEnd(page, "attention", state, serve=LONG_CONTEXT)
    page.wait_for_selector('.g4-attention[data-missing="0"]')
    return front


def test_pages_of_names_do_not_multiply_the_work(long_context):
    """Every name that arrived used to rebuild the facts, and each of those to wait for all names
    again: at 131,072 tokens the page stood still."""
    page, root = long_context.page, long_context.root
    page.evaluate(
        "new MutationObserver((list) => { rebuilt += list.length; })"
        ".observe(document.querySelector('.g4-facts'), { childList: true })"
    )
    root.locator(".g4-word").nth(5).click()
    top = root.get_by_role("table", name="Strongest keys")
    top.locator("tbody tr").nth(9).wait_for()
    page.wait_for_function("!document.querySelector('.g4-side').textContent.includes('…')")
    assert top.locator("tbody tr").first.locator("td").first.inner_text() == "9,000"
    pages = page.evaluate("asked.filter((type) => type === 'tokens').length")
    assert pages == 11, "the page shown and those of the ten strongest keys"
    assert page.evaluate("sorts") == 1, "the row is put in order once"
    assert page.evaluate("rebuilt") <= 3 * (pages + 3)


def test_the_overview_is_asked_for_once(long_context):
    """Zooms between the overview's bins and what can be recomputed draw what is there already."""
    page, root = long_context.page, long_context.root
    tiles = "asked.filter((type) => typeof type === 'number')"
    assert page.evaluate(f"{tiles}.reduce((a, b) => a + b)") == 4, "three at level 9, one above"
    canvas = root.locator("canvas.g4-map")
    canvas.focus()
    page.keyboard.press("Home")
    for _ in range(4):  # 256, 128, 64 and 32 tokens a pixel: the cells of 512 enlarged
        page.keyboard.press("+")
    page.wait_for_timeout(200)
    assert page.evaluate(f"{tiles}.reduce((a, b) => a + b)") == 4
    before = page.evaluate(f"{tiles}.length")
    page.keyboard.press("+")
    page.wait_for_function(f"{tiles}.length > {before}")
    page.wait_for_selector('.g4-attention[data-missing="0"]')
    assert page.evaluate(f"{tiles}.length") == before + 1, "all that is in view, in one message"
    assert not page.errors, page.errors
