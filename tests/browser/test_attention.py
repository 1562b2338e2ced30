"""The trace views in Chromium from a saved page: zoom, rows, spans, routing, keyboard, network off.

The page is a snapshot opened from ``file://``: the widgets' real modules over recorded answers, so
these tests need neither a kernel nor JupyterLab.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "widgets"))
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
    assert root.locator(".g4-thumb").count() == 32
    assert (
        root.locator(".g4-thumb[aria-pressed=true]")
        .get_attribute("aria-label")
        .startswith("Layer 2, head 1, full")
    )
    root.locator(".g4-mapfoot .g4-chip", has_text="one cell is one token pair").wait_for()
    canvas = root.locator("canvas.g4-map")
    canvas.focus()
    for key in ("+", "+", "ArrowDown", "ArrowRight"):
        opened.keyboard.press(key)
    readout = root.locator(".g4-readout")
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
    first = root.locator(".g4-side .g4-table").nth(1).locator("tbody tr").first
    assert first.locator("td").first.inner_text() == "40"
    background = "i => document.querySelector(`[data-i='${i}']`).style.backgroundColor"
    assert opened.evaluate(background, 40) != ""
    facts = root.locator(".g4-facts").inner_text()
    assert "1.0000" in facts and "Sink" in facts
    root.get_by_label("Take the sink out").check()
    assert "taken out" in root.locator(".g4-facts").inner_text()
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
    assert "0 to 1" in root.locator(".g4-spans").inner_text()


def test_heads_are_sorted_and_other_heads_fall_back_to_their_small_picture(opened):
    root = opened.locator(".g4-attention")
    root.get_by_label("Sort heads by").select_option("first")
    labels = root.locator(".g4-thumb-label").all_inner_texts()
    values = [float(label.split()[-2].replace("%", "") or 0) for label in labels]
    assert values == sorted(values, reverse=True) and len(values) == 32
    root.locator(".g4-thumb").nth(3).click()
    root.locator(".g4-mapfoot .g4-chip", has_text="pooled").wait_for()


def test_light_and_dark_differ(opened):
    read = "getComputedStyle(document.querySelector('.g4-attention')).color"
    light = opened.evaluate(read)
    opened.evaluate("document.documentElement.dataset.g4Theme = 'dark'")
    opened.wait_for_selector('.g4-attention[data-theme="dark"]')
    assert opened.evaluate(read) != light
