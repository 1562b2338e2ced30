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
    assert root.locator(".g4-chosen th").inner_text() == "L0"


def test_load_map_by_keyboard(opened):
    root = opened.locator(".g4-routing")
    canvas = root.locator("canvas.g4-loadmap")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        opened.keyboard.press(key)
    expert = root.get_by_label("Chosen expert")
    expert.locator("h4", has_text="Expert 7 of layer 2").wait_for()
    root.locator("output.g4-hidden", has_text="of its routed tokens").wait_for(state="attached")


def test_what_if_shows_where_answers_part(opened):
    root = opened.locator(".g4-routing")
    root.locator("h4", has_text="What if expert 5 of layer 2 changed?").wait_for()
    root.get_by_role("button", name="Generate again").click()
    cards = root.locator(".g4-answercard")
    cards.nth(2).wait_for()
    assert cards.nth(1).locator(".g4-first").inner_text() == " 2"
    assert cards.nth(0).locator(".g4-changed").count() == 0
    assert "1 “·2”" in root.locator(".g4-whatif table").inner_text()
    # an unrecorded question says why it has no answer
    root.get_by_label("Then").select_option("around")
    root.get_by_role("button", name="Generate again").click()
    root.locator("[role=alert]", has_text="snapshot").wait_for()
