"""The map of all heads at the shape of the 31B, 60 layers of 32 heads, in Chromium.

The real widget answers; no kernel is in between.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from front import WidgetPage, drawn
from synthetic import make_many_heads
from waiting import until

import gemma4_mlx as g4
from gemma4_mlx.widgets import attention as module
from gemma4_mlx.widgets.attention import Attention

COLOURS = """([selector, places]) => {
  const c = document.querySelector(selector), k = c.width / c.clientWidth;
  const at = (x, y) => c.getContext("2d").getImageData(Math.floor(x * k), Math.floor(y * k), 1, 1);
  return places.map(([x, y]) => [...at(x, y).data]);
}"""
LEFT, LONG = 58, 448 - 8 - 58  # css pixels: where the legend's colours begin, and how long they are


@pytest.fixture(scope="module")
def trace():
    return make_many_heads()


@pytest.fixture
def opened(page, trace):
    trace.selection.clear()
    page.set_viewport_size({"width": 1280, "height": 720})
    view = WidgetPage(page, Attention(trace))
    page.wait_for_selector('.g4-attention[data-missing="0"][data-heads]')
    yield view
    assert not page.errors, page.errors


def point(view, x, y):
    """Hover over the map of heads; what its readout says."""
    box = view.root.locator(".g4-headmap").bounding_box()
    view.page.mouse.move(box["x"] + x, box["y"] + y)
    drawn(view.page)
    return view.root.locator(".g4-headreadout").inner_text()


def find(view, layer, head):
    """Where a head is on the map, by asking its readout."""
    x, y = LEFT + 12 * head + 5, find_row(view, layer)
    assert point(view, x, y).startswith(f"Layer {layer}, head {head},")
    return x, y


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["entropy", "first"])
def test_cells_have_the_colours_of_the_legend(opened, trace, theme, name):
    page = opened.page
    page.evaluate("t => { document.documentElement.dataset.g4Theme = t; }", theme)
    opened.root.get_by_label("Colour by").select_option(name)
    values = np.array([s[name] for s in trace.attention.summaries()]).reshape(60, 32)
    bend = np.sqrt if name == "first" else np.asarray
    low, high = bend(values.min()), bend(values.max())
    row = [[LEFT + x, 6] for x in range(0, LONG)]
    legend = page.evaluate(COLOURS, [".g4-headlegend", row])
    for layer, head in ((5, 0), (17, 3), (41, 31), (59, 16)):
        x, y = find(opened, layer, head)
        page.mouse.move(0, 0)
        drawn(page)
        (colour,) = page.evaluate(COLOURS, [".g4-headmap", [[x, y]]])
        place = (bend(values[layer, head]) - low) / (high - low)
        expected = legend[round(place * (LONG - 1))]
        assert np.abs(np.subtract(colour, expected)).max() <= 8, (layer, head, colour, expected)


def test_the_one_head_that_is_unlike_the_others_is_first(opened):
    chip = opened.root.locator(".g4-unusual button").first
    assert chip.inner_text().startswith("L17·H3") and "previous" in chip.inner_text()
    chip.click()
    opened.root.locator(".g4-mapbox h4", has_text="Layer 17, head 3").wait_for()


def test_pointing_describes_a_head_with_its_picture(opened):
    x, y = find(opened, 29, 7)
    assert re.match("Layer 29, head 7, full attention: unlike", point(opened, x, y))
    tip = opened.root.locator(".g4-headtip")
    tip.locator("canvas[data-ready]").wait_for()
    assert "Layer 29, head 7" in tip.inner_text() and "entropy" in tip.inner_text()
    opened.page.mouse.down()
    opened.page.mouse.up()
    opened.root.locator(".g4-mapbox h4", has_text="Layer 29, head 7").wait_for()
    assert [r["layer"] for r in opened.requests if r["type"] == "pictures"].count(29) == 1


def test_sorting_within_layers_and_unfolding(opened, trace):
    opened.root.get_by_label("Colour by").select_option("first")
    opened.root.get_by_label("Sort in layers").check()
    sink = [trace.attention.summary("first", 5, h) for h in range(32)]
    ranked = np.argsort(np.negative(sink))
    y = find_row(opened, 5)
    for rank in (0, 1, 31):
        assert point(opened, LEFT + 12 * rank + 5, y).startswith(f"Layer 5, head {ranked[rank]},")
    opened.root.get_by_label("Sort in layers").uncheck()
    canvas = opened.root.locator(".g4-headmap")
    before = canvas.bounding_box()["height"]
    opened.page.mouse.click(
        canvas.bounding_box()["x"] + 20, canvas.bounding_box()["y"] + find_row(opened, 2)
    )
    one = canvas.bounding_box()["height"]
    assert one > before, "five layers unfolded"
    opened.root.get_by_role("button", name="Unfold").click()
    assert canvas.bounding_box()["height"] > one
    opened.root.get_by_role("button", name="Fold").click()
    assert canvas.bounding_box()["height"] == before


def find_row(view, layer):
    """The height of a layer on the map, on which they lie one below the other."""
    low, high = 24, 430
    while low < high:
        y = (low + high) // 2
        said = re.match(r"Layer (\d+), head", point(view, LEFT + 5, y))
        low, high = (y + 1, high) if said and int(said[1]) < layer else (low, y)
    assert point(view, LEFT + 5, low + 2).startswith(f"Layer {layer},"), f"layer {layer} is nowhere"
    return low + 2


def test_the_keyboard_moves_describes_and_chooses(opened):
    canvas = opened.root.locator(".g4-headmap")
    opened.page.mouse.move(0, 0)
    canvas.focus()
    for key in ("Home", "PageUp", *["PageUp"] * 10, "ArrowDown", "ArrowRight", "ArrowRight"):
        opened.page.keyboard.press(key)
    assert opened.root.locator(".g4-headreadout").inner_text().startswith("Layer 1, head 2,")
    opened.root.locator("output.g4-hidden", has_text="Layer 1, head 2, sliding").wait_for(
        state="attached"
    )
    opened.page.keyboard.press("f")
    opened.page.keyboard.press("Enter")
    opened.root.locator(".g4-mapbox h4", has_text="Layer 1, head 2").wait_for()


def test_an_outlier_of_the_scatter_is_chosen_by_a_click(opened):
    opened.root.get_by_role("button", name="Scatter").click()
    opened.root.get_by_label("Across").select_option("entropy")
    opened.root.get_by_label("Up").select_option("previous")
    box = opened.root.locator(".g4-scatter").bounding_box()
    values = opened.widget.stats.values
    names = opened.widget.stats.names
    across, index = values[:, names.index("entropy")], 17 * 32 + 3
    place = (across[index] - across.min()) / (across.max() - across.min())
    x = 66 + place * (box["width"] - 66 - 12)  # the highest of all on the other axis
    opened.page.mouse.move(float(box["x"] + x), box["y"] + 11)
    assert opened.root.locator(".g4-headreadout").inner_text().startswith("Layer 17, head 3")
    opened.page.mouse.click(float(box["x"] + x), box["y"] + 11)
    opened.root.locator(".g4-mapbox h4", has_text="Layer 17, head 3").wait_for()


def test_marked_heads_are_the_two_dozen_pictures(opened):
    box = opened.root.locator(".g4-headmap").bounding_box()
    y = box["y"] + find_row(opened, 5)
    opened.page.mouse.move(box["x"] + LEFT + 2, y - 1)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + LEFT + 120, y + 4)
    opened.page.mouse.up()
    assert "heads marked" in opened.root.locator(".g4-marknote").inner_text()
    opened.root.get_by_role("button", name="Pictures").click()
    labels = opened.root.locator(".g4-dozens .g4-thumb span").all_inner_texts()
    assert 5 <= len(labels) <= 24 and "L5·H3" in labels
    opened.root.get_by_role("button", name="Show all").click()
    assert opened.root.locator(".g4-dozens .g4-thumb").count() == 24


def test_groups_are_listed_with_their_method(opened, accessible):
    opened.root.get_by_role("button", name="Groups").click()
    rows = opened.root.get_by_role("table", name="Groups of alike heads").locator("tbody tr")
    sizes = [int(t) for t in rows.locator(".g4-bar-text").all_inner_texts()]
    assert sum(sizes) == 60 * 32 and 2 <= len(sizes) <= 6
    assert "k-means" in opened.root.locator(".g4-stage").inner_text()
    rows.first.locator(".g4-groupname").click()
    assert f"{sizes[0]} heads" in opened.root.locator(".g4-marknote").inner_text()
    accessible(opened.page, ".g4-attention")


def test_a_sliding_head_is_shown_by_offset_and_a_cell_leads_to_the_text(opened):
    opened.widget.trace.selection.update(layer=3, head=4)
    opened.pull()
    root = opened.root
    root.locator(".g4-mapbox h4", has_text="Layer 3, head 4").wait_for()
    root.get_by_role("button", name="queries × offset").wait_for()
    canvas = root.locator(".g4-offsetmap")
    canvas.wait_for()
    canvas.hover(position={"x": 200, "y": 300})
    assert re.search("back: mean mass", root.locator(".g4-mapbox .g4-readout").inner_text())
    canvas.click(position={"x": 200, "y": 300})
    root.locator(".g4-map:not(.g4-offsetmap)").wait_for()


def test_what_was_not_kept_is_pooled_and_one_calm_sentence_says_why(opened):
    root = opened.root
    assert "AttentionPlan(retain=" in root.locator(".g4-coarse").inner_text()
    root.locator(".g4-word").nth(20).click()
    root.locator(".g4-facts", has_text="pooled: bins of 32 tokens").wait_for()
    assert root.locator(".g4-problem").is_hidden()
    assert "0 to 31" in root.get_by_role("table", name="Strongest keys").inner_text()


def test_map_and_head_are_seen_together_on_a_small_screen(opened):
    boxes = [opened.root.locator(s).bounding_box() for s in (".g4-headmap", ".g4-map")]
    assert all(b["y"] >= 0 and b["y"] + b["height"] <= 720 for b in boxes)
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] < 1280
    small = opened.page.evaluate(
        """() => [...document.querySelectorAll(".g4-attention *")].filter((e) => e.offsetParent
          && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())
          && parseFloat(getComputedStyle(e).fontSize) < 12 && !e.closest(".g4-hidden, .g4-bare"))
          .map((e) => `${e.className} ${getComputedStyle(e).fontSize}`)"""
    )
    assert not small


def test_the_map_of_heads_stays_in_view_where_the_host_clips(opened):
    page = opened.page
    page.evaluate(
        """() => { const root = document.getElementById("root");
          Object.assign(root.style, { display: "block", overflow: "auto", height: "700px" });
          root.firstElementChild.style.overflow = "hidden";
          root.scrollTop = 500; }"""
    )
    page.wait_for_timeout(200)
    panel = opened.root.locator(".g4-headpanel").bounding_box()
    top = page.locator("#root").bounding_box()["y"]
    assert abs(panel["y"] - top - 4) <= 1
    x, y = find(opened, 29, 7)
    assert point(opened, x, y).startswith("Layer 29, head 7")
    page.evaluate("document.getElementById('root').scrollTop = 1e6")
    page.wait_for_timeout(200)
    columns = opened.root.locator(".g4-columns").bounding_box()
    panel = opened.root.locator(".g4-headpanel").bounding_box()
    assert panel["y"] + panel["height"] <= columns["y"] + columns["height"] + 1


def test_a_layer_is_computed_when_asked_for(page):
    """One calm sentence, a button, and then exact weights: no red line in between."""
    ids = [2, *np.random.default_rng(0).integers(300, 1900, 200).tolist()]
    plan = g4.AttentionPlan(retain="none", bins=32)
    model = g4.load()  # the trace holds it weakly
    view = Attention(g4.trace(model, ids, routing=None, attention=plan))
    view.selection = {**view.selection, "layer": 5, "head": 1, "token": 150}
    shown = WidgetPage(page, view)
    why = shown.root.locator(".g4-coarse")
    why.get_by_text("the model runs again up to this layer").wait_for()
    shown.root.locator(".g4-facts", has_text="pooled").wait_for()
    why.get_by_role("button", name="Compute layer 5").click()
    until(lambda: page.wait_for_timeout(20) or view.computing == {"layer": 5})
    shown.pull()
    shown.root.locator(".g4-facts", has_text="exact, not pooled").wait_for()
    why.wait_for(state="hidden")
    assert why.is_hidden() and shown.root.locator(".g4-problem").is_hidden()
    assert not page.errors, page.errors


def test_pages_that_a_snapshot_lacks_cannot_be_entered(page, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TEXT_PAGES", 1)
    view = Attention(make_many_heads(layers=4, heads=4, every=2, n=4096))
    view.selection = {**view.selection, "layer": 1, "head": 0, "token": 2100}
    page.goto(f"file://{view.snapshot().save(tmp_path / 'page.html')}")
    root = page.locator(".g4-attention")
    root.locator(".g4-where", has_text="2,048 to 2,559").wait_for()
    assert root.get_by_label("Next page of tokens").is_disabled()
    root.get_by_label("Previous page of tokens").click()
    root.locator(".g4-where", has_text="0 to 511").wait_for()
    root.locator(".g4-strip").click(position={"x": 200, "y": 10})
    root.locator(".g4-problem.g4-calm", has_text="did not record that").wait_for()
    assert "0 to 511" in root.locator(".g4-where").inner_text()
    root.get_by_label("Next page of tokens").click()
    root.locator(".g4-where", has_text="2,048 to 2,559").wait_for()
    assert not page.errors
