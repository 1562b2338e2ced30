"""Fixtures that several rooms' tests share."""

import hashlib
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import gemma4_mlx  # (loads OpenBLAS before anything imports mlx.core)

HERE = Path(__file__).parent
pytest_plugins = ("as_gpu", "cores")

# The same examples in every run, however long a busy machine takes for them. Others are tried by
# ``--hypothesis-profile default``, and by ``python tests/fuzz``.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.fixture(scope="session")
def reference_dir():
    """The released models' own configuration files and chat templates, where they are at hand."""
    folder = HERE.parent.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("the released models' configuration files are not beside this checkout")
    return folder


@pytest.fixture
def ctrl_c():
    """Interrupts reach this process, as they do one that was started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def checkpoint():
    """``checkpoint(name)``: a folder that transformers saved and its reference arrays.

    All are made at once, in a process of its own, by the first who asks for one, and kept in the
    temporary directory from one run to the next.
    """
    script = HERE / "reference.py"
    try:
        key = script.read_bytes() + version("transformers").encode() + version("torch").encode()
    except PackageNotFoundError as missing:
        pytest.skip(f"the numerical reference needs {missing.name}")
    root = Path(tempfile.gettempdir()) / f"gemma4-references-{hashlib.sha256(key).hexdigest()[:12]}"

    def get(name):
        folder = root / name
        if not folder.exists():
            from filelock import FileLock

            with FileLock(f"{root}.lock"):  # another worker may be about it
                if not root.exists():
                    made = tempfile.mkdtemp(dir=root.parent)
                    run = subprocess.run(
                        [sys.executable, str(script), made], capture_output=True, text=True
                    )
                    assert run.returncode == 0, run.stderr[-3000:]
                    Path(made).rename(root)
        with np.load(folder / "reference.npz") as arrays:
            return SimpleNamespace(folder=folder, **dict(arrays))

    return get


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """``loaded(name)``: the model of a checkpoint, the same one at every call."""
    models = {}

    def get(name):
        if name not in models:
            models[name] = gemma4_mlx.load(checkpoint(name).folder)
        return models[name]

    return get
