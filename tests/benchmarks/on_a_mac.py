"""What only a Mac can show: Metal's speed and memory, as one table to paste into an issue.

    python tests/benchmarks/on_a_mac.py                                    # random mid-size models
    python tests/benchmarks/on_a_mac.py mlx-community/gemma-4-e2b-it-4bit  # and a real one
    python tests/benchmarks/on_a_mac.py --small                            # does the script run?

Ours and mlx-lm alternate, each run in a process of its own, the best of the repeats counts. Times
are those of a clock, so close what else is busy. Memory is what MLX allocated at most, weights
included. A ratio above 1 means that ours is faster, or needs less. Random models are 16 bit (on a
CPU float32, which is what it computes). A repository is fetched only if it is named here.
"""

import argparse
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import random_checkpoints
from against_mlx_lm import CASES, child

from gemma4_mlx.checkpoints.find import find
from gemma4_mlx.config import Gemma4Config, TextConfig

MIB = 2**20


def reduced(text: TextConfig) -> TextConfig:
    """The same mechanisms in a model of a few million parameters."""
    return replace(
        text,
        vocab_size=2048,
        vocab_size_per_layer_input=2048,
        hidden_size=256,
        intermediate_size=256,
        head_dim=64,
        global_head_dim=64,
    )


def rows(name: str, folder: Path, prefill: list[int], decode: int, repeat: int):
    """Markdown rows of one checkpoint: what, our figure, mlx-lm's and the ratio."""
    runs = {"ours": [], "mlx-lm": []}
    for _ in range(repeat):
        for library, done in runs.items():
            lengths = ["--decode", decode, "--chunk", 2048, "--prefill", *prefill]
            done.append(child("measure.py", folder, "--library", library, *lengths))

    def compare(what, figure, unit, better):
        ours, theirs = (better(figure(run) for run in runs[library]) for library in runs)
        ratio = ours / theirs if better is max else theirs / ours
        return f"| {name} | {what} | {ours:,.2f} {unit} | {theirs:,.2f} {unit} | {ratio:.2f} |"

    yield compare("load", lambda run: run["load_wall"], "s", min)
    for i, n in enumerate(prefill):
        speed = lambda run, i=i, n=n: n / run["runs"][i]["prefill_wall"]  # noqa: E731
        yield compare(f"prefill {n:,}", speed, "tokens/s", max)
    yield compare("decode", lambda run: decode / run["runs"][-1]["decode_wall"], "tokens/s", max)
    yield compare("peak memory", lambda run: run["runs"][-1]["mlx_peak"] / MIB, "MiB", min)


def attention(keys: int, repeat: int):
    """Markdown rows of one full layer of 26B-A4B, which has head size 512, behind ``keys`` tokens:
    ours, and MLX's own attention in mlx-lm's place."""
    import mlx.core as mx

    from gemma4_mlx.model.attention import AttentionGeometry, attend

    dtype = mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
    k, v = (mx.random.normal((1, 2, keys, 512)).astype(dtype) for _ in range(2))
    for n in (1, 64):
        q = (mx.random.normal((1, 16, n, 512)) * 0.05).astype(dtype)
        mx.eval(q, k, v)
        geometry, mask = AttentionGeometry(keys - n, n, 0, keys), "causal" if n > 1 else None
        times = {True: [], False: []}
        for _ in range(repeat + 1):
            for ours, taken in times.items():
                start = time.perf_counter()
                if ours:
                    mx.eval(attend(q, k, v, geometry))
                else:
                    mx.eval(mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask))
                taken.append(1000 * (time.perf_counter() - start))
        ours, theirs = min(times[True]), min(times[False])
        what = f"attention of {n} to {keys:,}"
        yield f"| 26B-A4B layer | {what} | {ours:.2f} ms | {theirs:.2f} ms | {theirs / ours:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="repository ids or folders to measure as well")
    parser.add_argument("--prefill", type=int, nargs="+", help="lengths; 512 and 4096 without it")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="tiny models, a minute or two")
    options = parser.parse_args()
    prefill = options.prefill or ([128] if options.small else [512, 4096])
    decode = 16 if options.small else 64

    import mlx.core as mx
    import mlx_lm
    import psutil

    import gemma4_mlx

    device, on_cpu = mx.device_info(), mx.default_device() == mx.cpu
    print(f"{device.get('device_name', platform.processor())}, {platform.platform()}, ", end="")
    print(
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {'CPU' if on_cpu else 'GPU'}; ", end=""
    )
    print(
        f"gemma4-mlx {gemma4_mlx.__version__}, MLX {mx.__version__}, mlx-lm {mlx_lm.__version__}\n"
    )
    print("| model | what | gemma4-mlx | mlx-lm | ratio |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as made:
        for name, (text, packing, _) in CASES.items():
            folder = Path(made) / name
            config = Gemma4Config("gemma4", reduced(text) if options.small else text)
            random_checkpoints.write(folder, config, packing, "F32" if on_cpu else "BF16")
            for row in rows(f"random {name}", folder, prefill, decode, options.repeat):
                print(row, flush=True)
    for row in attention(2048 if options.small else 131_072, 5 * options.repeat):
        print(row, flush=True)
    for model in options.models:
        for row in rows(model, find(model), prefill, decode, options.repeat):
            print(row, flush=True)


if __name__ == "__main__":
    main()
