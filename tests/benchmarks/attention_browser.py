"""Scrolling and tiles of the Attention widget over a long context, in a real JupyterLab.

    python tests/benchmarks/attention_browser.py --tokens 8192            # the teaching model
    python tests/benchmarks/attention_browser.py --tokens 131072 --vectors random
    python tests/benchmarks/attention_browser.py --trace moby-dick.g4trace

``--vectors random`` takes random queries and keys of the teaching model's shapes (one full and one
sliding layer, one head) in place of a traced prompt: the browser and the tiles do the same work,
and 131,072 tokens need one pass over one head rather than the whole model's.

Prints frames per second while the map is dragged and zoomed, the time from the last movement to
the first and to the last new tile, how long a tile takes in Python alone, and the page's memory.
Bars: 30 frames a second, a tile within 150 ms, 300 MB.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

import numpy as np

import gemma4_mlx as g4
from gemma4_mlx.tracing import AttentionData, LayerAttention, Tokens, Trace
from gemma4_mlx.widgets.attention import TILE, Attention

DIM, WINDOW, BINS = 64, 64, 256

DRAG = """async (seconds) => {
  const canvas = document.querySelector(".g4-map"), box = canvas.getBoundingClientRect();
  const at = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type,
    { clientX: box.x + x, clientY: box.y + y, pointerId: 1, bubbles: true }));
  canvas.setPointerCapture = () => {};
  const frames = [], begin = performance.now();
  let last = begin, k = 0;
  at("pointerdown", 300, 300);
  while (performance.now() - begin < 1000 * seconds) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last); last = now;
    at("pointermove", 300 - 150 * Math.sin(k / 20), 300 - 150 * Math.sin(k / 20)); k++;
  }
  at("pointerup", 300, 300);
  return frames.slice(1);
}"""

SETTLE = """async (key) => {
  const root = document.querySelector(".g4-attention");
  const press = new KeyboardEvent("keydown", { key, bubbles: true });
  document.querySelector(".g4-map").dispatchEvent(press);
  const begin = performance.now();
  let wanted = 0, first = null;
  for (let frame = 0; ; frame++) {
    await new Promise(requestAnimationFrame);
    const missing = Number(root.dataset.missing), now = performance.now() - begin;
    if (first === null && missing < wanted) first = now;
    wanted = Math.max(wanted, missing);
    if (missing === 0 && (wanted > 0 || frame > 8)) return { wanted, first, all: now };
    if (now > 20000) return { wanted, first: first ?? now, all: now };
  }
}"""


def random_trace(n: int, seed: int = 0) -> Trace:
    """Exact attention of random vectors: layer 0 sliding, layer 1 full, one head each."""
    rng = np.random.default_rng(seed)
    width = -(-n // BINS)
    layers = []
    for layer, window in ((0, WINDOW), (1, None)):
        q = rng.normal(size=(1, n, DIM)).astype(np.float32) * 0.6
        k = rng.normal(size=(1, n, DIM)).astype(np.float32)
        bins = -(-n // width)
        normaliser = np.empty((1, n), np.float32)
        mass, peak = np.zeros((2, 1, bins, bins), np.float32)
        for start in range(0, n, 256):
            stop = min(n, start + 256)
            low = 0 if window is None else max(0, start - window) // width * width
            w = q[0, start:stop] @ k[0, low:stop].T
            i, j = np.arange(start, stop)[:, None], np.arange(low, stop)[None]
            if window is None:  # only the last square has a future to hide
                w[:, start - low :][j[:, start - low :] > i] = -1e30
            else:
                w[(j > i) | (j <= i - window)] = -1e30
            top = w.max(1, keepdims=True)
            w -= top
            np.exp(w, out=w)
            total = w.sum(1, keepdims=True)
            normaliser[0, start:stop] = (top + np.log(total))[:, 0]
            w *= 1 / total
            columns = np.arange(0, stop - low, width)
            where = slice(low // width, low // width + len(columns))
            for row in range(start // width, (stop - 1) // width + 1):
                part = w[max(0, row * width - start) : (row + 1) * width - start]
                mass[0, row, where] += np.add.reduceat(part.sum(0), columns)
                best = np.maximum.reduceat(part.max(0), columns)
                peak[0, row, where] = np.maximum(peak[0, row, where], best)
        kind = "full_attention" if window is None else "sliding_attention"
        layers.append(
            LayerAttention(
                layer=layer,
                type=kind,
                window=window,
                donor=layer,
                heads=(0,),
                all_heads=1,
                kv_heads=1,
                normaliser=normaliser,
                mass=mass,
                peak=peak,
                queries=q,
                keys=k,
            )
        )
    words = [f" w{i}" for i in rng.integers(0, 2000, n)]
    tokens = Tokens(rng.integers(0, 2000, n), words)
    return Trace(
        tokens, attention=AttentionData(n, width, layers), model={"source": "random vectors"}
    )


def teaching_trace(n: int) -> Trace:
    model = g4.load()
    ids = [2, *np.random.default_rng(0).integers(300, 1900, n - 1).tolist()]
    plan = g4.AttentionPlan(layers=(0, 2), retain="all", bins=BINS)
    return g4.trace(model, ids, routing=None, attention=plan)


def tile_times(trace: Trace, repeats: int = 3) -> None:
    """Milliseconds of a tile in Python, by zoom level, in the middle of the context."""
    view, n = Attention(trace), len(trace)
    full = next(f["index"] for f in view.meta["layers"] if f["kind"] == "full")
    print("level  tokens/cell  weights      ms  CPU ms   (tile in Python, below the diagonal)")
    for level in range(0, max(1, int(np.ceil(np.log2(n / TILE)))) + 1):
        row = n // 2 // (TILE << level)
        times = []
        for _ in range(repeats):
            begin, cpu = time.perf_counter(), time.process_time()
            content, _ = view.answer_tile(full, 0, level, row, max(0, row - 1))
            times.append((time.perf_counter() - begin, time.process_time() - cpu))
        size = min(n, TILE << level)
        wall, cpu = (1000 * min(t) for t in zip(*times))
        cell = content["rowCell"]
        print(f"{level:5}  {cell:11g}  {size * size:9.2g}  {wall:6.1f}  {cpu:6.1f}", flush=True)


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of browser, server and kernel so far; on a busy machine these say more than the
    clock, which counts the time that other work took as well."""
    import psutil

    found = {"browser": 0.0, "server": 0.0, "kernel": 0.0}
    for process in psutil.Process().children(recursive=True):
        try:
            name, command = process.name(), " ".join(process.cmdline())
            times = process.cpu_times()
        except psutil.Error:  # it has ended meanwhile
            continue
        kinds = {"browser": "chrom" in name, "kernel": "ipykernel" in command}
        kinds["server"] = "jupyterlab" in command
        kind = next((k for k, it_is in kinds.items() if it_is), None)
        if kind is not None:
            found[kind] += times.user + times.system
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vectors", choices=("teaching", "random"), default="teaching")
    parser.add_argument("--trace", default=None)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    from conftest import Lab
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp())
    begin = time.perf_counter()
    if options.trace:
        path = Path(options.trace).resolve()
        trace = g4.open_trace(path)
    else:
        make = random_trace if options.vectors == "random" else teaching_trace
        trace = make(options.tokens)
        path = trace.save(folder / "long.g4trace")
        made, size = time.perf_counter() - begin, path.stat().st_size / 1e6
        print(f"traced {len(trace):,} tokens in {made:.0f} s, file of {size:.0f} MB", flush=True)
    tile_times(trace)
    lab = Lab(folder)
    lab.start()
    try:
        with sync_playwright() as playwright:
            run(lab, playwright, path, options.seconds)
    finally:
        lab.stop()


