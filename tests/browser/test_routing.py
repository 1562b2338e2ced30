"""The Routing view in Chromium from a saved page: colours, paths, experts, comparison, what-if."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
from synthetic import make_media, make_trace

from gemma4_mlx.widgets.routing import Routing
from gemma4_mlx.widgets.snapshot import Snapshot, request_key


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    trace = make_trace(200)
    view = Routing(trace, media=make_media())
    view.meta = {**view.meta, "model": True}  # shows the what-if panel, answered from the record
    view.selection = {"token": 3, "layer": 2, "head": None, "expert": 5}
    snapshot = Snapshot.of(view)
    words = [" one", " two", " three"]
    answers = [
        {"name": "As it is", "tokens": words, "parts": None, "divergence": [], "mean": 0},
        {
            "name": "Expert 5 dropped",
            "tokens": [" one", " 2"],
            "parts": 1,
            "divergence": [0.1, 2.0],
        },
        {"name": "Control: expert 8", "tokens": words, "parts": None, "divergence": [0.0] * 3},
    ]
    answers = [{"note": "a note", "mean": 0.5, **a} for a in answers]
    asked = {"type": "whatif", "layer": 2, "expert": 5, "action": "drop", "other": 0, "factor": 3}
    key = request_key({**asked, "tokens": 40, "everywhere": False})
    snapshot.answers[key] = {"content": {"answers": answers, "note": "how it was measured"}}
    path = tmp_path_factory.mktemp("routing") / "page.html"
    return f"file://{snapshot.save(path)}"


@pytest.fixture
def opened(page, saved):
    page.set_default_timeout(20_000)
    page.goto(saved)
    page.wait_for_selector(".g4-routing .g4-word.g4-selected")
    yield page
    assert not page.errors, page.errors


def test_tokens_carry_their_experts(opened, accessible, picture):
    root = opened.locator(".g4-routing")
    opened.wait_for_function("document.querySelectorAll('.g4-pin').length === 8")
    painted = "[...document.querySelectorAll('.g4-word')].filter((n) => n.style.backgroundColor)"
    assert opened.evaluate(f"{painted}.length") > 50
    assert "layer 2 · expert" in root.locator("[data-i='3']").get_attribute("title")
    root.get_by_label("expert numbers").check()
    assert root.locator("[data-i='3']").get_attribute("data-label").isdigit()
    before = opened.evaluate(f"{painted}.map((n) => n.style.backgroundColor).join()")
    root.get_by_label("Layer", exact=True).select_option("6")
    opened.wait_for_function(
        f"(b) => {painted}.map((n) => n.style.backgroundColor).join() !== b", arg=before
    )
    accessible(opened, ".g4-routing")
    picture(root, "routing")


def test_the_path_and_the_expert_are_tables_too(opened):
    root = opened.locator(".g4-routing")
    root.get_by_label("Path of the selected token").locator("h4", has_text="(3)").wait_for()
    assert root.locator(".g4-step").count() == 16  # two experts in each of eight layers
    expert = root.get_by_label("Chosen expert")
    expert.locator("h4", has_text="Expert 5 of layer 2").wait_for()
    root.locator(".g4-step").first.click()
    expert.locator("h4", has_text="of layer 0").wait_for()
    path = root.get_by_label("Path of the selected token")
    assert path.locator(".g4-chosen th").inner_text() == "L0"


def test_load_map_by_keyboard(opened):
    root = opened.locator(".g4-routing")
    canvas = root.locator("canvas.g4-loadmap")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        opened.keyboard.press(key)
    expert = root.get_by_label("Chosen expert")
    expert.locator("h4", has_text="Expert 7 of layer 2").wait_for()
    root.locator("output.g4-hidden", has_text="of its routed tokens").wait_for(state="attached")


def test_a_switch_beside_each_expert_shows_where_answers_part(opened, accessible):
    root = opened.locator(".g4-routing")
    panel = root.get_by_label("What if", exact=True)
    panel.locator("h4", has_text="What if an expert of layer 2 changed?").wait_for()
    rows = panel.get_by_role("table", name="Experts of the layer").locator("tbody tr")
    assert rows.get_by_role("switch").count() == 4 * rows.count() >= 32
    weights = rows.locator("td:nth-of-type(1)").all_inner_texts()
    chosen = [w for w in weights if "not chosen" not in w]
    assert len(chosen) == 2 and weights[:2] == chosen, "the selected token's experts come first"
    drop = panel.get_by_role("switch", name="Drop expert 5: its output becomes zero")
    drop.click()
    assert drop.get_attribute("aria-checked") == "true"
    cards = panel.locator(".g4-answercard")
    cards.nth(2).wait_for()
    assert cards.nth(1).locator(".g4-first").inner_text() == " 2"
    assert cards.nth(0).locator(".g4-changed").count() == 0
    assert "1 “·2”" in panel.get_by_role("table", name="Answers compared").inner_text()
    panel.locator("summary").click()
    table = panel.get_by_role("table", name="Divergence of every token")
    lines = table.locator("tbody tr")
    assert "2.000" in lines.nth(1).inner_text() and lines.count() == 3
    accessible(opened, ".g4-whatif")


def test_the_switches_by_keyboard(opened):
    root = opened.locator(".g4-routing")
    panel = root.get_by_label("What if", exact=True)
    first = panel.get_by_role("switch").first
    first.wait_for()
    assert panel.locator(".g4-switches button[tabindex='0']").count() == 1
    first.focus()
    for key in ("ArrowRight", "ArrowDown"):
        opened.keyboard.press(key)
    name = opened.evaluate("document.activeElement.getAttribute('aria-label')")
    assert name.startswith("Route around expert")
    opened.keyboard.press("Enter")  # not in this page's record: it says why there is no answer
    panel.locator("[role=alert]", has_text="snapshot").wait_for()
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == name
    opened.keyboard.press("Enter")
    assert panel.locator("[role=alert]").count() == 0, "off again"
    panel.get_by_label("Expert to swap with").fill("5")
    panel.get_by_label("Expert to swap with").press("Tab")
    swap = panel.get_by_role("switch", name="Swap expert 5 for expert 5")
    assert swap.is_disabled()
    shown = panel.get_by_role("switch").count()
    panel.get_by_role("button", name="All 16 experts").click()
    assert panel.get_by_role("switch").count() == 64 > shown


def test_two_traces_are_compared(page, tmp_path, accessible):
    """A and B by themselves, B minus A as a map, and layer by layer with a test."""
    view = Routing(make_trace(120), make_trace(90, seed=7, bias=3))
    page.set_default_timeout(20_000)
    page.goto(view.snapshot().save(tmp_path / "two.html").as_uri())
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
