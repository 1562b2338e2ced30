"""The trace widgets at the shapes of released models, in a real JupyterLab and Chromium.

    python tests/benchmarks/widgets_browser.py 26B-8K.g4trace 31B-8K.g4trace 31B-128K.g4trace

Each trace is opened in a notebook of its own. Printed are milliseconds of the clock, median and
worst; beside them the CPU milliseconds of the page's main thread and of the kernel, which is about
what the clock would show on an idle machine; and their ratio to the first trace's:

first     from running the cell to all heads and the first map drawn (bar: 2,000)
hover     from pointing at a head to its description with its small picture (150)
click     from a click on a head to its map, no tile missing (150)
search    from Enter in the search field to the first hit shown (150)
sort      from "Sort in layers" to the next frame (150)
colour    from another summary for the colours to the next frame (150)
theme     from another theme to the frame with the new colours (500)
memory    MB of the browser's page process above the same notebook before (300), JavaScript heap
"""

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from browser_load import Load, page_memory

BARS = dict.fromkeys(("hover", "click", "search", "sort", "colour"), 150)
BARS |= {"first": 2000, "theme": 500}
REPEATS = 12

#: Milliseconds until ``done()`` holds and what it changed has been drawn.
MEASURE = """
globalThis.g4Measure = async (act, done) => {
  const begin = performance.now(), frame = () => new Promise(requestAnimationFrame);
  await act();
  while (!done()) {
    await new Promise((go) => { const c = new MessageChannel(); c.port1.onmessage = go; c.port2.postMessage(0); });
    if (performance.now() - begin > 60000) throw new Error("not done after 60 s: " + done);
  }
  await frame(); await frame();
  return performance.now() - begin;
};
globalThis.g4Root = () => document.querySelector(".g4-attention");
globalThis.g4Cell = (share) => { // a point of the map of heads
  const box = document.querySelector(".g4-headmap").getBoundingClientRect();
  return { clientX: box.x + 58 + share * (box.width - 70), clientY: box.y + 24 + ((share * 7.31) % 1) * (box.height - 30) };
};
globalThis.g4Point = (type, at) => document.querySelector(".g4-headmap")
  .dispatchEvent(new PointerEvent(type, { ...at, bubbles: true, pointerId: 1 }));
"""  # noqa: E501

HOVER = """(share) => g4Measure(() => g4Point("pointermove", g4Cell(share)),
  () => document.querySelector(".g4-headtip canvas[data-ready]")
    && document.querySelector(".g4-headreadout").textContent.startsWith(
      document.querySelector(".g4-headtip strong").textContent))"""
CLICK = """(share) => {
  const title = () => document.querySelector(".g4-mapbox h4").textContent, before = title();
  g4Point("pointermove", g4Cell(share));
  return g4Measure(() => { g4Point("pointerdown", g4Cell(share)); g4Point("pointerup", g4Cell(share)); },
    () => title() !== before && g4Root().dataset.missing === "0");
}"""  # noqa: E501
SEARCH = """(text) => {
  const field = g4Root().querySelector(".g4-search");
  field.value = text;
  const status = g4Root().querySelector(".g4-tokenview [role=status]");
  status.textContent = "";
  return g4Measure(() => field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true })),
    () => status.textContent !== "");
}"""  # noqa: E501
SORT = "() => g4Measure(() => g4Root().querySelector('.g4-headtools input').click(), () => true)"
COLOUR = """(k) => g4Measure(() => {
  const select = g4Root().querySelector(".g4-headtools select");
  select.selectedIndex = k % select.options.length;
  select.dispatchEvent(new Event("change"));
}, () => true)"""
THEME = """(name) => g4Measure(() => { document.documentElement.dataset.g4Theme = name; },
  () => g4Root().dataset.theme === name)"""


def measure(lab, playwright, path: Path) -> Load:
    import nbformat
    from conftest import Notebook

    cells = [
        "import gemma4_mlx as g4\nfrom gemma4_mlx.widgets import Attention\n"
        f"trace = g4.open_trace({str(path)!r})",
        "Attention(trace)",
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
    )
    name = f"{path.stem}.ipynb"
    nbformat.write(document, lab.folder / name)
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
    )
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(400_000)  # a busy machine may be slow
    notebook = Notebook(page, lab, name)
    notebook.open()
    notebook.run(0)
    page.wait_for_function(
        "document.querySelector('.jp-InputPrompt')?.textContent.match(/\\[\\d+\\]/)"
    )
    page.wait_for_timeout(2000)
    page.evaluate(MEASURE + "undefined;")
    before, load = page_memory(), Load(page, lab)
    notebook.cell(1).locator(".jp-InputArea-editor").click()
    page.wait_for_timeout(500)

    def first():
        page.keyboard.press("Control+Enter")
        ready = "document.querySelector('.g4-attention[data-missing=\"0\"][data-heads]') !== null"
        page.wait_for_function(ready, polling="raf")

    load.of("first", first)
    page.locator(".g4-headmap").scroll_into_view_if_needed()
    page.wait_for_timeout(2500)
    shares = [(0.137 + 0.618 * k) % 1 for k in range(REPEATS)]
    texts = ["harbour", "Trace", "cattle", "no such text", "needle", "582"]
    for name, script, values in (
        ("hover", HOVER, shares),
        ("click", CLICK, shares),
        ("search", SEARCH, texts),
        ("sort", SORT, [None] * REPEATS),
        ("colour", COLOUR, range(REPEATS)),
        ("theme", THEME, ["dark", "light"] * 3),
    ):
        for value in values:
            load.of(name, partial(page.evaluate, script, value))
            page.wait_for_timeout(150)  # what an action leaves behind is not the next one's
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    metrics = {
        m["name"]: m["value"] for m in load.session.send("Performance.getMetrics")["metrics"]
    }
    load.memory = {"memory": page_memory() - before, "heap": metrics["JSHeapUsedSize"] / 1e6}
    page.screenshot(path=lab.folder / f"{path.stem}.png")
    browser.close()
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", nargs="+", type=Path)
    options = parser.parse_args()
    from conftest import Lab
    from playwright.sync_api import sync_playwright

    lab, first = Lab(Path(tempfile.mkdtemp())), None
    lab.start()
    try:
        with sync_playwright() as playwright:
            for path in options.traces:
                load = measure(lab, playwright, path.resolve())
                first = first or load
                print(f"{path.stem}: screenshot {lab.folder / path.stem}.png")
                for name in load.rows:
                    ratio = load.cpu(name) / (first.cpu(name) or 1)
                    print(f"  {name:7}{load.say(name)}, bar {BARS[name]}, {ratio:.2f} of the first")
                told = ", ".join(f"{name} {mb:.0f} MB" for name, mb in load.memory.items())
                print(f"  {told}, bar 300", flush=True)
    finally:
        lab.stop()


if __name__ == "__main__":
    main()
