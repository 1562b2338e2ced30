"""Ours against mlx-lm on random mid-size checkpoints, alternating in one run.

    python tests/benchmarks/against_mlx_lm.py [dense moe dense-4bit moe-4bit] [--prefill 512]

``dense`` has per-layer embeddings, shared keys and values and double-wide MLPs, like E2B; ``moe``
routes to 4 of 32 experts beside a dense MLP, with k = v, like 26B-A4B. float32, and 4 bits with
float32 scales, which is what mlx-lm computes fastest on a CPU. Memory, import and load are
measured in a process of each library's own, speeds in one process in which both alternate; they
are tokens per CPU-second (all threads), because wall time follows whatever else a machine does,
and the best of the repeats counts. A ratio above 1 means that ours is faster, or needs less.
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


def child(script: str, folder: Path, *arguments: object) -> dict:
    command = [sys.executable, str(HERE / script), str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def footprint(folder: Path, library: str, length: int) -> dict[str, float]:
    """Import and load in CPU seconds, peak memory in GB: in a process of its own."""
    result = child(
        "measure.py", folder, "--library", library, "--decode", 4, "--chunk", 2048,
        "--prefill", length,
    )  # fmt: skip
    return {
        "import CPU s": result["import_cpu"],
        "load CPU s": result["load_cpu"],
        f"peak GB at {length}": result["runs"][0]["peak"] / 1e9,
    }


def show(name: str, ours: float, theirs: float, ratio: float) -> None:
    print(f"  {name:<18}{ours:>9.3f}{theirs:>9.3f}   ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=" ".join(CASES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--prefill", type=int, nargs="+", help="lengths in place of the case's")
    options = parser.parse_args()
    for case in options.cases or CASES:
        text, packing, lengths = CASES[case]
        lengths = options.prefill or lengths
        config = Gemma4Config("gemma4", text)
        folder = Path(tempfile.mkdtemp(prefix="gemma4-bench-"))
        try:
            random_checkpoints.write(folder, config, packing, "F32")
            print(f"\n{case}: {count(config)['text'] / 1e6:.0f} million parameters; ours, mlx-lm")
            ours, theirs = (footprint(folder, name, lengths[-1]) for name in ("ours", "mlx-lm"))
            for name, figure in ours.items():
                show(name, figure, theirs[name], theirs[name] / figure)
            times = child(
                "paired.py", folder, "--decode", options.decode, "--repeat", options.repeat,
                "--prefill", *lengths,
            )  # fmt: skip
        finally:
            shutil.rmtree(folder)
        for part, seconds in times["ours"].items():
            tokens = options.decode if part == "decode" else int(part.split()[1])
            other = times["mlx-lm"][part]
            show(part + " /CPU s", tokens / seconds, tokens / other, other / seconds)


if __name__ == "__main__":
    main()
