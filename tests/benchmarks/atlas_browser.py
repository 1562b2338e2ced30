"""The Atlas widget at the shape of 26B-A4B, 30 layers of 128 experts, in a real JupyterLab.

    python tests/benchmarks/atlas_browser.py
    python tests/benchmarks/atlas_browser.py --atlas 26b.g4atlas

The atlas is made here, without a model, in the size that a million tokens of eight labels give: a
vocabulary of 262,144, 256 sampled documents and eight contexts of either sort of each expert.
Prints median, worst and CPU time of the first drawing (from running the cell to map and card), of
the test that names what experts are for (from running the cell), and of every kind of click; the
page's memory above the notebook before, and Python's; a snapshot and a page, their size and time.

Bars: first drawing 1 s, any click 150 ms.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

import numpy as np
import psutil
from browser_load import Load, page_memory
from routing_browser import THEME, TIMED

import gemma4_mlx as g4
from gemma4_mlx.studies.data.contexts import AROUND, KEPT, SORTS
from gemma4_mlx.studies.data.counts import GROUPINGS, UNIT, VOCABULARIES, Subject

LAYERS, E, K, VOCABULARY, TOKENS = 30, 128, 8, 262_144, 1_000_000
LABELS = "chat code html law maths news poetry русский".split()
WORDS = "river court return день 春天 ( ) { } = 42 2026 the said under على void".split()


def real_shape(seed: int = 0):
    """An atlas of counts that a router with favourites for each label would give."""
    rng = np.random.default_rng(seed)
    subject = Subject("26B", tuple(range(LAYERS)), E, K, VOCABULARY)
    atlas = g4.Atlas.empty(subject, LABELS, {"source": "true shape", "fingerprint": "26B"})
    arrays, G = atlas.counts.arrays, len(LABELS)
    logits = rng.normal(0, 0.9, (1, LAYERS, E)) + rng.normal(0, 0.7, (G, LAYERS, E))
    load = np.exp(logits)
    load = np.minimum(load * K / load.sum(axis=-1, keepdims=True), 0.9)
    tokens = np.full(G, TOKENS // G)
    arrays["documents"][:], arrays["tokens"][:] = 900, tokens
    arrays["counts"][:] = rng.poisson(load * tokens[:, None, None])
    counts = atlas.counts.all_counts
    arrays["together"][:] = rng.poisson(counts[:, :, None] * counts[:, None] / TOKENS)
    arrays["paths"][:] = rng.poisson(counts[:-1, :, None] * counts[1:, None] / TOKENS)
    at = np.arange(E)
    arrays["together"][:, at, at] = arrays["normed"][:] = counts
    norms = rng.gamma(4, 2, counts.shape)
    arrays["norms"][:] = counts * norms * UNIT
    arrays["weighted_norms"][:] = counts * norms * UNIT / K
    arrays["largest_norm"][:] = norms * 6
    for by in GROUPINGS:
        share = rng.dirichlet(np.ones(len(arrays[f"{by}_tokens"])))
        arrays[f"{by}_tokens"][:] = share * TOKENS
        arrays[f"{by}_counts"][:] = rng.poisson(counts[:, None] * share[:, None])
    arrays["early"][:] = 1
    often = 1 / np.arange(1, VOCABULARY + 1)
    seen = rng.poisson(rng.permutation(often / often.sum() * TOKENS))
    buckets = np.bincount(subject.bucket(np.arange(VOCABULARY)), seen, subject.buckets)
    for name in VOCABULARIES:
        arrays[f"{name}_seen"][:] = seen
        for i in range(LAYERS):
            expected = (
                counts[i, :, None] / TOKENS * buckets * rng.gamma(0.7, 1.4, (E, len(buckets)))
            )
            arrays[f"{name}_counts"][i] = np.minimum(rng.poisson(expected), buckets)
    there = np.flatnonzero(seen)
    atlas.texts = {int(id): f" {WORDS[id % len(WORDS)]}{id % 97 or ''}" for id in there}
    _fill_samples(atlas, load, rng, there[np.argsort(-seen[there])[:5000]])
    atlas.scale = rng.uniform(0.6, 1.6, (LAYERS, E)).astype(np.float32)
    atlas.promoted, atlas.suppressed = rng.choice(there, (2, LAYERS, E, 10)).astype(np.int32)
    return atlas


def _fill_samples(atlas, load, rng, ids) -> None:
    """Documents of every label, and contexts of every expert; some show one of 40 pictures."""
    documents = atlas.documents.arrays
    for g in range(len(LABELS)):
        n = rng.integers(40, 2000, documents["key"].shape[1])
        taste = rng.gamma(8, 1 / 8, (len(n), LAYERS, E))
        documents["key"][g] = np.sort(rng.integers(0, 2**62, len(n)))
        documents["tokens"][g] = n
        documents["counts"][g] = np.minimum(
            rng.poisson(load[g] * taste * n[:, None, None]), n[:, None, None]
        )
    for key in range(1, 41):
        atlas.contexts.pictures[key] = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    rows = LAYERS * E
    for sort in SORTS:
        fields = atlas.contexts.arrays[sort]
        fields["key"][:] = np.sort(rng.integers(0, 2**62, (rows, KEPT)), axis=1)
        fields["piece"][:] = fields["key"] ^ 7
        fields["position"][:] = rng.integers(0, 2000, (rows, KEPT))
        fields["label"][:] = rng.integers(0, len(LABELS), (rows, KEPT))
        fields["gate"][:] = rng.beta(2, 8, (rows, KEPT))
        fields["ids"][:] = rng.choice(ids, (rows, KEPT, 2 * AROUND + 1))
        some = rng.random((rows, KEPT)) < 0.03
        fields["medium"][some] = rng.integers(1, 41, some.sum())
        fields["box"][some] = (0.25, 0.25, 0.5, 0.5)


HELP = """() => {
  const root = document.querySelector('.g4-atlas'), map = root.querySelector('.g4-loadmap');
  globalThis.point = (type, x, y) => { const b = map.getBoundingClientRect();
    map.dispatchEvent(new PointerEvent(type, { clientX: b.x + x, clientY: b.y + y,
      bubbles: true })); };
  globalThis.set = (label, value) => {
    const s = [...root.querySelectorAll('select, input')].find((n) => n.ariaLabel === label);
    s.value = value; s.dispatchEvent(new Event('change')); };
  globalThis.press = (name) => [...root.querySelectorAll('button')]
    .find((b) => b.textContent === name).click();
  globalThis.said = () => root.querySelector('.g4-readout').textContent;
  globalThis.card = () => root.querySelector('.g4-atlascard h4').textContent;
  globalThis.found = () => root.querySelector('.g4-foundpanel').textContent;
  globalThis.listed = () => root.querySelector('.g4-list tbody').textContent;
  globalThis.enter = (text) => { const s = root.querySelector('.g4-finder .g4-search');
    s.value = text; s.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' })); };
}"""


def measure(page, lab, notebook) -> None:
    """Run the cells and print the figures."""

    def timed(name: str, act: str, what: str) -> None:
        act = f"globalThis.was = {what}; {act}"
        load.of(name, lambda: page.evaluate(TIMED, [act, f"{what} !== was"]))
        page.wait_for_timeout(150)  # what an action leaves behind is not the next one's

    page.locator(".jp-OutputArea-output", has_text="opened").wait_for()
    notebook.cell(1).locator(".jp-InputArea-editor").click()
    page.wait_for_timeout(1500)
    before, load = page_memory(), Load(page, lab)
    kernel = load.kernel.memory_full_info().uss

    def first() -> None:
        page.keyboard.press("Control+Enter")
        ready = "document.querySelector('.g4-atlas .g4-legend') && "
        ready += "document.querySelector('.g4-atlascard .g4-tokenlists')"
        page.wait_for_function(ready, polling="raf")

    begin = time.perf_counter()
    load.of("first", first)
    page.wait_for_function("document.querySelector('.g4-atlas .g4-groupkey')", polling="raf")
    print(
        f"  what experts are for: {time.perf_counter() - begin:.2f} s after the click", flush=True
    )
    page.locator(".g4-loadmap").scroll_into_view_if_needed()
    page.wait_for_timeout(2500)
    page.evaluate(HELP)
    for i in range(8):
        timed("hover", f"point('pointermove', {120 + 37 * i}, {9 + 13 * i})", "said()")
        timed("card", f"point('click', {121 + 37 * i}, {9 + 26 * i})", "card()")
    for word in ("42", "court", "void return", "の"):
        timed("search", f"enter('{word}')", "found()")
    for kind in ("numbers", "punctuation", "Cyrillic", "Han"):
        timed("kind", f"set('Find the experts of a kind of tokens', '{kind}')", "found()")
    for by in ("by tokens", "by labels", "by tokens", "by labels"):
        timed("alike", f"press('{by}')", "found()")
    for view in ("Lift", "Load", "Compare", "What for"):
        timed("colour", f"press('{view}')", "listed() + said()")
    page.evaluate("() => press('Compare')")
    for group in (2, 3, 4, 5):
        timed("compare", f"set('for', {group})", "found()")
    for measure_ in ("norm", "reap", "largest", "scale"):
        timed("measure", f"set('or', '{measure_}')", "listed()")
    page.evaluate("() => press('What for')")
    for above in (1.5, 3, 2.5, 4):
        timed("filter", f"set('Least lift', {above})", "listed()")
    for order in ("load", "number", "lift", "purpose"):
        act = f"set('Order', '{order}')"
        load.of("order", lambda act=act: page.evaluate(TIMED, [act, "true"]))
        page.wait_for_timeout(150)
    for _ in range(4):
        load.of("theme", lambda: page.evaluate(THEME, ".g4-atlas"))
        page.wait_for_timeout(500)
    for name in load.rows:
        print(f"  {name:8}{load.say(name)}")
    page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
    page.wait_for_timeout(500)
    spent = (load.kernel.memory_full_info().uss - kernel) / 1e6
    print(f"  page {page_memory() - before:.0f} MB above the notebook, Python {spent:.0f} MB")


def browse(path: Path) -> None:
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
            code = "import gemma4_mlx as g4\nfrom gemma4_mlx.widgets import Atlas\n"
            code += f"atlas = g4.open_atlas({str(path)!r})\nprint('opened')"
            cells = [nbformat.v4.new_code_cell(c) for c in (code, "Atlas(atlas)")]
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
            nbformat.write(document, lab.folder / "atlas.ipynb")
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.set_default_timeout(400_000)  # a busy machine may be slow
            notebook = Notebook(page, lab, "atlas.ipynb")
            notebook.open()
            notebook.run(0)
            measure(page, lab, notebook)
            page.screenshot(path=lab.folder / "atlas.png")
            print(f"  screenshot {lab.folder / 'atlas.png'}")
            browser.close()
    finally:
        lab.stop()


def keep(path: Path, folder: Path) -> None:
    """A snapshot and a page: size and time."""
    atlas = g4.open_atlas(path)
    begin = time.perf_counter()
    size = len(g4.widgets.Atlas(atlas).snapshot().page.encode())
    print(f"  snapshot {size / 1e6:.2f} MB in {time.perf_counter() - begin:.1f} s")
    begin = time.perf_counter()
    size = atlas.to_html(folder / "page.html").stat().st_size
    print(f"  page {size / 1e6:.2f} MB in {time.perf_counter() - begin:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--atlas", type=Path, help="a .g4atlas file in place of the made one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    path = options.atlas or real_shape().save(folder / "made.g4atlas")
    print(f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB; load {psutil.getloadavg()[0]:.1f}")
    browse(path.resolve())
    keep(path, folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
