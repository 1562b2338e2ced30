"""The Routing widget at the shape of 26B-A4B, 30 layers of 128 experts, in a real JupyterLab.

    python tests/benchmarks/routing_browser.py --tokens 8153 32768 131072
    python tests/benchmarks/routing_browser.py --trace moby-dick.g4trace
    python tests/benchmarks/routing_browser.py --tokens 131072 --snapshot     # no browser

Routing is made here, without a model: text in four scripts, code and a picture, each with favourite
experts. Prints median, worst and CPU time of the first drawing (from running the cell), of hover,
click, search and sort, of JupyterLab's change of theme (from the widget's change to the last
canvas; "without": before there is a widget), of the comparison with a second trace of the same
length and of a click meanwhile; and the page's memory above the notebook before the widget was
shown. ``--snapshot`` prints the size of a snapshot, the time it takes and the memory that Python
needs for it above the opened trace.

Bars: 2 s, 150 ms, 500 ms, 5 s, 300 MB; a snapshot 3 MB, 300 MB.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

import numpy as np
from browser_load import Load, page_memory

import gemma4_mlx as g4
from gemma4_mlx.tracing import RoutingData, Tokens, Trace

LAYERS, E, K = 30, 128, 8
TEXTS = [
    " the river had been rising for three days before anyone thought to move the cattle .\n",
    " поезд отправлялся утром , и на перроне никого не было .\n",
    "春天来了河边的柳树发出了嫩芽。\n",
    " كانت المدينة القديمة تستيقظ على صوت الباعة\n",
    "```python\ndef f ( x ) :\n    return x + 1\n```\n",
]

#: Seconds that an action takes until `done()` holds after the next drawn frame.
TIMED = """async ([act, done]) => {
  const begin = performance.now();
  (0, eval)(act);
  for (;;) {
    await new Promise(requestAnimationFrame);
    await new Promise((go) => setTimeout(go));
    if ((0, eval)(done)) return performance.now() - begin;
    if (performance.now() - begin > 30000) return NaN;
  }
}"""

#: From the moment a node knows the theme (the page, or the widget) until the canvases are drawn.
THEME = """(node) => new Promise((tell) => {
  new MutationObserver(async (_, self) => {
    self.disconnect();
    const begin = performance.now();
    for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
    await new Promise((go) => setTimeout(go));
    tell(performance.now() - begin);
  }).observe(document.querySelector(node),
    { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] });
  const dark = document.body.dataset.jpThemeLight === "false";
  window.jupyterapp.commands.execute("apputils:change-theme",
    { theme: dark ? "JupyterLab Light" : "JupyterLab Dark" });
})"""


def true_shape(n: int, seed: int = 0) -> Trace:
    """A trace of ``n`` tokens whose experts prefer scripts, code or pictures."""
    rng = np.random.default_rng(seed)
    texts, section, kinds = ["<bos>"], [0], [4]
    for _ in range(280):
        texts.append("<|image|>"), section.append(1), kinds.append(1)
    while len(texts) < n:
        which = int(rng.integers(len(TEXTS)))
        pieces = TEXTS[which].replace("\n", "\n\0").replace(" ", "\0 ").split("\0")
        if which == 2:
            pieces = list(TEXTS[which])
        for piece in filter(None, pieces):
            texts.append(piece), section.append(2 + which), kinds.append(0)
    texts, section, kinds = texts[:n], np.array(section[:n]), np.array(kinds[:n], np.uint8)
    ids = np.unique(texts, return_inverse=True)[1]
    media = np.where(kinds == 1, 0, -1).astype(np.int16)
    tokens = Tokens(ids, texts, kinds, ["user"] * n, media=media, media_labels=["picture"])
    experts = np.zeros((LAYERS, n, K), np.uint8)
    weights = np.zeros((LAYERS, n, K), np.float32)
    for layer in range(LAYERS):
        base = rng.normal(0, 0.9, E)
        base[rng.choice(E, 3, replace=False)] -= 40
        logits = (base + rng.normal(0, 1.3, (8, E)))[section] + rng.normal(0, 0.8, (n, E))
        best = np.argpartition(-logits, K, axis=1)[:, :K]
        values = np.take_along_axis(logits, best, 1)
        order = np.argsort(-values, axis=1)
        values = np.exp(np.take_along_axis(values, order, 1))
        experts[layer] = np.take_along_axis(best, order, 1)
        weights[layer] = values / values.sum(axis=1, keepdims=True)
    routing = RoutingData(range(LAYERS), experts, weights, E, tokens)
    return Trace(tokens, routing=routing, model={"source": "true shape", "fingerprint": "26B"})


def measure(page, lab, notebook, other: Path | None) -> None:
    """Run the cells and print the figures of one trace."""

    def timed(name: str, act: str, done: str) -> None:
        load.of(name, lambda: page.evaluate(TIMED, [act, done]))
        page.wait_for_timeout(150)  # what an action leaves behind is not the next one's

    page.locator(".jp-OutputArea-output", has_text="opened").wait_for()
    notebook.cell(1).locator(".jp-InputArea-editor").click()
    page.wait_for_timeout(1500)
    before, load = page_memory(), Load(page, lab)
    for _ in range(4):
        load.of("without", lambda: page.evaluate(THEME, "body"))
        page.wait_for_timeout(500)
    painted = "[...document.querySelectorAll('.g4-word')].some((n) => n.style.backgroundColor)"

    def first() -> None:
        page.keyboard.press("Control+Enter")
        ready = f"document.querySelector('.g4-groupkey') && {painted}"
        page.wait_for_function(ready, polling="raf")

    load.of("first", first)
    page.locator(".g4-loadmap").scroll_into_view_if_needed()
    page.wait_for_timeout(2500)
    page.evaluate(
        """() => { const c = document.querySelector('.g4-loadmap');
        globalThis.point = (type, x, y) => { const b = c.getBoundingClientRect();
          c.dispatchEvent(new PointerEvent(type, { clientX: b.x + x, clientY: b.y + y,
            bubbles: true })); };
        globalThis.select = (label, value) => { const s = document.querySelector(
          `.g4-routing select[aria-label="${label}"]`); s.value = value;
          s.dispatchEvent(new Event('change')); };
        globalThis.said = () => document.querySelector('.g4-readout').textContent; }"""
    )
    title = "document.querySelector('.g4-card2 h4')?.textContent"
    for i in range(8):
        act = f"globalThis.was = said(); point('pointermove', {120 + 37 * i}, {9 + 13 * i})"
        timed("hover", act, "said() !== was")
        act = f"globalThis.was = {title}; point('click', {121 + 37 * i}, {9 + 26 * i})"
        timed("click", act, f"{title} !== was")
    for order in ("load", "number", "lift", "purpose"):
        timed("sort", f"select('Order', '{order}')", "true")
    enter = (
        "globalThis.box = document.querySelector('.g4-routing .g4-search'); box.value = '%s';"
        "box.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }))"
    )
    told = "/ of [0-9]|not found/.test("
    told += "document.querySelector('.g4-tokenview [role=status]').textContent)"
    for word in ("return", "nowhere at all"):
        timed("search", enter % word, told)
    for _ in range(4):
        load.of("theme", lambda: page.evaluate(THEME, ".g4-routing"))
        page.wait_for_timeout(500)
    for name in load.rows:
        print(f"  {name:7}{load.say(name)}")
    page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
    page.wait_for_timeout(500)
    print(
        f"  page memory {page_memory() - before:.0f} MB above the notebook without it", flush=True
    )
    if other is not None:
        page.locator(".g4-routing [data-value='b-a']").click()

        def compare() -> None:
            page.locator("progress").wait_for()
            timed(
                "meanwhile",
                f"globalThis.was = {title}; point('click', 300, 100)",
                f"{title} !== was",
            )
            page.get_by_role("table", name="Difference of routing", exact=True).wait_for()

        load.of("compare", compare)
        print(f"  compare{load.say('compare')}\n  a click{load.say('meanwhile')}", flush=True)


def browse(paths: list[tuple[str, Path, Path | None]]) -> None:
    import nbformat
    from conftest import Lab, Notebook
    from playwright.sync_api import sync_playwright

    lab = Lab(Path(tempfile.mkdtemp()))
    lab.start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, path, other in paths:
                code = f"import gemma4_mlx as g4\na = g4.open_trace({str(path)!r})\n"
                second = f"g4.open_trace({str(other)!r})" if other else "None"
                code += f"b = {second}\nfrom gemma4_mlx.widgets import Routing\nprint('opened')"
                cells = [nbformat.v4.new_code_cell(c) for c in (code, "Routing(a, b)")]
                kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
                document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
                nbformat.write(document, lab.folder / f"{name}.ipynb")
                page = browser.new_page(viewport={"width": 1280, "height": 720})
                page.set_default_timeout(400_000)  # a busy machine may be slow
                notebook = Notebook(page, lab, f"{name}.ipynb")
                notebook.open()
                notebook.run(0)
                print(f"{name}:", flush=True)
                measure(page, lab, notebook, other)
                page.close()
            browser.close()
    finally:
        lab.stop()


def snapshot_of(path: Path) -> None:
    """Size and cost of a snapshot, in a process of its own: called by ``--snapshot``."""
    view = g4.widgets.Routing(g4.open_trace(path))
    view.trace.routing.experts.sum(), view.trace.routing.weights.sum()  # read from the file
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    snapshot = view.snapshot()
    size, took = len(snapshot.page.encode()), time.perf_counter() - begin
    image = len(snapshot.png())
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"  snapshot {size / 1e6:.2f} MB in {took:.1f} s, picture {image / 1e6:.2f} MB", end="")
    print(f", Python {peak:.0f} MB above the trace", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[8153])
    parser.add_argument("--trace", type=Path, nargs="*", default=[])
    parser.add_argument("--snapshot", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        snapshot_of(options.one)
        return
    folder, paths = Path(tempfile.mkdtemp()), [(p.stem, p.resolve(), None) for p in options.trace]
    for n in options.tokens if not options.trace else []:
        made = [true_shape(n, seed).save(folder / f"{n}-{seed}.g4trace") for seed in (0, 1)]
        paths.append((f"{n} tokens", *made))
    if not options.snapshot:
        browse(paths)
    for name, path, _ in paths if options.snapshot else []:
        print(f"{name}:", flush=True)
        subprocess.run([sys.executable, __file__, "--one", path], check=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
