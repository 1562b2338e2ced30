"""True-size models with random 4-bit weights: written, loaded by ``load``, run, measured, deleted.

    python tests/benchmarks/real_sizes.py e2b                       512 tokens + 16 decoded
    python tests/benchmarks/real_sizes.py e2b --prefill 8192 --kv-bits 8
    python tests/benchmarks/real_sizes.py 26b-a4b --behind 7680      memory at 8K context: the first
                                                                     tokens' keys are random
    python tests/benchmarks/real_sizes.py 26b-a4b --peer            also mlx-lm
    python tests/benchmarks/real_sizes.py e4b --keep FOLDER         write once, measure again

The text decoders as released; what is written lies in a temporary folder and is deleted, unless
``--keep`` names a folder: a checkpoint that lies complete in it is not written again.
Every measurement is a process of its own. The last column is the planner's total for the same
model, context and machine: it should be within 5% of the measured peak.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

import random_checkpoints

from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.checkpoints.planner import fit
from gemma4_mlx.checkpoints.released import released

HERE = Path(__file__).parent
GB = 1e9


def measure(folder: Path, library: str, options: argparse.Namespace) -> dict:
    command = [
        sys.executable, str(HERE / "measure.py"), str(folder), "--library", library,
        "--prefill", str(options.prefill), "--decode", str(options.decode),
        "--chunk", str(options.chunk),
    ]  # fmt: skip
    if library == "ours":
        command += ["--kv-bits", str(options.kv_bits)] if options.kv_bits else []
        command += ["--behind", str(options.behind)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{library}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, result: dict, planned: int) -> str:
    one = result["runs"][0]
    prefill, decode = one["prefill"], one["decode"]
    return (
        f"{name:<8} {result['library']:<7}"
        f"{result['load_wall']:>8.1f} {result['loaded'] / GB:>8.2f} {one['peak'] / GB:>8.2f}"
        f"{prefill / one['prefill_wall']:>10.2f} {prefill / one['prefill_cpu']:>9.2f}"
        f"{decode / one['decode_wall']:>10.3f} {decode / one['decode_cpu']:>9.3f}"
        f"{planned / GB:>9.2f} {planned / one['peak'] - 1:>+7.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="e2b e4b 12b 26b-a4b 31b")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--kv-bits", type=int)
    parser.add_argument("--behind", type=int, default=0, help="random tokens in the cache before")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--scales", choices=["BF16", "F32"], default="BF16")
    parser.add_argument("--peer", action="store_true", help="measure mlx-lm as well")
    parser.add_argument("--folder", help="where to write (default: the temporary folder)")
    parser.add_argument("--keep", help="a folder where checkpoints stay")
    options = parser.parse_args()
    print(
        f"{'model':<8} {'library':<7}{'load s':>8} {'loaded':>8} {'peak GB':>8}"
        f"{'prefill/s':>10} {'/CPU s':>9}{'decode/s':>10} {'/CPU s':>9}{'planned':>9} {'off':>7}"
    )
    for name in options.models:
        config = replace(released(name).config, vision=None, audio=None)
        context = options.behind + options.prefill + options.decode
        plan = fit(config, options.bits, context, options.kv_bits, chunk=options.chunk)
        free = psutil.virtual_memory().available
        if plan.total > free:
            print(f"{name:<8} needs {plan.total / GB:.1f} GB, {free / GB:.1f} are free: left out")
            continue
        if options.keep:
            folder = Path(options.keep) / f"{name}-{options.bits}bit-{options.scales}"
        else:
            folder = Path(tempfile.mkdtemp(prefix=f"gemma4-{name}-", dir=options.folder))
        try:
            write(name, folder, config, options)
            for library in ["ours", *(["mlx-lm"] if options.peer else [])]:
                print(row(name, measure(folder, library, options), plan.total), flush=True)
        finally:
            if not options.keep:
                shutil.rmtree(folder)


def write(name: str, folder: Path, config, options: argparse.Namespace) -> None:
    """The checkpoint, unless it is there already."""
    complete = folder / "complete"
    if complete.exists():
        return
    start = time.perf_counter()
    size = random_checkpoints.write(folder, config, Packing(options.bits, 64), options.scales)
    complete.touch()
    seconds = time.perf_counter() - start
    print(f"{name:<8} {size / GB:.2f} GB written in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
