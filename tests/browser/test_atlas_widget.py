"""The Atlas view in Chromium, and what an atlas adds to Routing: colours, cards, search, compare.

The front end is answered by the widget itself, without a kernel. ``big`` has the shape of
26B-A4B's experts, 30 layers of 128; its corpus brings markup and text from right to left.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from front import WidgetPage, drawn
from synthetic import LABELS, make_atlas, make_trace

import gemma4_mlx as g4
from gemma4_mlx.widgets import Atlas, Routing

LAYERS, E = 30, 128
HOSTILE = "<b>أخبار</b>"


@pytest.fixture(scope="module")
def big():
    return make_atlas(LAYERS, E, 8, documents=16, tokens=20, vocabulary=512)


@pytest.fixture
def view(page, big):
    page.set_viewport_size({"width": 1180, "height": 700})
    opened = WidgetPage(page, Atlas(big))
    ready(page)
    yield opened
    assert not page.errors, page.errors


def ready(page):
    """What experts are for is known, and the chosen one has its card."""
    page.locator(".g4-atlas .g4-groupkey").first.wait_for()
    page.locator(".g4-atlas .g4-atlascard .g4-tokenlists").first.wait_for()
    drawn(page)


def card_of(page, layer, expert):
    card = page.get_by_label("Chosen expert")
    card.locator("h4", has_text=f"Expert {expert} of layer {layer}").wait_for()
    return card


#: Red, green, blue of the middle of the cell of an expert in a map ordered by number.
CELL = """([row, expert]) => {
  const c = document.querySelector(".g4-loadmap"), r = devicePixelRatio, w = c.width / r;
  const x = 34 + ((expert + 0.5) * (w - 35)) / 128, y = 1 + row * 13 + 3;
  return [...c.getContext("2d").getImageData(Math.floor(x * r), Math.round(y * r), 1, 1).data];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_map_has_the_colours_of_its_keys(view, big, theme):
    page = view.page
    page.emulate_media(color_scheme=theme)
    page.get_by_label("Order").select_option("number")
    drawn(page)
    best = view.widget.source.tested()
    keys = page.locator(".g4-groupkey")
    assert [k.split("\n")[0] for k in keys.all_inner_texts()] == sorted(LABELS)
    zero = np.array([0x2A, 0x2D, 0x35] if theme == "dark" else [0xE3, 0xE6, 0xEC])
    seen = 0
    for row, expert in zip(*np.nonzero(best.purpose >= 0)):
        if seen > 40 or row == 0:
            continue
        g = best.purpose[row, expert]
        said = keys.nth(int(g)).locator("i").evaluate("(n) => getComputedStyle(n).backgroundColor")
        hue = np.array([float(v) for v in re.findall(r"[\d.]+", said)[:3]])
        strength = np.clip(np.log2(best.lift[row, g, expert]) / 2, 0.35, 1)
        cell = np.array(page.evaluate(CELL, [int(row), int(expert)]))[:3]
        assert abs(cell - (zero + (hue - zero) * strength)).max() < 3
        seen += 1
    assert seen > 20


def test_a_click_opens_the_experts_card(view, big):
    page, found = view.page, view.widget.source.tested()
    sums = found.groups.names.index("sums")
    row = int(np.flatnonzero(found.purpose[1:-1, 2] == sums)[0]) + 1
    page.get_by_label("Order").select_option("number")
    box = page.locator(".g4-loadmap").bounding_box()
    cell = (box["width"] - 35) / E
    place = {"x": 34 + 2.5 * cell, "y": 1 + 13 * (row + 0.5)}
    page.locator(".g4-loadmap").hover(position=place)
    readout = page.locator(".g4-readout", has_text=f"Layer {row}, expert 2:")
    readout.wait_for()
    assert f"{found.overall[row, 2] * E / 8:.1f}× even" in readout.inner_text()
    page.locator(".g4-loadmap").click(position=place)
    card = card_of(page, row, 2)
    first = card.get_by_role("table", name="Lift by label").locator("tbody tr").first
    words = first.inner_text().split()
    assert words[0] == "sums" and words[-1] == "0.001", "planted, by more than chance"
    assert f"{found.lift[row, sums, 2]:.1f}×" in words
    assert card.get_by_text("promotes ≈").count() == 1
    assert card.locator("mark").count() == len(big.examples(row, 2))
    assert view.widget.chosen() == {"layer": row, "expert": 2}
    onward = card.locator(".g4-paths dd").last.locator("button").first
    number = onward.locator("b").inner_text()
    onward.click()
    card_of(page, row + 1, number)


def test_a_corpus_writes_no_markup(view, page):
    root = page.locator(".g4-atlas")
    row = sorted(LABELS).index(HOSTILE)
    best = view.widget.source.tested().purpose
    layer, expert = (int(v[0]) for v in np.nonzero(best == row))
    view.widget.selection = {**view.widget.selection, "layer": layer, "expert": expert}
    view.pull()
    card = card_of(page, layer, expert)
    card.get_by_text("<script>alert(1)</script>", exact=True).first.wait_for()
    assert root.locator("script, b:not(.g4-step b)").count() == 0
    assert HOSTILE in card.get_by_role("table", name="Lift by label").inner_text()
    assert root.locator(".g4-chip", has_text="planted <i>router</i>").count() == 1
    assert root.locator("i:not(.g4-swatch, .g4-patch i)").count() == 0


def test_patches_are_marked_on_their_pictures(view, page, big):
    best = view.widget.source.tested().purpose
    code = sorted(LABELS).index("code")
    for layer, expert in zip(*(v.tolist() for v in np.nonzero(best == code))):
        boxes = [c.box for c in big.examples(layer, expert) if c.picture is not None]
        if boxes:
            break
    view.widget.selection = {**view.widget.selection, "layer": layer, "expert": expert}
    view.pull()
    patches = card_of(page, layer, expert).locator(".g4-patch")
    assert patches.count() == len(boxes)
    outer, inner = (patches.first.locator(part).bounding_box() for part in ("xpath=.", "i"))
    left, top, right, bottom = boxes[0]
    for side, length, start, stop in (("x", "width", left, right), ("y", "height", top, bottom)):
        assert inner[side] - outer[side] == pytest.approx(start * outer[length], abs=1)
        assert inner[length] == pytest.approx((stop - start) * outer[length], abs=1)


def test_who_works_on_a_token_a_text_and_on_digits(view, page, accessible):
    field = page.get_by_label("Find the experts of a token or a text")
    field.fill("42")
    field.press("Enter")
    found = page.get_by_label("Found", exact=True)
    found.locator("h4", has_text="Who reads “42”?").wait_for()
    rows = view.widget.answer_find(text="42")[0]["rows"]
    first = found.locator("tbody tr").first
    assert first.inner_text().startswith(f"layer {rows[0][0]}, expert {rows[0][1]}")
    page.locator(".g4-chip", has_text="reads “42”").wait_for()
    listed = page.get_by_label("Experts", exact=True).locator("tbody tr").first
    lifts = [row[3] for row in rows]
    assert float(listed.locator("td").last.inner_text().rstrip("×")) >= round(max(lifts), 0) - 1
    first.get_by_role("button").click()
    card = card_of(page, *rows[0][:2])
    page.get_by_label("Find the experts of a kind of tokens").select_option("numbers")
    found.locator("h4", has_text="Who reads numbers?").wait_for()
    assert field.input_value() == ""
    accessible(page, ".g4-atlas")
    token = card.locator("button.g4-atoken").first
    word = token.inner_text()
    token.click()
    found.locator("h4", has_text=f"“{word}”").wait_for()
    field.fill("zebra")
    page.get_by_role("button", name="Find", exact=True).click()
    found.locator(".g4-problem", has_text="'zebra'").wait_for()
    field.fill("")
    field.dispatch_event("search")
    page.locator(".g4-groupkey").first.wait_for()
    assert not found.is_visible()


def test_experts_alike_labels_compared_and_measures(view, page):
    page.get_by_role("button", name="by tokens").click()
    found = page.get_by_label("Found", exact=True)
    start = view.widget.meta["start"]
    like = f"Experts like expert {start['expert']} of layer {start['layer']}, by tokens"
    found.locator("h4", has_text=like).wait_for()
    rows = view.widget.answer_neighbours(**start)[0]["rows"]
    assert found.locator("tbody tr").count() == len(rows) == 20
    page.get_by_label("Colour").get_by_role("button", name="Compare").click()
    page.get_by_label("for", exact=True).select_option(label="sums")
    page.get_by_label("over", exact=True).select_option(label="law")
    found.locator("h4", has_text="sums and law").wait_for()
    first = page.get_by_label("Experts", exact=True).locator("tbody tr").first
    table = view.widget.source.tested()
    a, b = (list(table.groups.names).index(name) for name in ("sums", "law"))
    layer = int(first.locator("td").first.inner_text()[1:])
    expert = int(first.locator("td").nth(1).inner_text())
    ratio = table.load[layer, a, expert] / table.load[layer, b, expert]
    assert ratio > 2 and first.locator("td").last.inner_text() in (f"{ratio:.1f}×", f"{ratio:.0f}×")
    page.get_by_label("or", exact=True).select_option("reap")
    page.get_by_role("button", name="REAP").wait_for()
    reap = view.widget.atlas.reap()
    layer, expert = (int(v) for v in np.unravel_index(np.nanargmax(reap), reap.shape))
    cells = [t.split("\t")[0] for t in [first.inner_text()]]
    assert cells == [f"L{layer}"] and first.locator("td").nth(1).inner_text() == str(expert)


def test_filter_and_what_may_be_chance(view, page):
    page.get_by_label("Label of the filter").select_option(label="law")
    listed = page.get_by_label("Experts", exact=True)
    table, law = view.widget.source.tested(), sorted(LABELS).index("law")
    q = view.widget.source.lookup.lifts.q[:, law]
    wanted = int(((q <= 0.05) & (table.lift[:, law] >= 2)).sum())
    listed.locator("h4", has_text=f"{wanted} experts above 2.0×").wait_for()
    page.get_by_label("more than chance").uncheck()
    listed.locator("h4", has_text=re.compile(r"\d experts above 2.0×")).wait_for()
    shown = int(listed.locator("h4").inner_text().split(" ")[0].replace(",", ""))
    meant = table.enough[:, law] & (np.nan_to_num(table.lift[:, law]) >= 2)
    assert wanted < shown and abs(shown - meant.sum()) <= 3  # but for rounding at the bounds


def test_by_keyboard(view, page):
    page.get_by_label("Order").select_option("number")
    page.locator("canvas.g4-loadmap").focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    start = view.widget.meta["start"]
    card_of(page, min(LAYERS - 1, start["layer"] + 1), 2)
    page.keyboard.press("End")
    page.locator("output.g4-hidden", has_text="never used in this corpus").wait_for(
        state="attached"
    )
    page.keyboard.press("Enter")
    card = page.get_by_label("Chosen expert")
    card.get_by_text("No token of the corpus went to this expert.").wait_for()


def test_it_fits_a_laptop(view, page):
    """1180 x 700: the map and the beginning of the card together, letters of 12 px and more."""
    box = page.locator(".g4-loadmap").bounding_box()
    assert box["y"] + box["height"] <= 600
    assert card_of(page, *view.widget.meta["start"].values()).bounding_box()["y"] < 220
    small = page.evaluate(
        """() => [...document.querySelectorAll(".g4-atlas *")].filter((n) => n.checkVisibility()
          && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim())
          && parseFloat(getComputedStyle(n).fontSize) < 12).map((n) => n.className)"""
    )
    assert small == []
    page.set_viewport_size({"width": 480, "height": 700})
    drawn(page)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 490, "a narrow window does not scroll sideways"


def test_a_snapshot_is_alive_without_a_kernel(page, tmp_path, accessible):
    """It opens from a file, colours, searches its cards and follows paths."""
    path = Atlas(make_atlas()).save_html(tmp_path / "page.html")
    assert path.stat().st_size < 1_200_000
    page.goto(path.as_uri())
    ready(page)
    page.get_by_label("Colour").get_by_role("button", name="Compare").click()
    page.get_by_label("By", exact=True).select_option("position")
    page.locator(".g4-legend").first.wait_for()
    page.get_by_label("By", exact=True).select_option("label")
    page.get_by_label("Find the experts of a token or a text").fill("HEREBY")
    page.keyboard.press("Enter")
    found = page.get_by_label("Found", exact=True)
    found.locator("h4", has_text="Who reads “HEREBY”?").wait_for()
    found.locator("tbody button").first.click()
    page.get_by_label("Chosen expert").locator(".g4-atoken", has_text="hereby").first.wait_for()
    page.locator(".g4-paths button").first.click()
    accessible(page, ".g4-atlas")
    assert page.locator(".g4-problem:visible").count() == 0 and not page.errors


@pytest.fixture
def routed(page):
    """Routing over a trace whose experts an atlas names."""
    atlas, trace = make_atlas(layers=8), make_trace(120)
    trace.model["fingerprint"] = "planted"
    widget = Routing(trace, atlas=atlas)
    widget.meta = {**widget.meta, "whatif": ""}  # as with a model
    opened = WidgetPage(page, widget)
    page.locator(".g4-routing .g4-groupkey").first.wait_for()
    yield opened
    assert not page.errors, page.errors


def test_routing_has_the_atlass_names_and_cards(routed, page, accessible):
    root = page.locator(".g4-routing")
    assert page.get_by_label("Tokens by").input_value() == "label"
    names = [k.split("\n")[0] for k in root.locator(".g4-groupkey").all_inner_texts()]
    assert names == sorted(LABELS)
    sums = sorted(LABELS).index("sums")
    best = routed.widget.source.tested().purpose
    layer, expert = (int(v[0]) for v in np.nonzero(best == sums))
    routed.widget.selection = {**routed.widget.selection, "layer": layer, "expert": expert}
    routed.pull()
    card = page.get_by_label("Chosen expert")
    card.locator("h4", has_text=f"Expert {expert} of layer {layer}").wait_for()
    card.locator("h4", has_text="In the atlas: sums ").wait_for()
    page.get_by_label("Tokens by").select_option("kind")
    page.locator(".g4-readout", has_text="· atlas: sums ").wait_for()
    card.get_by_role("table", name="Lift by label").wait_for()
    accessible(page, ".g4-routing")


def test_experts_are_changed_by_label(routed, page):
    asked = []

    def answer(changes, tokens, everywhere):
        asked.append(changes)
        answers = [
            {"name": name, "note": "", "tokens": ["a"], "parts": None, "divergence": [], "mean": 0}
            for name in ("As it is", "without sums", "Control")
        ]
        return {"answers": answers, "note": "how"}

    routed.widget.answer_whatif = answer
    panel = page.get_by_label("What if", exact=True)
    bar = panel.get_by_role("group", name="Change experts by label")
    bar.get_by_label("Label", exact=True).select_option("sums")
    bar.get_by_label("Least lift").fill("1.5")
    bar.get_by_label("Least lift").press("Enter")
    lifts, sums = routed.widget.source.atlas.lifts(), sorted(LABELS).index("sums")
    meant = (lifts.q[:, sums] <= 0.05) & (lifts.lift[:, sums] >= np.log2(1.5))
    layers = int(meant.any(axis=1).sum())
    bar.get_by_text(f"{meant.sum()} experts in {layers} layers").wait_for()
    bar.get_by_role("button", name="Add").click()
    panel.get_by_role("button", name="sums above 1.5× routed around").wait_for()
    panel.get_by_role("button", name="Generate again").click()
    panel.locator(".g4-answercard").nth(2).wait_for()
    assert asked == [[{"label": "sums", "above": 1.5, "action": "around"}]]
    bar.get_by_label("Least lift").fill("90")
    bar.get_by_label("Least lift").press("Enter")
    bar.get_by_text("no expert by more than chance").wait_for()
    assert bar.get_by_role("button", name="Add").is_disabled()


LAB = """
import gemma4_mlx as g4
model = g4.load()
chat = g4.Chat(model, options={"temperature": 0})
chat.send("What is 27 + 15?", max_tokens=24)
trace, atlas = chat.trace(attention=None), g4.teaching.atlas()
trace.selection.update(layer=2, expert=8)
"""


def test_in_jupyterlab_both_views_follow_each_other(notebook, picture):
    opened = notebook(
        LAB,
        "g4.widgets.Atlas(atlas, trace=trace)",
        "routing = g4.widgets.Routing(trace, model=model, atlas=atlas); routing",
        "",
    )
    page = opened.page
    page.locator(".g4-atlas .g4-atlascard h4", has_text="Expert 8 of layer 2").wait_for(
        state="attached"
    )
    atlas = page.locator(".g4-atlas")
    atlas.scroll_into_view_if_needed()
    atlas.locator(".g4-groupkey").first.wait_for()
    atlas.get_by_label("Experts", exact=True).locator("tbody button").first.click()
    title = atlas.locator(".g4-atlascard h4").inner_text().split("\n")[0]
    routing = page.locator(".g4-routing")
    routing.scroll_into_view_if_needed()
    routing.locator(".g4-card2 h4", has_text=title).wait_for()
    picture(atlas, "atlas-lab", opened)
    picture(routing, "routing-atlas-lab", opened)
    panel = routing.get_by_label("What if", exact=True)
    bar = panel.get_by_role("group", name="Change experts by label")
    bar.get_by_label("Label", exact=True).select_option("arithmetic")
    bar.get_by_role("button", name="Add").click()
    panel.get_by_role("button", name="Generate again").click()
    cards = panel.locator(".g4-answercard")
    cards.nth(2).wait_for()
    without = g4.studies.drop(g4.teaching.atlas(), "arithmetic", above=2)
    assert f"without arithmetic ({sum(map(len, without.experts.values()))} experts" in (
        cards.nth(1).inner_text()
    )
    assert not page.errors, page.errors
