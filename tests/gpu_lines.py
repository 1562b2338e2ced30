"""Which lines on the GPU's side no test takes: ``python tests/gpu_lines.py [pytest arguments]``.

Runs the tests three times under coverage, plainly and with ``--as-gpu float32`` and ``bfloat16``,
and prints the functions that ask for the device, or are only for one, with the lines that neither
GPU mode reaches. "CPU" marks what the plain run reaches: the other side of a branch, as it should
be. What is left must be tested or removed, or have its reason in :data:`REASONS`; a line without
any makes the exit status 1.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: A function with one of these in it takes a way that depends on the device.
DEVICE = re.compile(
    r"default_device|on_cpu|in_numpy|\bops\.|small\.few\(|strips_[cg]pu|new_thread_local_stream"
)
#: Where the tests are that run such functions.
TESTS = ["tests/model", "tests/tracing", "tests/generation", "tests/checkpoints", "tests/verify"]
#: file:function -> why no test need reach what is left of it.
REASONS = {
    "checkpoints/machine.py:this_machine": "asks Metal or CUDA for its memory",
}
_RUNS = {"plain": [], "float32": ["--as-gpu", "float32"], "bfloat16": ["--as-gpu", "bfloat16"]}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        missing = {name: _missing(Path(folder) / name, given, arguments)
                   for name, given in _RUNS.items()}  # fmt: skip
    unexplained = 0
    for file in sorted((ROOT / "gemma4_mlx").rglob("*.py")):
        name = str(file.relative_to(ROOT / "gemma4_mlx"))
        for function, lines in _functions(file):
            left = (
                lines & missing["float32"].get(file, lines) & missing["bfloat16"].get(file, lines)
            )
            nowhere = left & missing["plain"].get(file, lines)
            reason = REASONS.get(f"{name}:{function}", "")
            if left - nowhere:
                print(f"{name}:{function}: {_ranges(left - nowhere)} CPU")
            if nowhere:
                unexplained += not reason
                print(f"{name}:{function}: {_ranges(nowhere)} never ({reason or 'no reason'})")
    return min(unexplained, 1)


def _missing(data: Path, given: list[str], arguments: list[str]) -> dict[Path, set[int]]:
    """Lines that could run and did not, by file; a file that is not there was not even read."""
    import coverage

    command = [sys.executable, "-m", "coverage", "run", "--source=gemma4_mlx", "-m", "pytest",
               *(arguments or TESTS), *given]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data)}, check=False)
    measured = coverage.Coverage(data_file=str(data))
    measured.load()
    files = map(Path, measured.get_data().measured_files())
    return {file: set(measured.analysis2(str(file))[3]) for file in files if file.suffix == ".py"}


def _functions(file: Path):
    """Name and lines of each innermost function that has to do with the device."""
    source = file.read_text(encoding="utf-8")
    text = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines = range(node.body[0].lineno, node.end_lineno + 1)
            if DEVICE.search("\n".join(text[node.lineno - 1 : node.end_lineno])):
                yield node.name, set(lines)


def _ranges(lines: set[int]) -> str:
    parts = []
    for line in sorted(lines):
        if parts and line == parts[-1][1] + 1:
            parts[-1][1] = line
        else:
            parts.append([line, line])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
