"""The Anatomy view in Chromium from a saved page: the plan, its parts, keyboard, two units."""

import pytest

import gemma4_mlx as g4
from gemma4_mlx.widgets.anatomy import Anatomy


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("anatomy") / "page.html"
    return f"file://{Anatomy(g4.load()).snapshot().save(path)}"


def test_parts_explain_themselves(page, saved, accessible, picture):
    page.goto(saved)
    root = page.locator(".g4-anatomy")
    root.locator("h4", has_text="Attention of layer 4").wait_for()
    root.locator(".g4-formula").wait_for()
    assert "softmax" in root.locator(".g4-formula").inner_text()
    assert "class Attention" in root.locator(".g4-code").first.inner_text()
    assert root.locator(".g4-arc").count() == 2  # two layers share another's keys and values
    # areas are to scale: experts of a layer against its attention
    area = "(p) => { const r = document.querySelector(`[data-block=layer4][data-part=${p}]`);"
    area += " return r.getAttribute('width') * r.getAttribute('height'); }"
    attention, experts = page.evaluate(area, "attention"), page.evaluate(area, "experts")
    assert experts / attention == pytest.approx(3 * 16 * 64 * 128 / 49_216, rel=0.01)
    root.locator("[data-block=layer4][data-part=experts]").click()
    root.locator("h4", has_text="Experts of layer 4").wait_for()
    root.locator(".g4-file", has_text="model/moe.py").first.wait_for()
    page.locator("[data-block=layer4][data-part=experts]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    root.locator("h4", has_text="Router of layer 4").wait_for()
    root.get_by_role("button", name="bytes in memory").click()
    root.get_by_label("Whole model").locator("th", has_text="Bytes").wait_for()
    root.locator("summary", has_text="As a table").click()
    assert "131,072" in root.locator(".g4-fold table").last.inner_text()
    accessible(page, ".g4-anatomy")
    picture(root, "anatomy")
    assert not page.errors, page.errors
