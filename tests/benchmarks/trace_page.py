"""The page of ``trace.to_html`` and the widgets' snapshots at the shapes of released models.

    python tests/benchmarks/trace_page.py 26B-8K.g4trace 31B-8K.g4trace 31B-128K.g4trace

Traces come from ``tests/true_shapes.py``. Printed for each: megabytes of the page (bar: 10) and of
each snapshot (3), CPU seconds to write them, the peak of Python's memory meanwhile above the trace
(300 MB), and milliseconds from asking for the page to all heads, the first map and the text drawn
in Chromium, Firefox and WebKitGTK, where they are installed (3,000; median of three, after one to
start the browser), with the CPU milliseconds of all the browser's processes meanwhile, which a busy
machine does not stretch, and the ratio of these to an empty page that holds as much in a comment.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

DRAWN = """
const attention = document.querySelector(".g4-attention"), routing = document.querySelector(".g4-routing");
return document.readyState === "complete" && document.querySelector(".g4-word") !== null
  && (!attention || (attention.dataset.missing === "0" && attention.dataset.heads === "true"))
  && (!routing || routing.querySelector(".g4-groupkeys button") !== null)
  ? performance.now() : 0;"""  # noqa: E501


def write(path: Path, folder: Path) -> Path:
    """The page of a trace; prints what it and the snapshots weigh."""
    import gemma4_mlx as g4
    from gemma4_mlx.widgets import Attention, Routing

    trace, page = g4.open_trace(path), folder / f"{path.stem}.html"
    jobs = {"to_html": lambda: trace.to_html(page).stat().st_size}
    if trace.attention is not None:
        jobs["Attention"] = lambda: len(Attention(trace).snapshot().page.encode())
    if trace.routing is not None:
        jobs["Routing"] = lambda: len(Routing(trace).snapshot().page.encode())
    print(f"{path.stem}: {len(trace):,} tokens")
    for name, work in jobs.items():
        tracemalloc.start()
        begin = time.process_time()
        size = work()
        spent, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"  {name:10} {size / 1e6:5.2f} MB, {spent:5.1f} CPU s, peak {peak / 1e6:4.0f} MB")
    return page


class chromium:
    """Playwright's Chromium with the few methods of WebDriver that are used here."""

    def __init__(self, display):
        import shutil

        from playwright.sync_api import sync_playwright

        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        self.page = self.browser.new_page(viewport={"width": 1280, "height": 900})
        self.get = self.page.goto

    def execute_script(self, script):
        return self.page.evaluate(f"() => {{ {script} }}")

    def save_screenshot(self, path):
        self.page.screenshot(path=path)

    def set_page_load_timeout(self, seconds):
        self.page.set_default_timeout(1000 * seconds)

    def quit(self):
        self.browser.close()
        self.playwright.stop()


def opened(driver, page: Path, done: str) -> tuple[float, float]:
    """Milliseconds from asking for a page until the script ``done`` gives the page's clock: by that
    clock, and of CPU time."""
    before = cpu_of_browsers()
    driver.get(page.as_uri())
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if found := driver.execute_script(done):
            return float(found), cpu_of_browsers() - before
        time.sleep(0.05)
    raise TimeoutError(page)


def cpu_of_browsers() -> float:
    """CPU milliseconds of everything that this process has started, the screen apart."""
    import psutil

    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() not in ("Xvfb", "node"):
                spent += sum(process.cpu_times()[:2])
        except psutil.Error:  # it has ended meanwhile
            continue
    return 1000 * spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument("--no-browsers", action="store_true")
    options = parser.parse_args()
    pages = [write(path.resolve(), options.out) for path in options.traces]
    if options.no_browsers:
        return
    from test_other_browsers import firefox, webkit

    read, made = os.pipe()
    screen = ["Xvfb", "-displayfd", str(made), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(screen, pass_fds=[made], stderr=subprocess.DEVNULL)
    os.close(made)
    display = f":{os.read(read, 20).decode().strip()}"
    blank = options.out / "blank.html"
    try:
        for start in (chromium, firefox, webkit):
            try:
                driver = start(display)
            except BaseException as absent:  # pytest's skip is no Exception
                if isinstance(absent, KeyboardInterrupt):
                    raise
                print(f"{start.__name__}: not here ({type(absent).__name__}: {absent})"[:200])
                continue
            driver.set_page_load_timeout(180)
            opened(driver, pages[0], DRAWN)
            for page in pages:
                text = "x" * page.stat().st_size
                blank.write_text(f"<!doctype html><title>x</title><!-- {text} -->")
                empty = [opened(driver, blank, "return performance.now()") for _ in range(3)]
                times = [opened(driver, page, DRAWN) for _ in range(3)]
                (clock, cpu), (_, least) = (
                    [statistics.median(values) for values in zip(*each)] for each in (times, empty)
                )
                print(
                    f"{start.__name__} {page.stem}: {clock:,.0f} ms (at most "
                    f"{max(times)[0]:,.0f}), CPU {cpu:,.0f} ms, {cpu / least:.1f} times that of an "
                    "empty page as large",
                    flush=True,
                )
                driver.save_screenshot(str(options.out / f"{page.stem}-{start.__name__}.png"))
            driver.quit()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
