"""Which lines on the GPU's side no test takes: ``python tests/gpu_lines.py [pytest arguments]``.

Runs the tests that ``.ci/run`` runs as on a GPU three times under coverage, plainly and with
``--as-gpu float32`` and ``bfloat16``, and prints the functions that ask for the device, or are only
for one, with the lines that neither GPU mode reaches. "CPU" marks what the plain run reaches: the
other side of a branch, as it should be. What is left must be tested or removed, or have its reason
in :data:`REASONS`; a line without any, or a reason without a line, makes the exit status 1.

The runs go side by side, on as many cores as there are. With files or other pytest arguments all
three are of those.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Every function of these files takes a way that depends on the device, or is only for one ...
FILES = re.compile(r"model/cpu/|model/ops\.py|/strips_[cg]pu\.py")
#: ... and elsewhere one with one of these in it.
DEVICE = re.compile(r"default_device|on_cpu|in_numpy|\bops\.|new_thread_local_stream")
#: file:function -> why no test need reach what is left of it.
REASONS = {
    "teaching/evaluate.py:main": "measures the teaching model after training, and prints the "
    "device's name",
}
_MODES = {
    "plain": ("both", "exact"),
    "float32": ("both", "exact"),
    "bfloat16": ("both",),
}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            runs = {
                mode: pool.submit(_missing, Path(folder) / mode, mode, arguments) for mode in _MODES
            }
        missing = {mode: run.result() for mode, run in runs.items()}
    unexplained = []
    reasons = dict(REASONS)
    for file in sorted((ROOT / "gemma4_mlx").rglob("*.py")):
        name = str(file.relative_to(ROOT / "gemma4_mlx"))
        for function, lines in _functions(file):
            left = (
                lines & missing["float32"].get(file, lines) & missing["bfloat16"].get(file, lines)
            )
            nowhere = left & missing["plain"].get(file, lines)
            if left - nowhere:
                print(f"{name}:{function}: {_ranges(left - nowhere)} CPU")
            if nowhere:
                reason = reasons.pop(f"{name}:{function}", "no reason")
                unexplained += [function] * (reason == "no reason")
                print(f"{name}:{function}: {_ranges(nowhere)} never ({reason})")
    for place in reasons:
        print(f"{place}: has a reason, and needs none")
    return int(bool(unexplained or reasons))


def tests(mode: str) -> list[str]:
    """The files that ``.ci/run`` runs in this mode."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lists = dict(re.findall(r'^(both|exact)="([^"]+)"', script, re.MULTILINE))
    return [f"tests/{file}.py" for which in _MODES[mode] for file in lists[which].split()]


def _missing(data: Path, mode: str, arguments: list[str]) -> dict[Path, set[int]]:
    """Lines that could run and did not, by file; a file that is not there was not even read."""
    import coverage

    given = [*(arguments or tests(mode)), *(["--as-gpu", mode] if mode != "plain" else [])]
    print("+ pytest", *given, flush=True)
    environment = {**os.environ, "COVERAGE_FILE": str(data)}
    given += ["-o", f"cache_dir={data}-cache"]  # each run remembers its own failures

    def run(coverage: list[str], pytest: list[str]) -> int:
        command = [sys.executable, "-m", "coverage", "run", "--source=gemma4_mlx", *coverage]
        return subprocess.run(
            [*command, "-m", "pytest", *pytest, *given], cwd=ROOT, env=environment
        ).returncode

    # What a busy machine was too slow for is run once more, as .ci/run does.
    if run([], []) and run(["--append"], ["--last-failed"]):
        sys.exit("A test that fails leaves lines out: mend it first.")
    measured = coverage.Coverage(data_file=str(data))
    measured.load()
    files = map(Path, measured.get_data().measured_files())
    return {file: set(measured.analysis2(str(file))[3]) for file in files if file.suffix == ".py"}


def _functions(file: Path):
    """Name and lines of each function that has to do with the device; those within are its."""
    source = file.read_text(encoding="utf-8")
    text, within = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.FunctionDef) and node.lineno not in within:
            whole = "\n".join(text[node.lineno - 1 : node.end_lineno])
            if FILES.search(file.as_posix()) or DEVICE.search(whole):
                lines = set(range(node.body[0].lineno, node.end_lineno + 1))
                within |= lines
                yield node.name, lines


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
