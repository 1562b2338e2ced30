"""Why in a real JupyterLab: asked from a Prompt widget, and beside the other views of a trace."""

import pytest

SETUP = """
from PIL import Image
import gemma4_mlx as g4
model = g4.load()
prompt = g4.widgets.Prompt(model, options={"temperature": 0})
prompt.say("Note: key 208. Note: drum 471.\\nWhat is the note for key?")
prompt.wait()
picture = Image.new("RGB", (192, 192), "white")
picture.paste("red", (24, 96, 96, 168))
seeing = g4.Chat(model)
seeing.send("What do you see?", images=[picture], temperature=0, max_tokens=20)
trace = seeing.trace(routing=None, attention=g4.AttentionPlan(retain="all"))
"""
CELLS = [
    SETUP,
    "prompt",
    "asked = g4.widgets.Why(prompt)\nasked",
    "g4.widgets.Attention(trace)",
    "seen = g4.widgets.Why(seeing, ' red', against=' blue', trace=trace)\nseen",
    "print(asked.attribution.target, asked.attribution.against, trace.selection)",
]


@pytest.fixture(scope="module")
def lab_why(shared_notebook, shared_page):
    shared_page.set_viewport_size({"width": 1180, "height": 5200})  # a cell is drawn where it shows
    opened = shared_notebook(*CELLS)
    opened.page.locator(".g4.g4-why .g4-whylist li").first.wait_for()
    return opened


def test_a_prompt_asks_why_not(lab_why):
    page, why = lab_why.page, lab_why.page.locator(".g4.g4-why").first
    why.locator(".g4-whysaid", has_text="Logit of The").wait_for()
    root = page.locator(".g4-prompt")
    root.get_by_role("button", name="Show the tokens").first.click()
    root.locator(".g4-tok", has_text="0").first.click()
    root.get_by_role("button", name="why not “9”?").click()
    why.locator(".g4-whysaid", has_text="Logit of 0 less that of 9").wait_for()
    lab_why.run(5)
    out = lab_why.cell(5).locator(".jp-OutputArea-output", has_text="'0') (")
    out.filter(has_text="'9')").wait_for()


def test_a_head_is_shown_in_attention_and_a_patch_in_both(lab_why, picture):
    page = lab_why.page
    why, attention = page.locator(".g4.g4-why").nth(1), page.locator(".g4-attention")
    why.locator(".g4-whylist li").first.wait_for()
    head = why.locator("button.g4-partname", has_text="head").first
    layer, number = head.inner_text().lower().removeprefix("layer ").split(" head ")
    head.click()
    attention.get_by_text(f"Layer {layer}, head {number}").first.wait_for()
    why.locator("canvas.g4-image").click(position={"x": 60, "y": 160})
    attention.locator(".g4-facts").first.wait_for()
    assert "patch" in why.locator(".g4-whyabout").inner_text()
    picture(why, "why-lab", lab_why)


def test_an_mlp_is_removed_and_measured(lab_why, picture):
    why = lab_why.page.locator(".g4.g4-why").first
    why.get_by_role("button", name="MLPs").click()
    why.get_by_role("button", name="MLP and answer again").first.click()
    why.get_by_label("Without these parts").locator("h5", has_text="Control").wait_for()
    why.get_by_role("button", name="Remove them and measure").click()
    why.get_by_label("Check", exact=True).locator("circle").first.wait_for()
    picture(why, "why-lab-without", lab_why)
