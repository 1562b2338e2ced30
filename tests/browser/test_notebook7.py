"""The five widgets in Jupyter Notebook 7, as a user opens them."""

import re

SETUP = """
import gemma4_mlx as g4
from gemma4_mlx.widgets import Anatomy, Attention, Fit, Prompt, Routing
model = g4.load()
trace = g4.trace(model, "one two three", attention=g4.AttentionPlan(retain="all"))
"""
CELLS = [
    SETUP,
    "Attention(trace)",
    "Routing(trace)",
    "Anatomy(model)",
    "Fit(memory=24)",
    "Prompt(model)",
]


def test_all_five_are_alive(notebook7, page):
    opened = notebook7(*CELLS, run=False)
    own = list(page.errors)  # Notebook's, before any widget is there
    opened.run_all()
    page.locator('.g4-attention[data-missing="0"]').wait_for()
    page.locator(".g4-attention .g4-headmap").click(position={"x": 90, "y": 82})  # the second row
    page.locator(".g4-attention .g4-mapbox h4", has_text="Layer 1, head 0").wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.locator(".g4-attention .g4-headmap").focus()  # by keyboard as in JupyterLab
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.locator(".g4-attention .g4-mapbox h4", has_text="Layer 2, head ").wait_for()
    page.locator(".g4-routing .g4-word").first.wait_for()
    page.locator(".g4-anatomy svg").first.wait_for()
    page.locator(".g4-fit .g4-verdict strong").wait_for()
    prompt = page.locator(".g4-prompt")
    prompt.locator("textarea").fill("Count from 3 to 6.")
    page.keyboard.press("Enter")
    prompt.locator(".g4-from-assistant", has_text=re.compile("six|6")).wait_for()
    assert page.errors == own
