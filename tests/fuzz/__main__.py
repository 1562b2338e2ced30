"""Fuzzing: damaged files, conversations and model output, one after the other.

    python tests/fuzz                              # every reader, 30 minutes in all
    python tests/fuzz image trace --minutes 2      # some of them
    python tests/fuzz image --case 1234 --keep x   # one case again, its input written to x

Every reader may refuse what it is given with its own clear error, and nothing else: any other
exception, a crash of the process, a case that takes more than 30 CPU seconds or 4 GB is a
finding. Findings are printed with the command that repeats them; the exit status is then 1. Case
``i`` of a target is always the same input.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOM = 4 * 2**30  # bytes one process may take above what it starts with
PATIENCE = 30.0  # CPU seconds; ten times as many of a clock


def where(error: BaseException) -> str:
    """Type and the innermost line of ours, which tells findings apart."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "gemma4_mlx" in f.filename]
    place = f" in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def run_case(target, name: str, number: int, folder: Path) -> tuple[object, BaseException | None]:
    """The input of one case, and what it raised beside the allowed errors."""
    value, call = target.case(random.Random(f"{name} {number}"), folder)
    try:
        call()
    except target.allowed:
        return value, None
    except Exception as error:
        return value, error
    return value, None


def work(name: str, first: int, seconds: float, progress: Path) -> None:
    """The child: cases from ``first`` on. Says in ``progress`` which one it is at."""
    import warnings

    from targets import TARGETS

    warnings.simplefilter("ignore")
    target, number = TARGETS[name], first
    with tempfile.TemporaryDirectory() as folder, progress.open("r+b", buffering=0) as note:
        run_case(target, name, -1, Path(folder))  # samples are made and libraries loaded
        _limit_memory()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            note.seek(0)
            note.write(b"%20d" % number)
            _, error = run_case(target, name, number, Path(folder))
            if error is not None:
                found = [number, where(error), str(error)[:300]]
                print(json.dumps(found), flush=True)
            number += 1
        note.seek(0)
        note.write(b"%20d" % number)


def _limit_memory() -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # not Linux
        return
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def hunt(name: str, first: int, seconds: float) -> tuple[int, dict[str, list]]:
    """Cases run, and findings by their place: [case, message, how often]."""
    findings: dict[str, list] = {}
    end, number = time.monotonic() + seconds, first
    with tempfile.TemporaryDirectory() as folder:
        progress, output = Path(folder) / "at", Path(folder) / "found"
        while (left := end - time.monotonic()) > 0:
            progress.write_bytes(b"%20d" % -1)
            command = [sys.executable, str(HERE), name, "--child", str(number), str(left)]
            with output.open("w") as file:
                child = subprocess.Popen(
                    [*command, str(progress)], stdout=file, stderr=subprocess.DEVNULL
                )
                hung = not _watched(child, progress)
            for line in output.read_text().splitlines():
                case, place, message = json.loads(line)
                findings.setdefault(place, [case, message, 0])[2] += 1
            at = int(progress.read_bytes())
            if at < 0:
                sys.exit(f"{name}: the samples cannot be made (exit status {child.returncode})")
            if hung or child.returncode:
                what = "takes too long" if hung else f"ends the process ({child.returncode})"
                findings.setdefault(what, [at, "", 0])[2] += 1
                number = at + 1
            else:
                return at - first, findings
    return number - first, findings


def _watched(child: subprocess.Popen, progress: Path) -> bool:
    """Wait for the child; False if one case took too long."""
    process, last, since, spent = psutil.Process(child.pid), None, 0.0, 0.0
    while child.poll() is None:
        time.sleep(0.2)
        at = progress.read_bytes()
        with contextlib.suppress(psutil.Error):  # it may end just now
            cpu = sum(process.cpu_times()[:2])
        if at != last:
            last, since, spent = at, time.monotonic(), cpu
        elif int(at) >= 0 and (cpu - spent > PATIENCE or time.monotonic() - since > 10 * PATIENCE):
            child.kill()
            child.wait()
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="readers to attack; all by default")
    parser.add_argument("--minutes", type=float, default=30, help="for all of them together")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case of one target and show its error")
    parser.add_argument("--keep", type=Path, help="with --case: write the input here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first, seconds, progress = options.child
        work(options.targets[0], int(first), float(seconds), Path(progress))
        return 0
    from targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(TARGETS)}")
    if options.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            value, error = run_case(TARGETS[names[0]], names[0], options.case, Path(folder))
        if options.keep is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=repr)
            data = value if isinstance(value, bytes) else text.encode(errors="surrogatepass")
            options.keep.write_bytes(data)
        if error is None:
            print("read, or refused with a clean error")
            return 0
        traceback.print_exception(error)
        return 1
    wrong = 0
    for name in names:
        count, findings = hunt(name, options.first, options.minutes * 60 / len(names))
        print(f"{name}: {count:,} cases, {len(findings)} findings", flush=True)
        for place, (case, message, times) in findings.items():
            print(f"  {place} ({times} times): {message}")
            print(f"    python tests/fuzz {name} --case {case}", flush=True)
        wrong += len(findings)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
