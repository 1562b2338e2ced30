"""Small mistakes, planted one at a time, and whether the tests see them.

    python tests/mutations                          # 300 of the four rooms, in some hours
    python tests/mutations --seed 7 --count 50 --rooms generation chat
    python tests/mutations --again                  # those that survived, after a new test
    python tests/mutations --list                   # what would be changed, and nothing more

Each mutation changes one expression or line of one function of model, tracing, generation or chat
(a comparison, a number by one, and/or, a call left out, a wider type; ``changes.py``), in a copy of
the repository under ``--folder``, and runs the tests that take the changed line, quickest first,
until one fails: killed. Which tests these are is recorded in the copy beforehand, once for each
state of the package, with coverage. Results are kept in the folder as they come, so that a run
that was ended goes on where it was. A seed's order does not depend on what is changed elsewhere.

``equivalent.toml`` lists the mutations that change nothing anyone could see, each with its reason;
they count as killed by nobody and are left out of the rate. Exit status 1: something survived.

mutmut keeps all mutants of a file in one process and forks, which MLX's threads do not survive;
cosmic-ray changes files where they are and has one test command for all. Neither draws by a seed.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from changes import Mutation, mutations

ROOT = Path(__file__).parent.parent.parent
#: Room -> folders of tests that may see a mistake in it; browsers and notebooks are too slow.
TESTS = {
    "model": ("model", "generation", "tracing", "chat"),
    "tracing": ("tracing",),
    "generation": ("generation", "chat", "tracing"),
    "chat": ("chat",),
}
SECONDS = 90.0  # of tests for one mutation, as recorded; the quickest that fit
MEMORY = 12 * 2**30  # bytes that the tests of one mutation may take
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", "artifacts", "node_modules", "site"
)


class Copy:
    """A copy of the repository with what was recorded in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "repository"
        self.tests = folder / "tests.json"
        self.lines = folder / "lines.coverage"
        self.results = folder / "results.jsonl"

    def update(self, rooms: Iterable[str]) -> None:
        """Copy the repository, and record the tests of these rooms that were not recorded on this
        package."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(ROOT, self.root, ignore=LEFT_OUT, symlinks=True)
        shared = ROOT.parent / "shared"
        if shared.is_dir() and not (self.folder / "shared").exists():
            (self.folder / "shared").symlink_to(shared.resolve())
        marks = self.folder / "recorded.json"
        known = json.loads(marks.read_text()) if marks.exists() else {}
        package = _digest(sorted((self.root / "gemma4_mlx").rglob("*.py")))
        if known.get("package") != package:
            known = {"package": package}
            for old in (self.lines, self.tests):
                old.unlink(missing_ok=True)
        for folder in dict.fromkeys(folder for room in rooms for folder in TESTS[room]):
            files = sorted((self.root / "tests" / folder).glob("test_*.py"))
            new = {str(f.relative_to(self.root)): _digest([f]) for f in files}
            new = {name: digest for name, digest in new.items() if known.get(name) != digest}
            if new:
                print(f"recording {len(new)} test files of {folder}", flush=True)
                self._record(list(new))
                known |= new
                marks.write_text(json.dumps(known))

    def _record(self, files: list[str]) -> None:
        if self.tests.exists():  # what is no longer in a file is not run
            old = json.loads(self.tests.read_text())
            kept = {test: what for test, what in old.items() if test.split("::")[0] not in files}
            self.tests.write_text(json.dumps(kept))
        source = str(self.root / "gemma4_mlx")
        command = [sys.executable, "-m", "coverage", "run", "--append", f"--source={source}",
                   "-m", "pytest", "-p", "record", "-p", "no:cacheprovider"]  # fmt: skip
        known = {"COVERAGE_FILE": str(self.lines), "MUTATIONS_TESTS": str(self.tests)}
        with (self.folder / "recording.txt").open("a") as out:
            subprocess.run([*command, *files], cwd=self.root, env=self._env() | known,
                           stdout=out, stderr=subprocess.STDOUT, check=False)  # fmt: skip

    def _env(self) -> dict[str, str]:
        paths = [self.root, self.root / "tests" / "mutations"]
        return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}

    def run(self, mutation: Mutation, tests: list[str], seconds: float) -> str | None:
        """What killed the mutation: a test's name or "time"; None if nothing did."""
        path = self.root / "gemma4_mlx" / mutation.file
        source = path.read_text(encoding="utf-8")
        listed = self.folder / "selected.txt"
        listed.write_text("\n".join(tests))
        plugins = ("-p", "twice", "-p", "no:cacheprovider")
        command = [sys.executable, "-m", "pytest", "-x", "--tb=no", *plugins, f"@{listed}"]
        try:
            path.write_text(mutation.applied(source), encoding="utf-8")
            Path(cache_from_source(str(path))).unlink(missing_ok=True)
            with tempfile.TemporaryFile("w+") as out:
                child = subprocess.Popen(
                    command, cwd=self.root, stdout=out, stderr=subprocess.STDOUT,
                    env=self._env() | {"PYTHONDONTWRITEBYTECODE": "1"},
                    start_new_session=True, preexec_fn=_limit_memory,
                )  # fmt: skip
                try:
                    status = child.wait(60 + 6 * seconds)
                except subprocess.TimeoutExpired:
                    return "time"
                finally:
                    _end(child)
                out.seek(0)
                return _verdict(status, out.read())
        finally:
            path.write_text(source, encoding="utf-8")

    def tests_of(self, mutation: Mutation, data, known: dict) -> tuple[list[str], float]:
        """The tests that take a line of the mutation, quickest first, and their seconds."""
        by_line = data.contexts_by_lineno(str(self.root / "gemma4_mlx" / mutation.file))
        here = {context for line in mutation.lines for context in by_line.get(line, ())}
        found = [t for t, what in known.items() if t in here or here.intersection(what["fixtures"])]
        chosen, spent = [], 0.0
        for test in sorted(found, key=lambda t: known[t]["seconds"]):
            if chosen and spent + known[test]["seconds"] > SECONDS:
                break
            chosen.append(test)
            spent += known[test]["seconds"]
        return chosen, spent


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def _end(child: subprocess.Popen) -> None:
    """The child and what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _verdict(status: int, output: str) -> str | None:
    if status == 0:
        return None
    failed = [
        line.split(" - ")[0] for line in output.splitlines() if line[:6] in ("FAILED", "ERROR ")
    ]
    return failed[0] if failed else f"exit status {status}"


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def drawn(package: Path, rooms: list[str], seed: int) -> list[Mutation]:
    """Every mutation of the rooms, in the seed's order."""
    found = [
        mutation
        for room in rooms
        for path in sorted((package / room).rglob("*.py"))
        for mutation in mutations(path.read_text("utf-8"), path.relative_to(package).as_posix())
    ]
    return sorted(found, key=lambda mutation: mutation.place(seed))


