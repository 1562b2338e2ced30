"""No text below 12 pixels, on the page or on a canvas: a widget is shown by projectors, too."""

import pytest

SETUP = """
import gemma4_mlx as g4
from gemma4_mlx.widgets import Anatomy, Atlas, Attention, Fit, Prompt, Routing
model = g4.load()
chat = g4.Chat(model)
reply = chat.send("Count from one to nine.", max_tokens=12, temperature=0.0)
trace = chat.trace(attention=g4.AttentionPlan(retain="all"))
"""
WIDGETS = {
    "attention": "Attention(trace)",
    "routing": "Routing(trace, model=model)",
    "atlas": "Atlas(g4.teaching.atlas())",
    "anatomy": "Anatomy(model)",
    "fit": "Fit(memory=24)",
    "prompt": "Prompt(chat)",
}
#: Remember the smallest font that each canvas draws text with.
RECORD = """
globalThis.smallest = {};
for (const name of ["fillText", "strokeText"]) {
  const draw = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...values) {
    const size = parseFloat(/([\\d.]+)px/.exec(this.font)[1]);
    const key = this.canvas.className || "canvas";
    smallest[key] = Math.min(smallest[key] ?? 99, size);
    return draw.apply(this, values);
  };
}"""
#: The texts of a widget that are smaller than 12 px, with their size on the screen.
SMALL = """(root) => {
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !node.getClientRects().length || node.closest(".g4-hidden, option")) continue;
    const scale = node.ownerSVGElement ? node.getScreenCTM().a : 1;
    const size = parseFloat(getComputedStyle(node).fontSize) * scale;
    if (size > 1 && size < 11.9) found.push(`${size.toFixed(1)} px: ${text.slice(0, 30)}`);
  }
  return found;
}"""


@pytest.mark.slow
def test_every_text_can_be_read(notebook, page):
    page.set_viewport_size({"width": 1280, "height": 720})
    page.add_init_script(RECORD)
    notebook(SETUP, *WIDGETS.values())
    for name in WIDGETS:
        root = page.locator(f".g4-{name}")
        root.wait_for(state="attached", timeout=240_000)
        root.scroll_into_view_if_needed()
        page.wait_for_timeout(2500)
        assert root.evaluate(SMALL) == [], name
    small = {name: size for name, size in page.evaluate("smallest").items() if size < 12}
    assert small == {}
    button = page.locator(".g4-attention .g4-present")
    button.scroll_into_view_if_needed()
    button.click()
    page.wait_for_function("document.querySelector('.g4-attention').matches(':fullscreen')")
    page.screenshot(path="tests/browser/artifacts/presenting.png")
    box = page.locator(".g4-attention").bounding_box()
    assert box["width"] >= 1280 and box["height"] >= 720
    button.click()
    page.wait_for_function("!document.fullscreenElement")
