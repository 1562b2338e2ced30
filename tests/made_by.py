"""Arrays that a script makes with torch, in a process of its own: torch and MLX should not share a
BLAS."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np


def made_by(script, name):
    """The arrays that ``script PATH NAME`` writes, as a dict. It is run once, until it changes."""
    from media_reference import folder

    digest = hashlib.sha256(Path(script).read_bytes()).hexdigest()[:12]
    path = folder() / f"{Path(script).stem}-{name}-{digest}.npz"
    if not path.exists():
        run = subprocess.run(
            [sys.executable, script, str(path), name], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
    with np.load(path) as found:
        return dict(found)
