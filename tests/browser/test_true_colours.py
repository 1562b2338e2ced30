"""Canvases have the theme's colours from their first drawing on, in the course's own notebooks.

Nothing is touched before the colours are read: the theme is in JupyterLab's settings before the
page opens, the notebook is run by *Run All Cells*, and the widget scrolled to.
"""

import pytest

COURSE = {"03_expert_routing": "routing", "04_long_attention": "attention"}

#: Each canvas of the widget: its pixels' checksum, and the opaque colours of more than 1 % of it.
CANVASES = """(root) => [...root.querySelectorAll("canvas")]
.filter((canvas) => canvas.width && canvas.offsetParent).map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(data.buffer), count = new Map();
  let sum = 0;
  for (const p of pixels) {
    sum = (Math.imul(sum, 31) + p) | 0;
    count.set(p, (count.get(p) ?? 0) + 1);
  }
  const flat = [...count].filter(([p, n]) => n > 0.01 * pixels.length && p >>> 24 > 250);
  return { name: canvas.className || canvas.getAttribute("aria-label") || "", sum,
    flat: flat.map(([p]) => [p & 255, (p >> 8) & 255, (p >> 16) & 255]) };
})"""

#: The theme's colours as a canvas should have them, [r, g, b].
THEME = """(root) => {
  const style = getComputedStyle(root), probe = document.createElement("canvas").getContext("2d");
  return Object.fromEntries(["fg", "muted", "bg", "sunken", "line", "accent"].map((name) => {
    probe.fillStyle = style.getPropertyValue(`--g4-${name}`);
    probe.fillRect(0, 0, 1, 1);
    return [name, [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3)];
  }));
}"""

#: Scroll to a cell, as JupyterLab does, which puts it into the page.
GO_TO = """async (index) => {
  const { content } = window.jupyterapp.shell.currentWidget;
  await content.scrollToItem(index, "start");
}"""

#: Cells that are out of sight are hidden, or out of the page.
AWAY = """[...document.querySelectorAll(".g4-routing, .g4-attention")].every((root) => {
  const { top, bottom, height } = root.getBoundingClientRect();
  return !height || bottom < 0 || top > innerHeight;
})"""


def settled(root):
    """The widget's canvases once every request is answered and they no longer change."""
    root.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    before = None
    for _ in range(60):
        root.page.wait_for_timeout(1200)  # `data-waiting` is looked at once a second
        now = root.evaluate(CANVASES) if root.get_attribute("data-waiting") == "0" else None
        if now and now == before:
            return now
        before = now
    raise AssertionError("the canvases keep changing")


def near(colour, others, tolerance=6):
    return any(max(abs(a - b) for a, b in zip(colour, other)) <= tolerance for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ("light", "dark"))
@pytest.mark.parametrize("stem", COURSE)
def test_first_drawing(course, stem, theme):
    notebook = course(stem, theme)
    root = notebook.page.locator(f".g4-{COURSE[stem]}")
    root.wait_for(state="attached", timeout=240_000)
    root.scroll_into_view_if_needed()
    first, colours = settled(root), root.evaluate(THEME)
    assert sum(colours["bg"]) > 600 if theme == "light" else sum(colours["bg"]) < 200, colours
    flat = [colour for canvas in first for colour in canvas["flat"]]
    assert not near((0, 0, 0), flat, 0), "black is what a canvas fills with an empty colour"
    assert near(colours["sunken"], flat) or near(colours["bg"], flat), (colours, flat[:20])
    # The theme there and back draws everything once more: nothing was false before.
    notebook.theme("dark" if theme == "light" else "light")
    other = settled(root)
    assert [c["sum"] for c in other] != [c["sum"] for c in first]
    notebook.theme(theme)
    assert settled(root) == first


@pytest.mark.slow
def test_a_cell_that_was_scrolled_away(lab, notebook, page):
    """Where JupyterLab hides such cells or takes them out of the page; the theme changes there."""
    folder = lab.private / "config/lab/user-settings/@jupyterlab/notebook-extension"
    folder.mkdir(parents=True, exist_ok=True)
    setting = folder / "tracker.jupyterlab-settings"
    setting.write_text('{"windowingMode": "full"}')
    setup = "import gemma4_mlx as g4\ntrace = g4.trace(g4.load(), 'one two three four five')"
    cells = [setup, "g4.widgets.Routing(trace)", "g4.widgets.Attention(trace)", *["1 + 1"] * 60]
    try:
        opened = notebook(*cells)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        seen = {}
        for theme in ("light", "dark", "light"):
            for index, widget in enumerate(("routing", "attention"), 1):
                page.evaluate(GO_TO, index)
                root = page.locator(f".g4-{widget}")
                root.wait_for()
                root.scroll_into_view_if_needed()
                now, colours = settled(root), root.evaluate(THEME)
                assert (sum(colours["bg"]) > 600) == (theme == "light")
                flat = [colour for canvas in now for colour in canvas["flat"]]
                assert near(colours["sunken"], flat) or near(colours["bg"], flat)
                key = (theme, widget)
                assert seen.setdefault(key, now) == now, "as it was before it was scrolled away"
            page.evaluate(GO_TO, len(cells) - 1)
            page.wait_for_function(AWAY)
            opened.theme("dark" if theme == "light" else "light")
    finally:
        setting.unlink()
