"""The four views in a real JupyterLab, as a user opens them, over the teaching model."""

import contextlib
import json
import re

import pytest
from waiting import until

SETUP = """
import gemma4_mlx as g4
from gemma4_mlx.widgets import Anatomy, Attention, Fit, Prompt, Routing
model = g4.load()
chat = g4.Chat(model)
reply = chat.send("Count from one to nine. The code is 471.", max_tokens=12, temperature=0.0)
trace = chat.trace(attention=g4.AttentionPlan(retain="all"))
print("traced", len(trace))
"""
CELLS = [
    SETUP,
    "attention = Attention(trace); attention",
    "routing = Routing(trace, model=model, inputs=chat); routing",
    "live = Routing(model); live",
    "Anatomy(model)",
    "Fit(memory=24)",
    "Prompt(chat)",
]
SAY = "_ = chat.send('And from nine to one?', max_tokens=20)"


@pytest.fixture(scope="module")
def lab_views(shared_notebook):
    opened = shared_notebook(*CELLS)
    opened.page.locator(".g4-fit .g4-verdict strong").wait_for(state="attached")
    return opened


def shown(views, name, index=0):
    found = views.page.locator(f".g4-{name}").nth(index)
    found.scroll_into_view_if_needed()
    return found


def test_attention_fetches_tiles_and_rows(lab_views, picture):
    page = lab_views.page
    attention = shown(lab_views, "attention")
    page.locator('.g4-attention[data-missing="0"]').wait_for()
    attention.locator(".g4-word").nth(20).click()
    attention.locator(".g4-facts", has_text="1.0000").wait_for()
    attention.get_by_role("button", name="Pictures").click()
    assert attention.locator(".g4-thumb").count() == 24
    attention.locator(".g4-headpanel").get_by_role("button", name="Map").click()
    attention.locator(".g4-headmap").focus()
    for key in (*["PageDown"] * 2, "ArrowUp", "Home"):
        page.keyboard.press(key)
    names = attention.locator(".g4-headtip dt")
    names.first.wait_for()
    widths = names.evaluate_all("(all) => all.map((n) => n.clientWidth)")
    assert min(widths) > 100, "no word is broken, whatever JupyterLab does with lists"
    page.keyboard.press("Enter")
    attention.locator(".g4-mapbox h4", has_text="Layer 6, head 0").wait_for()
    attention.locator(".g4-shared", has_text="keys and values of layer 4").wait_for()
    attention.get_by_label("Find text in the trace").fill("471")
    page.keyboard.press("Enter")
    found = attention.locator(".g4-tokenview [role=status]")
    found.filter(has_text=re.compile(r"of \d|not found")).wait_for()
    picture(attention, "attention-lab", lab_views)


def test_selection_is_shared_with_routing_and_python(lab_views):
    page = lab_views.page
    attention, routing = shown(lab_views, "attention"), shown(lab_views, "routing")
    attention.locator(".g4-tokens [data-i='9']").click()
    routing.locator(".g4-tokens [data-i='9'].g4-selected").wait_for()
    path = routing.get_by_label("Path of the selected token")
    path.locator(".g4-striptitle", has_text=re.compile(r" 9$")).wait_for()
    routing.get_by_label("Layer", exact=True).select_option("3")
    attention.locator(".g4-mapbox h4", has_text="Layer 3").wait_for()
    assert page.evaluate("document.querySelectorAll('.g4-loadmap').length") == 2


def test_what_if_runs_the_model(lab_views):
    routing = shown(lab_views, "routing")
    routing.locator(".g4-whatif").scroll_into_view_if_needed()
    routing.get_by_role("switch", name=re.compile("^Drop expert")).first.click()
    routing.get_by_role("button", name="Generate again").click()
    cards = routing.locator(".g4-answercard")
    cards.nth(2).wait_for()
    assert "Control" in cards.nth(2).inner_text()
    assert cards.nth(0).locator(".g4-word").count() > 0


def test_anatomy_and_fit_answer(lab_views):
    anatomy = shown(lab_views, "anatomy")
    anatomy.locator("[data-block=layer2][data-part=router]").dispatch_event("click")
    anatomy.locator("h4", has_text="Router of layer 2").wait_for()
    anatomy.locator(".g4-code", has_text="class Router").wait_for()
    fit = shown(lab_views, "fit")
    fit.get_by_role("group", name="Model").get_by_role("button", name="e2b").click()
    fit.locator(".g4-verdict .g4-is-good").wait_for()


def test_the_notebook_with_all_five_saves_small(lab_views):
    """With the widgets' state, which JupyterLab stores on request; under 2 MB."""
    shown(lab_views, "prompt")
    file = lab_views.lab.folder / lab_views.name
    lab_views.execute("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    mime, models = "application/vnd.jupyter.widget-state+json", []

    def saved():
        lab_views.execute("docmanager:save")
        lab_views.page.wait_for_timeout(1000)
        with contextlib.suppress(ValueError):  # half written
            widgets = json.loads(file.read_text())["metadata"].get("widgets", {})
            models.extend(widgets.get(mime, {"state": {}})["state"].values())
        return models

    until(saved)
    views = [m for m in models if m["model_module"] == "anywidget"]
    assert len(views) == 6, "five widgets, and a second Routing that follows the model"
    assert all(len(m["state"]["_esm"]) > 5000 for m in views)
    print(f"saved {file.stat().st_size:,} bytes")
    assert file.stat().st_size < 2_000_000


def test_live_routing_fills_in_while_the_model_speaks(lab_views):
    page = lab_views.page
    live = shown(lab_views, "routing", 1)
    lab_views.execute("notebook:insert-cell-below")
    page.wait_for_timeout(300)
    page.evaluate(
        "(code) => { window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel"
        ".setSource(code); }",
        SAY,
    )
    lab_views.execute("notebook:run-cell")
    live.locator(".g4-headline .g4-chip", has_text=re.compile(r"[1-9]\d* tokens")).wait_for()
    live.locator(".g4-word").first.wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('.g4-routing')[1].querySelectorAll('.g4-word')]"
        ".some((n) => n.style.backgroundColor)"
    )
    assert not page.errors, page.errors