def run(lab, playwright, path: Path, seconds: float) -> None:
    import shutil

    import nbformat
    from conftest import Notebook

    code = (
        "import gemma4_mlx as g4\nfrom gemma4_mlx.widgets import Attention\n"
        f"trace = g4.open_trace({str(path)!r})\n"
        "view = Attention(trace)\n"
        "layer = next(f['index'] for f in view.meta['layers'] if f['kind'] == 'full')\n"
        "trace.selection.update(layer=layer, head=0, token=len(trace) // 2)\nview"
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": kernel}
    )
    nbformat.write(document, lab.folder / "long.ipynb")
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
    )
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.set_default_timeout(120_000)
    notebook = Notebook(page, lab, "long.ipynb")
    notebook.open()
    begin = time.perf_counter()
    notebook.run_all()
    page.locator('.g4-attention[data-missing="0"]').wait_for()
    print(f"first whole-context map {time.perf_counter() - begin:.1f} s after running the cell")
    page.locator(".g4-map").scroll_into_view_if_needed()
    page.locator(".g4-map").focus()
    for title, keys in (("whole context", 0), ("zoomed in 16 times", 4), ("single tokens", 9)):
        for _ in range(keys):
            page.evaluate(SETTLE, "+")
        used = cpu_seconds()["browser"]
        frames = page.evaluate(DRAG, seconds)
        used = 1000 * (cpu_seconds()["browser"] - used) / len(frames)
        rate = 1000 / statistics.mean(frames)
        slow = sorted(frames)[int(0.95 * len(frames))]
        print(
            f"dragging, {title}: {rate:.0f} frames/s, 95% of frames within {slow:.0f} ms, "
            f"{used:.0f} ms of CPU a frame (all of the browser's processes)",
            flush=True,
        )
        page.evaluate(SETTLE, "PageDown")
    # another statistic: no tile of it is there yet
    page.evaluate(SETTLE, "0")
    page.evaluate(SETTLE, "Escape")  # zoom about the selected token, not about the cursor
    page.locator('.g4-attention button[data-value="max"]').click()
    page.wait_for_timeout(300)
    page.locator('.g4-attention[data-missing="0"]').wait_for()
    settled, used = [], cpu_seconds()
    for key in [*["+"] * 12, *["PageDown"] * 4]:
        settled.append(page.evaluate(SETTLE, key))
        shown = page.locator(".g4-mapfoot .g4-chip").inner_text()
        print(f"  {key}: {settled[-1]['wanted']} tiles, {settled[-1]['all']:.0f} ms, {shown}")
    used = {k: 1000 * (v - used[k]) / len(settled) for k, v in cpu_seconds().items()}
    print("CPU ms a movement:", ", ".join(f"{k} {v:.0f}" for k, v in used.items()))
    settled = [s for s in settled if s["wanted"]]
    first = sorted(s["first"] for s in settled)
    everything = sorted(s["all"] for s in settled)
    if settled:
        print(
            f"after {len(settled)} movements that needed tiles: first new tile "
            f"{statistics.median(first):.0f} ms (median), {first[-1]:.0f} ms (worst); all tiles "
            f"{statistics.median(everything):.0f} ms, {everything[-1]:.0f} ms"
        )
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    print(f"JavaScript heap of the whole page {metrics['JSHeapUsedSize'] / 1e6:.0f} MB")
    browser.close()


if __name__ == "__main__":
    main()
