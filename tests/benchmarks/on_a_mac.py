"""What only a Mac can show: Metal's speed and memory, as one table to paste into an issue.

    python tests/benchmarks/on_a_mac.py                                   # random mid-size models
    python tests/benchmarks/on_a_mac.py mlx-community/gemma-4-e2b-it-4bit  # and a real one

Ours and mlx-lm alternate, each run in a process of its own, the best of the repeats
counts. A ratio above 1 means that ours is faster, or needs less. A repository is fetched only if
it is named here.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import random_checkpoints
from against_mlx_lm import CASES, measure

from gemma4_mlx.checkpoints.find import find
from gemma4_mlx.config import Gemma4Config

MIB = 2**20


def rows(name: str, folder: Path, prefill: list[int], repeat: int):
    """Markdown rows of one checkpoint, our figure, mlx-lm's and the ratio."""
    runs = {"ours": [], "mlx-lm": []}
    for _ in range(repeat):
        for library, done in runs.items():
            done.append(measure(folder, library, prefill, decode=64))

    def compare(what, figure, unit, better):
        ours, theirs = (better(figure(run) for run in runs[library]) for library in runs)
        ratio = ours / theirs if better is max else theirs / ours
        return f"| {name} | {what} | {ours:.1f} {unit} | {theirs:.1f} {unit} | {ratio:.2f} |"

    yield compare("load", lambda run: run["load_wall"], "s", min)
    for i, n in enumerate(prefill):
        speed = lambda run, i=i, n=n: n / run["runs"][i]["prefill_wall"]  # noqa: E731
        yield compare(f"prefill {n:,}", speed, "tokens/s", max)
    decode = lambda run: run["runs"][-1]["decode"] / run["runs"][-1]["decode_wall"]  # noqa: E731
    yield compare("decode", decode, "tokens/s", max)
    yield compare("peak memory", lambda run: run["runs"][-1]["peak"] / MIB, "MiB", min)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="repository ids or folders to measure as well")
    parser.add_argument("--prefill", type=int, nargs="*", default=[512, 4096])
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()

    import mlx.core as mx

    device = mx.device_info()
    print(f"{device.get('device_name', platform.processor())}, {platform.platform()}, ", end="")
    print(f"{device.get('memory_size', 0) / 2**30:.0f} GiB, MLX {mx.__version__}\n")
    print("| model | what | gemma4-mlx | mlx-lm | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        for name, (text, packing, _) in CASES.items():
            folder = Path(made) / name
            random_checkpoints.write(folder, Gemma4Config("gemma4", text), packing)
            for row in rows(f"random {name}", folder, options.prefill, options.repeat):
                print(row, flush=True)
    for model in options.models:
        for row in rows(model, find(model), options.prefill, options.repeat):
            print(row, flush=True)


if __name__ == "__main__":
    main()
