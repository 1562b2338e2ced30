"""What ``gemma4-mlx check`` and ``gemma4-mlx fit`` print."""

import platform
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from .. import __version__, _blas
from ..errors import ConfigError
from .machine import GiB, Machine, this_machine
from .planner import fit
from .table import fit_table

_PACKAGES = ("mlx", "mlx-lm", "numpy", "huggingface_hub", "tokenizers", "jupyterlab", "anywidget")


def print_fit(
    model: str | None = None,
    *,
    bits: int | None = 4,
    context: int | None = None,
    kv_bits: int | None = None,
    memory: float | None = None,
    echo: Callable[[str], None] = print,
    **places,
) -> None:
    """Print what one model needs, or without a name the table of all models and contexts.

    Arguments and errors as of :func:`~gemma4_mlx.checkpoints.planner.fit`.
    """
    if model is None:
        if "disk" in places.values():
            raise ConfigError("name a model to plan for with weights on disk")
        contexts = {} if context is None else {"contexts": (context,)}
        echo(str(fit_table(memory, kv_bits=kv_bits, **contexts)))
    else:
        context = 8_192 if context is None else context
        echo(str(fit(model, bits, context, kv_bits, memory, **places)))


def machine_report() -> list[str]:
    """Lines on this machine: backend, memory, BLAS, versions, what fits, and what to mend."""
    there = {name: _version(name) for name in _PACKAGES}
    lines = [
        f"gemma4-mlx {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "packages: " + ", ".join(f"{name} {found or 'missing'}" for name, found in there.items()),
    ]
    mend = [f"pip install {name}" for name, found in there.items() if found is None]
    machine = this_machine()
    if machine.backend == "none":
        return [*lines, *_without_mlx(machine)]
    backend = {"metal": "Metal (GPU)", "cuda": "CUDA (GPU)", "cpu": "CPU, in float32"}
    lines += [
        f"backend: {backend[machine.backend]}",
        f"memory: {machine.memory / GiB:.1f} GiB, of which a model may take "
        f"{machine.usable / GiB:.1f} GiB",
        f"BLAS: {_blas.status}",
    ]
    lines.append(f"fits at 8,192 tokens: {_fitting()}")
    if machine.backend == "cpu" and sys.platform == "darwin":
        mend.append("use an arm64 Python: this one runs MLX without Metal")
    if "not found" in _blas.status:
        mend.append("sudo apt-get install libopenblas0-pthread  (20 times faster on the CPU)")
    return lines + [f"to mend: {advice}" for advice in mend]


def _fitting() -> str:
    """``e2b at 16 bit, 26b-a4b at 4 bit``: each model at the most bits that fit."""
    best: dict[str, int] = {}
    for (name, bits), row in fit_table(contexts=(8_192,)).fits.items():
        if row[8_192].fits:
            best[name] = max(bits, best.get(name, 0))
    return ", ".join(f"{name} at {bits} bit" for name, bits in best.items()) or "none"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _without_mlx(machine: Machine) -> list[str]:
    """What can be done here all the same, and what running a model takes."""
    try:
        import mlx.core  # noqa: F401

        why = ""
    except ImportError as error:
        why = f" ({error})"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        advice = "MLX needs a Mac with Apple silicon and an arm64 Python"
    elif sys.platform in ("darwin", "linux"):
        advice = (
            f"pip install {'mlx' if sys.platform == 'darwin' else shlex.quote('mlx[cpu]')} mlx-lm"
        )
    else:
        advice = "models run on a Mac or on Linux (here: in WSL); MLX has no other packages"
    return [
        f"memory: {machine.memory / GiB:.1f} GiB",
        f"MLX cannot be imported{why}: no model runs here",
        "what works without it: opening, analysing and drawing traces (g4.open_trace, "
        "g4.widgets.Attention and Routing), g4.fit, g4.widgets.Fit",
        f"a Mac with this memory fits, at 8,192 tokens: {_fitting()}",
        f"to run models: {advice}",
    ]
