"""The suite on every core of the machine; a file, or what ``-k`` picks, in one process.

``pytest``, and ``pytest FOLDER...``, start a worker of pytest-xdist per core. A file goes to one
worker, so that what its tests share is made once, and all of ``tests/browser`` goes to one, which
has the run's only JupyterLab and Chromium; it begins first, for it takes longest. Whoever names a
file, marks (``-m slow``) or words, or asks for a debugger or the tests' own output, gets one
process and sees a result seconds earlier. ``-n 0`` is one process for everything, ``-n 4`` is four.
"""

import os

import pytest

#: Tests of a folder that share servers: one worker runs all of them.
TOGETHER = ("tests/browser/",)


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which makes workers of the number
def pytest_cmdline_main(config):
    if not config.pluginmanager.hasplugin("xdist") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if config.option.numprocesses is None and not config.option.tx and of_many(config):
        config.option.numprocesses = os.cpu_count()
        # The products are small: workers with a thread per core each would wait for each other.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def of_many(config) -> bool:
    """Whether the run is one of many tests whose results alone are of interest."""
    picked = any(config.getoption(name, False) for name in ("keyword", "lf", "stepwise"))
    looks = any(config.getoption(name, False) for name in ("usepdb", "trace", "collectonly"))
    if picked or looks or config.option.capture == "no":
        return False
    folders = all((config.invocation_params.dir / name).is_dir() for name in config.args)
    return folders and config.option.markexpr.startswith("not ")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.option.dist != "load":  # somebody chose another
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # keep the order of the next function
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))
