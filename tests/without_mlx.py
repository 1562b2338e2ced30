"""Code run in a process where MLX cannot be imported."""

import subprocess
import sys
import textwrap

from waiting import PATIENCE

WITHOUT = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("mlx", "mlx_lm", "mlx_vlm"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import gemma4_mlx as g4
    from gemma4_mlx import cli
"""


def run(code, *arguments):
    code = textwrap.dedent(WITHOUT) + textwrap.dedent(code)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
