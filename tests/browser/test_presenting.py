"""One widget alone on a projector of 1280 x 720: larger text, map and picture in view together."""

import pytest
from front import WidgetPage
from synthetic import make_many_heads, make_trace

from gemma4_mlx.widgets import Attention, Routing

#: The texts that can be seen in a widget, their smallest size, and the size of its notes.
SIZES = """(root) => {
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), sizes = [];
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest(".g4-hidden, .g4-bare, option")) continue;
    sizes.push(parseFloat(getComputedStyle(node).fontSize));
  }
  return Math.min(...sizes);
}"""


@pytest.mark.parametrize("name", ["attention", "routing"])
def test_it_fits_and_is_larger(page, name):
    page.set_viewport_size({"width": 1280, "height": 720})
    page.set_default_timeout(30_000)
    if name == "attention":
        widget, together = Attention(make_many_heads()), (".g4-headmap", ".g4-mapbox canvas.g4-map")
    else:
        widget, together = Routing(make_trace(240)), (".g4-tokens", ".g4-loadmap", ".g4-pathstrip")
    root = WidgetPage(page, widget).root
    for part in together:
        root.locator(part).first.wait_for()
    page.wait_for_timeout(500)
    before = root.evaluate(SIZES)
    button = root.get_by_role("button", name="Fill the screen")
    button.click()
    page.wait_for_function(f"document.querySelector('.g4-{name}').matches(':fullscreen')")
    page.wait_for_timeout(500)
    after = root.evaluate(SIZES)
    assert 12 <= before < 12.5 and after >= 13.5, (before, after)
    root.evaluate("(n) => n.scrollTo(0, 0)")
    for part in together:
        box = root.locator(part).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 720, (part, box)
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280, (part, box)
    assert root.evaluate("(n) => n.scrollWidth <= n.clientWidth")
    button.click()
    page.wait_for_function("!document.fullscreenElement")
    assert root.evaluate(SIZES) == before and not page.errors
