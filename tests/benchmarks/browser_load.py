"""CPU time of an action in the browser, beside the clock, which a shared machine stretches.

That of the page's main thread (Chromium's ``TaskDuration`` in thread ticks), of the kernel's
process, and of all of Chromium, which draws in other threads and processes. Where nothing waits,
the clock of an idle machine shows page and kernel together, and a frame or two.
"""

import statistics
import time

import psutil


class Load:
    """``with load.of("click"): ...`` adds one measurement; ``load.rows`` has them all.

    ``page`` is Playwright's, its Chromium a child of this process; ``lab`` the server whose newest
    kernel is measured, None where there is none.
    """

    def __init__(self, page, lab=None):
        self.session = page.context.new_cdp_session(page)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.kernel, self.rows = None, {}
        made = psutil.Process().children(recursive=True)
        self.chromium = [p for p in made if "--type=" in " ".join(p.cmdline())]
        if lab is not None:
            made = psutil.Process(lab.process.pid).children(recursive=True)
            kernels = [p for p in made if "ipykernel_launcher" in " ".join(p.cmdline())]
            self.kernel = max(kernels, key=lambda p: p.create_time(), default=None)

    def now(self) -> dict[str, float]:
        """Milliseconds spent so far: "page" (its main thread), "chromium" and "kernel"."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        page = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
        return {
            "page": 1000 * page,
            "chromium": sum(_spent(process) for process in self.chromium),
            "kernel": _spent(self.kernel) if self.kernel else 0.0,
        }

    def of(self, name: str, act):
        """Run ``act``, whose value is the clock's milliseconds (None: measured around it)."""
        before, begin = self.now(), time.perf_counter()
        wall = act()
        wall = 1000 * (time.perf_counter() - begin) if wall is None else wall
        spent = {key: value - before[key] for key, value in self.now().items()}
        self.rows.setdefault(name, []).append({"wall": wall, **spent})
        return wall

    def median(self, name: str, key: str) -> float:
        return statistics.median(row[key] for row in self.rows[name])

    def cpu(self, name: str) -> float:
        """CPU milliseconds of an action, page's main thread and kernel together, median."""
        return statistics.median(row["page"] + row["kernel"] for row in self.rows[name])

    def say(self, name: str) -> str:
        """``wall (worst) · CPU page + kernel`` of an action, medians in ms."""
        worst = max(row["wall"] for row in self.rows[name])
        wall, *cpu = (self.median(name, key) for key in ("wall", "page", "kernel", "chromium"))
        spent = "CPU page {:4.0f} + kernel {:4.0f}, Chromium {:5.0f}".format(*cpu)
        return f"{wall:6.0f} ms, {worst:5.0f} worst; {spent}"


def _spent(process) -> float:
    """CPU milliseconds of a process that may have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return 1000 * (times.user + times.system)


def page_memory() -> float:
    """MB of the renderer processes' own memory, the largest of them."""
    found = [0.0]
    for process in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in " ".join(process.cmdline()):
                found.append(process.memory_full_info().uss / 1e6)
        except psutil.Error:  # it has ended meanwhile
            continue
    return max(found)
