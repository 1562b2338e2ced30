"""The Routing view in Chromium over real traces: colours, pointing, filter, what-if, comparison.

The front end is answered by the widget itself, without a kernel. ``big`` has the shape of
26B-A4B's routing, 30 layers of 128 experts, 8 a token.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from front import WidgetPage
from synthetic import make_media, make_tokens, make_trace

from gemma4_mlx.tracing import RoutingData, Trace
from gemma4_mlx.widgets.routing import Routing

LAYERS, E, K, N = 30, 128, 8, 1400


@pytest.fixture(scope="module")
def big():
    """Each script, the picture and the sound has favourites; three experts a layer have nobody."""
    rng = np.random.default_rng(0)
    tokens = make_tokens(N)
    groups = np.array([sum(map(ord, t)) % 7 for t in tokens.texts]) + 7 * np.asarray(tokens.kinds)
    logits = rng.gumbel(size=(LAYERS, N, E)).astype(np.float32)
    logits += rng.normal(0, 1.2, (LAYERS, 64, E)).astype(np.float32)[:, groups]
    for layer in range(LAYERS):
        logits[layer, :, rng.choice(E, 3, replace=False)] -= 60
    experts = np.argsort(-logits, axis=-1)[..., :K]
    chosen = np.take_along_axis(logits, experts, -1)
    gate = np.exp(chosen - chosen.max(-1, keepdims=True))
    gate /= gate.sum(-1, keepdims=True)
    scale = rng.uniform(0.6, 1.6, (LAYERS, E)).astype(np.float32)
    weights = np.stack([g * s[e] for g, s, e in zip(gate, scale, experts)])
    routing = RoutingData(range(LAYERS), experts.astype(np.uint8), weights, E, tokens, scale=scale)
    return Trace(tokens, routing=routing, model={"source": "true shape", "fingerprint": "big"})


@pytest.fixture
def view(page, big):
    page.set_viewport_size({"width": 1150, "height": 620})
    big.selection.clear()
    big.selection.update(token=30)
    opened = WidgetPage(page, Routing(big, media=make_media()))
    ready(opened)
    yield opened
    assert not page.errors, page.errors


def ready(view):
    """The map is drawn and the text has its colours."""
    view.page.wait_for_selector(".g4-routing .g4-groupkey, .g4-routing .g4-legend")
    view.page.wait_for_function(PAINTED + " > 5")
    view.page.wait_for_timeout(80)


PAINTED = "[...document.querySelectorAll('.g4-word')].filter((n) => n.style.backgroundColor).length"

#: Colours of the middle of every cell of a row of the map, left to right.
ROW = """(row) => {
  const c = document.querySelector(".g4-loadmap"), r = devicePixelRatio, w = c.width / r, hh = 13;
  const pen = c.getContext("2d");
  return Array.from({ length: 128 }, (_, k) => {
    const x = 34 + ((k + 0.5) * (w - 35)) / 128;
    return [...pen.getImageData(Math.floor(x * r), Math.round((1 + row * hh + 3) * r), 1, 1).data];
  });
}"""


def rgb(text: str) -> np.ndarray:
    return np.array([float(v) for v in re.findall(r"[\d.]+", text)[:3]])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_map_has_the_colours_of_its_keys(view, theme):
    page = view.page
    page.emulate_media(color_scheme=theme)
    page.wait_for_timeout(150)
    found = view.widget.specialisation()
    key = {
        int(k.get_attribute("data-group")): rgb(
            k.locator("i").evaluate("(n) => getComputedStyle(n).backgroundColor")
        )
        for k in page.locator(".g4-groupkey").all()
    }
    zero = np.array([0x2A, 0x2D, 0x35] if theme == "dark" else [0xE3, 0xE6, 0xEC])
    for row in (4, 17):  # not the chosen one, which has a frame
        purpose, load = found.purpose[row], found.overall[row]
        cells = np.array(page.evaluate(ROW, row))[:, :3]
        for_group = {g: int((purpose == g).sum()) for g in key}
        at = 0
        for g, count in for_group.items():  # in the order of the keys, clearest first
            for cell in cells[at : at + min(count, 1)]:
                lift = np.max(found.lift[row, g][purpose == g])
                strength = np.clip(np.log2(lift) / 2, 0.35, 1)
                assert abs(cell - (zero + (key[g] - zero) * strength)).max() < 3
            at += count
        none = int(((purpose < 0) & (load > 0)).sum())
        middle = cells[at : at + none]
        assert (abs(middle - zero).max(axis=1) < 3).mean() > 0.9  # but for ticks of the token
        assert len(cells) - at - none == int((load == 0).sum()) == 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_load_and_its_scale(view, theme):
    """Blue below the even load, orange above, as the scale says; the unused are hatched."""
    page = view.page
    page.emulate_media(color_scheme=theme)
    page.locator(".g4-routingbar [data-value=load]").click()
    page.wait_for_timeout(200)
    scale = page.evaluate(
        """() => { const c = document.querySelector(".g4-legend"), pen = c.getContext("2d");
        return Array.from({ length: 260 }, (_, x) => [...pen.getImageData(x, 8, 1, 1).data]); }"""
    )
    scale = np.array(scale)[:, :3].astype(float)
    overall = view.widget.specialisation().overall
    for row in (3, 20):
        load = np.sort(overall[row])[::-1]
        cells = np.array(page.evaluate(ROW, row))[:, :3]
        used = load[load > 0]
        at = np.clip(np.log2(used / (K / E)) / 3, -1, 1)
        wanted = scale[((at + 1) / 2 * 259).round().astype(int)]
        close = abs(cells[: len(used)] - wanted).max(axis=1) < 8
        assert close.mean() > 0.9, row  # ticks of the token cover a few


def test_pointing_says_what_an_expert_does(view):
    page, found = view.page, view.widget.specialisation()
    canvas = page.locator(".g4-loadmap")
    order = page.get_by_label("Order")
    order.select_option("number")
    box = canvas.bounding_box()
    cell = (box["width"] - 35) / E
    canvas.hover(position={"x": 34 + 40.5 * cell, "y": 1 + 13 * 6.5})
    readout = page.locator(".g4-readout")
    readout.filter(has_text="Layer 6, expert 40:").wait_for()
    load = found.overall[6, 40]
    assert f"{load * 100:.0f} %"[:1] in readout.inner_text()
    assert f"{load / (K / E):.1f}× even load" in readout.inner_text()
    asked = len(view.requests)
    canvas.click(position={"x": 34 + 40.5 * cell, "y": 1 + 13 * 6.5})
    card = page.get_by_label("Chosen expert")
    card.locator("h4", has_text="Expert 40 of layer 6").wait_for()
    card.locator("h4", has_text="learned scale").wait_for()
    assert view.widget.selection["expert"] == 40 and view.widget.selection["layer"] == 6
    assert {r["type"] for r in view.requests[asked:]} <= {"expert", "strip"}


def test_another_layer_does_not_keep_the_experts_number(view):
    page = view.page
    page.get_by_label("Layer", exact=True).select_option("9")
    page.get_by_label("Chosen expert").get_by_text("Layer 9: choose").wait_for()
    assert view.widget.selection["layer"] == 9 and view.widget.selection["expert"] is None
    view.widget.trace.selection.update(layer=11, expert=5)
    view.pull()
    page.get_by_label("Chosen expert").locator("h4", has_text="Expert 5 of layer 11").wait_for()
    view.widget.trace.selection.update(layer=12)  # another view moves on to another layer
    view.pull()
    page.get_by_label("Chosen expert").get_by_text("Layer 12: choose").wait_for()


def test_the_tokens_experts_stand_beside_the_map(view, big):
    page = view.page
    strip = page.get_by_label("Path of the selected token")
    strip.get_by_text("30").first.wait_for()
    canvas = strip.locator("canvas")
    canvas.click(position={"x": 26 * 2 + 10, "y": 1 + 13 * 8 + 6})
    third = int(big.routing.experts[8, 30, 2])
    card = page.get_by_label("Chosen expert")
    card.locator("h4", has_text=f"Expert {third} of layer 8").wait_for()
    page.locator(".g4-word[data-i='31']").hover()
    title = page.locator(".g4-word[data-i='31']").get_attribute("title")
    assert f"layer 8 · experts {int(big.routing.experts[8, 31, 0])} (" in title
    page.locator(".g4-word[data-i='31']").click()
    strip.get_by_text("31").first.wait_for()


def test_filter_lists_and_dims(view):
    page, found = view.page, view.widget.specialisation()
    name = found.groups.names[1]
    page.get_by_label("Group of the filter").select_option(label=name)
    page.get_by_label("Least lift").fill("1.5")
    page.get_by_label("Least lift").press("Enter")
    wanted = found.experts(name, above=1.5)
    table = page.get_by_role("region", name="Experts", exact=True)
    table.locator("h4", has_text=f"{len(wanted)} experts above 1.5×").wait_for()
    first = table.locator("tbody tr").first.inner_text().split()
    assert first[:2] == [f"L{wanted[0]['layer']}", str(wanted[0]["expert"])]
    table.get_by_role("button", name="Load").click()
    cells = table.locator("tbody td:nth-child(5)").all_inner_texts()
    loads = [float(text.split(" ")[0]) for text in cells]
    assert loads == sorted(loads, reverse=True)
    table.get_by_role("button", name=re.compile("^Choose expert")).first.click()
    page.get_by_label("Chosen expert").locator("h4", has_text="Expert").wait_for()


def test_by_keyboard(view, accessible):
    page = view.page
    page.locator("canvas.g4-loadmap").focus()
    for key in ("Home", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    card = page.get_by_label("Chosen expert")
    row = view.widget.meta["start"]["layer"]
    down = min(LAYERS - 1, row + 1)
    card.locator("h4", has_text=f"of layer {down}").wait_for()
    page.locator("canvas.g4-focusrow").focus()
    page.keyboard.press("End")
    page.locator("output.g4-hidden", has_text="never used").wait_for(state="attached")
    page.keyboard.press("Enter")
    card.get_by_text("No token of this trace was routed here.").wait_for()
    accessible(page, ".g4-routing")


def test_text_by_one_expert_and_lift_by_kind(view):
    page = view.page
    before = page.evaluate(PAINTED)
    page.get_by_label("Text by").select_option("expert")
    page.wait_for_function(f"(n) => {PAINTED} < n", arg=before)
    page.get_by_label("Tokens by").select_option("kind")
    page.locator(".g4-groupkey", has_text="word").first.wait_for()
    page.locator(".g4-groupkey", has_text="audio").click()
    assert page.get_by_label("Order").input_value() == "lift"
    assert page.get_by_label("for", exact=True).locator("option:checked").inner_text() == "audio"


def test_text_and_map_fit_a_projector(view):
    """1280 x 720 less JupyterLab's own bars: text and map together, letters of 12 px and more."""
    for name in (".g4-tokens", ".g4-loadmap", ".g4-pathstrip"):
        box = view.page.locator(name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 605, name
    small = view.page.evaluate(
        """() => [...document.querySelectorAll(".g4-routing *")].filter((n) => n.checkVisibility()
          && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim())
          && parseFloat(getComputedStyle(n).fontSize) < 12)
          .map((n) => [n.className, n.textContent.slice(0, 20)])"""
    )
    allowed = ("g4-special", "")  # control tokens in the text
    assert [s for s in small if not any(a and a in s[0] for a in allowed)] == []


def test_a_snapshot_is_whole(page, big, tmp_path):
    """It opens, changes layer, view and token without a kernel, and finds text."""
    big.selection.update(token=30, layer=6, expert=40)
    path = Routing(big, media=make_media()).save_html(tmp_path / "page.html")
    assert path.stat().st_size < 3_000_000
    page.goto(path.as_uri())
    page.locator(".g4-groupkey").first.wait_for()
    page.wait_for_function(PAINTED + " > 5")
    page.get_by_label("Layer", exact=True).select_option("3")
    page.locator(".g4-word[data-i='12']").click()
    page.wait_for_function("document.querySelector('.g4-striptitle').textContent.includes('12')")
    page.locator(".g4-routingbar [data-value=load]").click()
    page.get_by_label("Tokens by").select_option("part")
    page.wait_for_timeout(200)
    page.get_by_label("Find text in the trace").fill("needle")
    page.keyboard.press("Enter")
    page.locator(".g4-tokenview [role=status]", has_text="of").wait_for()
    assert page.locator(".g4-problem:visible").count() == 0
    assert not page.errors, page.errors


def test_a_snapshot_enters_only_the_pages_it_has(page, big, monkeypatch):
    monkeypatch.setattr("gemma4_mlx.widgets.routing.SNAPSHOT_ROUTES", 700_000)  # two of three
    big.selection.update(token=30, layer=6, expert=40)
    page.set_content(Routing(big, media=make_media()).snapshot().page)
    where, after = page.locator(".g4-where"), page.get_by_label("Next page of tokens")
    where.filter(has_text="tokens 0 to 511").wait_for()
    after.click()
    where.filter(has_text="tokens 1,024 to 1,399").wait_for()
    assert after.is_disabled()
    page.wait_for_function(PAINTED + " > 5")
    assert page.locator(".g4-problem:visible").count() == 0 and not page.errors


def test_two_traces_are_compared(page, accessible):
    view = Routing(make_trace(120), make_trace(90, seed=7, bias=3))
    WidgetPage(page, view)
    root = page.locator(".g4-routing")
    root.locator(".g4-word").first.wait_for()
    which = root.get_by_role("group", name="Which trace")
    texts = {}
    for name in ("A", "B"):
        which.get_by_role("button", name=name, exact=True).click()
        last = 119 if name == "A" else 89
        root.locator(".g4-where", has_text=f"to {last} of").wait_for()
        texts[name] = root.locator(".g4-tokens").inner_text()
    assert texts["A"] != texts["B"]
    which.get_by_role("button", name="B − A").click()
    table = root.get_by_role("table", name="Difference of routing", exact=True)
    table.wait_for()
    rows = table.locator("tbody tr")
    assert rows.count() == len(view.meta["layers"])
    assert rows.nth(0).inner_text().startswith("L0") and "(" in rows.nth(0).inner_text()
    canvas = root.locator("canvas.g4-loadmap")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    root.locator("output.g4-hidden", has_text="points").wait_for(state="attached")
    accessible(page, ".g4-routing")
    which.get_by_role("button", name="A", exact=True).click()
    table.wait_for(state="hidden")
    assert not page.errors, page.errors


ANSWERS = [
    {"name": "As it is", "tokens": [" one", " two", " three"], "parts": None, "divergence": []},
    {
        "name": "layer 6: experts 3, 40 dropped",
        "tokens": [" one", " 2"],
        "parts": 1,
        "divergence": [0.1, 2.0],
    },
    {
        "name": "Control: layer 6: experts 7, 9 dropped",
        "tokens": [" one", " two", " three"],
        "parts": None,
        "divergence": [0.0, 0.0, 0.0],
    },
]


def test_several_experts_are_changed_at_once(page, big, accessible):
    """The switches and the drawing of the answers; test_views_lab runs the model."""
    big.selection.update(token=30, layer=6, expert=40)
    widget = Routing(big)
    widget.meta = {**widget.meta, "whatif": ""}  # as with a model
    asked = []

    def answer(changes, tokens, everywhere):
        asked.append(changes)
        if len(asked) == 1:
            return {"running": 0.5}
        return {"answers": [{"note": "n", "mean": 0.5, **a} for a in ANSWERS], "note": "how"}

    widget.answer_whatif = answer
    ready(WidgetPage(page, widget))
    panel = page.locator(".g4-routing").get_by_label("What if", exact=True)
    panel.locator("h4", has_text="What if experts of layer 6 changed?").wait_for()
    rows = panel.locator(".g4-switches tbody tr")
    mine = [f"expert {e}" for e in big.routing.experts[6, 30]]
    shown = rows.locator("th").all_inner_texts()
    assert shown[:K] == mine and len(shown) == E, "the selected token's experts come first"
    panel.get_by_role("button", name="Load").click()
    loads = [float(t.split(" ")[-2]) for t in rows.locator("td:nth-of-type(2)").all_inner_texts()]
    assert loads == sorted(loads, reverse=True)
    panel.get_by_role("switch", name="Drop expert 3:").click()
    find = panel.get_by_label(re.compile("^Find experts"))
    find.fill("40")
    assert rows.count() == 1
    switch = panel.get_by_role("switch", name="Drop expert 40:")
    switch.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert switch.get_attribute("aria-checked") == "true"
    panel.get_by_role("button", name="Generate again").click()
    cards = panel.locator(".g4-answercard")
    cards.nth(2).wait_for()
    assert len(asked) == 2 and [c["expert"] for c in asked[-1]] == [3, 40]
    assert cards.nth(1).locator(".g4-first").inner_text() == " 2"
    assert "1 “·2”" in panel.get_by_role("table", name="Answers compared").inner_text()
    panel.locator("summary").click()
    lines = panel.get_by_role("table", name="Divergence of every token").locator("tbody tr")
    assert "2.000" in lines.nth(1).inner_text() and lines.count() == 3
    accessible(page, ".g4-whatif")
    panel.get_by_role("button", name="L6 · 3 dropped").click()
    assert panel.locator(".g4-changes button").all_inner_texts() == [
        "L6 · 40 dropped ✕",
        "Generate again",
    ]
    assert not page.errors, page.errors


def test_what_cannot_be_tried_is_said_instead_of_offered(page, big):
    """Without a model there is a sentence and no switch; a snapshot holds what was tried."""
    big.selection.update(token=30, layer=6, expert=40)
    widget = Routing(big)
    ready(WidgetPage(page, widget))
    root = page.locator(".g4-routing")
    root.get_by_text("With the model: Routing(trace, model=model)").wait_for()
    assert root.get_by_role("switch").count() == 0
    widget.meta = {**widget.meta, "whatif": ""}  # as with a model
    page.set_content(widget.snapshot().page)
    root.get_by_text("this page is a snapshot").wait_for()
    widget.answer_whatif = lambda changes, tokens, everywhere: {
        "answers": [{"note": "n", "mean": 0.5, **a} for a in ANSWERS],
        "note": "how",
    }
    for expert in (3, 40):
        changes = [{"layer": 6, "expert": expert, "action": "drop"}]
        asked = {"changes": changes, "tokens": 40, "everywhere": False}
        widget._jobs.job(json.dumps(asked, sort_keys=True), lambda tell: None).wait()
    page.set_content(widget.snapshot().page)
    panel = root.get_by_label("What if", exact=True)
    panel.locator(".g4-answercard").nth(2).wait_for()
    panel.get_by_role("button", name="L6 · 40 dropped").click()
    panel.get_by_role("button", name="L6 · 40 dropped", pressed=True).wait_for()
    assert panel.get_by_role("switch").count() == 0
    assert root.locator(".g4-problem:visible").count() == 0 and not page.errors
