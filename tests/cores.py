"""The whole suite on every core of the machine; whoever asks for less gets it in one process.

``pytest`` alone starts a worker of pytest-xdist per core. A file goes to one worker, so that what
its tests share is made once, and all of ``tests/browser`` goes to one, which has the run's only
JupyterLab and Chromium and begins first, for it takes longest. With files, folders, words (``-k``)
or marks (``-m slow``), for a debugger or to see what is printed (``-s``), one process is quicker
to answer. ``-n 0`` is one process for everything, ``-n 4`` is four.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

#: One worker runs all of these folders' tests, for they share servers ...
TOGETHER = ("tests/browser/",)
#: ... and any worker any test of these files, for they share nothing.
APART = ("tests/test_notebooks.py",)


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which makes workers of the number
def pytest_cmdline_main(config):
    if not config.pluginmanager.hasplugin("xdist") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if config.option.numprocesses is None and not config.option.tx and _everything(config):
        config.option.numprocesses = os.cpu_count()
        # The products are small: workers with a thread per core each would wait for each other.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure():
    """A folder for each worker's compiled kernels, kept from one run to the next.

    MLX's CPU backend has g++ write them where any other process of the machine looks for them, so
    that one worker could load what another's compiler has half written.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and sys.platform == "linux":
        kernels = Path(tempfile.gettempdir(), f"gemma4-mlx-tests-{worker}")
        kernels.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(kernels)  # MLX's; Python has just settled on its own


def _everything(config) -> bool:
    """Whether the run is of all that ``pytest`` alone runs, and only its results are asked for."""
    less = ("keyword", "lf", "stepwise", "usepdb", "trace", "collectonly", "deselect")
    if any(config.getoption(name, None) for name in less) or config.option.capture == "no":
        return False
    marked = any(given.startswith("-m") for given in config.invocation_params.args)
    return config.args_source is config.ArgsSource.TESTPATHS and not marked


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.option.dist != "load":  # somebody chose another
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith(APART):
                return nodeid
            file = nodeid.partition("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # the order is the next function's
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))
