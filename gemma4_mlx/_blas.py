"""Load OpenBLAS before MLX on Linux.

The MLX wheel for Linux links a reference BLAS; symbols of an OpenBLAS that is already in the
process win, and float32 matrix products become about twenty times faster. A process that has
torch loaded is left alone, for there OpenBLAS would displace torch's own library. Set
``GEMMA4_MLX_OPENBLAS=0`` to switch this off.

An OpenBLAS that is older than the processor does not recognise it, and runs kernels of 2004 on it
(Debian 12's 0.3.21 on a Sapphire Rapids of 2023: a fifth of the speed). So one that has fallen
back on them is loaded once more and told what the processor can do.
"""

import _ctypes
import ctypes
import glob
import os
import sys

#: Which BLAS this process uses, for ``gemma4-mlx check``.
status = "Accelerate"


def _candidates():
    yield "libopenblas.so.0"
    yield from sorted(glob.glob(os.path.join(sys.prefix, "lib", "libopenblas*.so*")))


def _kernels() -> str | None:
    """OpenBLAS's name of the newest kernels that this x86 processor can run; None: unknown."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return None
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= set(flags):
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= set(flags) else None


def _load(name: str) -> str:
    """Load an OpenBLAS for the whole process; the name of the kernels that it runs."""
    library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    library.openblas_get_corename.restype = ctypes.c_char_p
    chosen = library.openblas_get_corename().decode()
    if chosen != "Prescott" or "OPENBLAS_CORETYPE" in os.environ or not (better := _kernels()):
        return chosen
    _ctypes.dlclose(library._handle)
    os.environ["OPENBLAS_CORETYPE"] = better
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    finally:
        del os.environ["OPENBLAS_CORETYPE"]
    return better


def preload() -> str:
    """Load OpenBLAS if this is Linux and it is there; return what will be used."""
    global status
    if sys.platform != "linux":
        return status
    if os.environ.get("GEMMA4_MLX_OPENBLAS", "1").lower() in ("0", "false", "no", "off"):
        status = "MLX's own (OpenBLAS switched off by GEMMA4_MLX_OPENBLAS)"
    elif "mlx.core" in sys.modules:
        status = "MLX's own (mlx.core was imported before gemma4_mlx)"
    elif "torch" in sys.modules:
        status = "MLX's own (torch is loaded in this process)"
    else:
        status = "MLX's own (OpenBLAS not found: install libopenblas0-pthread)"
        for name in _candidates():
            try:
                kernels = _load(name)
            except (OSError, AttributeError):  # not there, or its symbols have other names
                continue
            status = f"OpenBLAS ({name}, {kernels} kernels)"
            break
    return status


def restart_without_openblas() -> None:
    """Start this program again without OpenBLAS where it is loaded: for those that run torch.

    `python -m gemma4_mlx.teaching.train` imports the package, and with it OpenBLAS, before the
    module has a say; a training step on two threads then takes seven times as long.
    """
    if status.startswith("OpenBLAS"):
        os.environ["GEMMA4_MLX_OPENBLAS"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