def equivalents() -> dict[str, str]:
    """Mutation's name -> why nobody could see it."""
    text = (Path(__file__).parent / "equivalent.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", nargs="+", choices=TESTS, default=[*TESTS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=24 * 60, help="begin none after these")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mutations",
                        help="where the copy and the results are kept")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="run those that survived once more")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    reasons = equivalents()
    everything = drawn(ROOT / "gemma4_mlx", options.rooms, options.seed)
    if options.rooms == [*TESTS] and (gone := reasons.keys() - {m.name for m in everything}):
        print("equivalent.toml names what is not there:", *sorted(gone), sep="\n  ")
    chosen = everything[: options.count]
    if options.list:
        print(*(mutation.name for mutation in chosen), sep="\n")
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    return hunt(Copy(options.folder), chosen, reasons, options)


def hunt(copy: Copy, chosen: list[Mutation], reasons: dict[str, str], options) -> int:
    """Run what has no result yet; print everything that survived and the rate."""
    import coverage

    end = time.monotonic() + 60 * options.minutes
    results = _results(copy.results)
    left = [m for m in chosen if m.name not in reasons
            and (m.name not in results or (options.again and not results[m.name]))]  # fmt: skip
    if left:
        copy.update(options.rooms)
        data = coverage.CoverageData(str(copy.lines))
        data.read()
        known = json.loads(copy.tests.read_text())
    for mutation in left:
        if time.monotonic() > end:
            break
        tests, seconds = copy.tests_of(mutation, data, known)
        started = time.monotonic()
        killer = copy.run(mutation, tests, seconds) if tests else None
        results[mutation.name] = killer
        with copy.results.open("a") as file:
            file.write(json.dumps({"mutation": mutation.name, "killed_by": killer}) + "\n")
        how = f"killed by {killer}" if killer else f"SURVIVED {len(tests)} tests"
        print(f"{mutation.name}\n  {how}, {time.monotonic() - started:.0f} s", flush=True)
    run = [m for m in chosen if m.name in results and m.name not in reasons]
    alive = [m for m in run if not results[m.name]]
    for mutation in alive:
        print(f"\n{mutation.file}, line {mutation.lines[0]}, {mutation.function}")
        print(f"- {mutation.was}\n+ {mutation.now}")
    listed = sum(m.name in reasons for m in chosen)
    rate = f"{len(run) - len(alive)} of {len(run)} killed, {listed} listed as equivalent"
    print(f"\nseed {options.seed}: {rate}, {len(chosen) - len(run) - listed} not yet run")
    return 1 if alive else 0


def _results(path: Path) -> dict[str, str | None]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["mutation"]: found["killed_by"] for found in map(json.loads, lines)}


if __name__ == "__main__":
    sys.exit(main())
