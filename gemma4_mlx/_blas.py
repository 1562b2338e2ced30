"""Load OpenBLAS before MLX on Linux.

The MLX wheel for Linux links a reference BLAS; symbols of an OpenBLAS that is already in the
process win, and float32 matrix products become about twenty times faster. A process that has
torch loaded is left alone, for there OpenBLAS would displace torch's own library. Set
``GEMMA4_MLX_OPENBLAS=0`` to switch this off.
"""

import ctypes
import glob
import os
import sys

#: Which BLAS this process uses, for ``gemma4-mlx check``.
status = "Accelerate"


def _candidates():
    yield "libopenblas.so.0"
    yield from sorted(glob.glob(os.path.join(sys.prefix, "lib", "libopenblas*.so*")))


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
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            status = f"OpenBLAS ({name})"
            break
    return status
