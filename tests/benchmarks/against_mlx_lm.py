"""Ours against mlx-lm on random mid-size checkpoints, alternating in one run.

    python tests/benchmarks/against_mlx_lm.py [dense moe dense-4bit moe-4bit] [--repeat 2]

``dense`` has per-layer embeddings, shared keys and values and double-wide MLPs, like E2B; ``moe``
routes to 4 of 32 experts beside a dense MLP, with k = v, like 26B-A4B. float32, and 4 bits with
float32 scales, which is what mlx-lm computes fastest on a CPU. Every run is a process of its own.
Speeds are tokens per CPU-second (all threads), because wall time follows whatever else a machine
does; the best of the repeats counts. A ratio above 1 means that ours is faster, or needs less.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import random_checkpoints

from gemma4_mlx.checkpoints.inventory import count
from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.config import FULL, SLIDING, Gemma4Config, Rope, TextConfig

HERE = Path(__file__).parent
ROPE = {SLIDING: Rope(), FULL: Rope(theta=1e6, partial_rotary_factor=0.25)}
COMMON = dict(
    vocab_size=32_768,
    vocab_size_per_layer_input=32_768,
    head_dim=128,
    global_head_dim=256,
    sliding_window=512,
    final_logit_softcapping=30.0,
    rope=ROPE,
)
DENSE = TextConfig(
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=15,
    layer_types=((SLIDING,) * 4 + (FULL,)) * 3,
    num_attention_heads=8,
    num_key_value_heads=1,
    num_kv_shared_layers=5,
    use_double_wide_mlp=True,
    hidden_size_per_layer_input=64,
    **COMMON,
)
MOE = TextConfig(
    hidden_size=1024,
    intermediate_size=1024,
    num_hidden_layers=12,
    layer_types=((SLIDING,) * 5 + (FULL,)) * 2,
    num_attention_heads=8,
    num_key_value_heads=4,
    num_global_key_value_heads=2,
    attention_k_eq_v=True,
    enable_moe_block=True,
    num_experts=32,
    top_k_experts=4,
    moe_intermediate_size=192,
    **COMMON,
)
CASES = {
    "dense": (DENSE, None, (512, 4096)),
    "moe": (MOE, None, (512, 4096)),
    "dense-4bit": (DENSE, Packing(4, 64), (512,)),
    "moe-4bit": (MOE, Packing(4, 64), (512,)),
}


def measure(folder: Path, library: str, lengths: tuple[int, ...], decode: int) -> dict:
    command = [sys.executable, str(HERE / "measure.py"), str(folder), "--library", library]
    command += ["--decode", str(decode), "--chunk", "2048", "--prefill", *map(str, lengths)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{library}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def figures(result: dict) -> dict[str, tuple[float, bool]]:
    """Name -> (figure, is more better?)."""
    found = {
        "import CPU s": (result["import_cpu"], False),
        "load CPU s": (result["load_cpu"], False),
    }
    for run in result["runs"]:
        found[f"prefill {run['prefill']}"] = (run["prefill"] / run["prefill_cpu"], True)
    run = result["runs"][0]
    found["decode"] = (run["decode"] / run["decode_cpu"], True)
    for run in result["runs"]:
        found[f"peak GB at {run['prefill']}"] = (run["peak"] / 1e9, False)
    return found


def best(results: list[dict]) -> dict[str, float]:
    table: dict[str, float] = {}
    for result in results:
        for name, (figure, more) in figures(result).items():
            table[name] = (max if more else min)(figure, table.get(name, figure))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=" ".join(CASES))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--decode", type=int, default=32)
    options = parser.parse_args()
    for case in options.cases or CASES:
        text, packing, lengths = CASES[case]
        config = Gemma4Config("gemma4", text)
        folder = Path(tempfile.mkdtemp(prefix="gemma4-bench-"))
        try:
            random_checkpoints.write(folder, config, packing, "F32")
            results = {"ours": [], "mlx-lm": []}
            for _ in range(options.repeat):
                for library, found in results.items():
                    found.append(measure(folder, library, lengths, options.decode))
        finally:
            shutil.rmtree(folder)
        print(f"\n{case}: {count(config)['text'] / 1e6:.0f} million parameters")
        ours, theirs = best(results["ours"]), best(results["mlx-lm"])
        more_is_better = {n: more for n, (_, more) in figures(results["ours"][0]).items()}
        for name, figure in ours.items():
            ratio = figure / theirs[name] if more_is_better[name] else theirs[name] / figure
            print(f"  {name:<18}{figure:>9.3f}{theirs[name]:>9.3f}   ratio {ratio:.2f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
