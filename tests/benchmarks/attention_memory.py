# ruff: noqa: I001
"""Memory of attention scores in one true-size full-attention layer at 128K and 256K tokens.

    python tests/benchmarks/attention_memory.py             all; up to 5 GB, minutes on a CPU
    python tests/benchmarks/attention_memory.py 31B --context 262144

Head size 512 has no fused kernel in MLX, so scores are materialised; the model splits queries so
that they stay bounded whatever the context. Prints the peak above keys, values and the output,
and what the scores of the same queries would take unsplit. The bar is 512 MiB.
"""

import argparse
import time

import gemma4_mlx  # noqa: F401  (loads OpenBLAS, so before MLX)
import mlx.core as mx

from gemma4_mlx.model.attention import AttentionGeometry, attend

LAYERS = {"E2B": (8, 1), "26B-A4B": (16, 2), "31B": (32, 4)}  # query heads, KV heads
HEAD, CHUNK = 512, 32


def measure(heads: int, kv_heads: int, context: int) -> tuple[int, float]:
    """Peak bytes above the arguments, and seconds, for one chunk at the end of a context."""
    q = mx.random.normal((1, heads, CHUNK, HEAD)) * 0.05
    k = mx.random.normal((1, kv_heads, context, HEAD))
    v = mx.random.normal((1, kv_heads, context, HEAD))
    mx.eval(q, k, v)
    geometry = AttentionGeometry(context - CHUNK, CHUNK, 0, context)
    mx.reset_peak_memory()
    before, start = mx.get_active_memory(), time.perf_counter()
    mx.eval(attend(q, k, v, geometry))
    return mx.get_peak_memory() - before, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", default=list(LAYERS), help=" ".join(LAYERS))
    parser.add_argument("--context", type=int, nargs="+", default=[131_072, 262_144])
    options = parser.parse_args()
    print(f"{'layer':10}{'context':>10}{'peak above':>14}{'unsplit':>14}{'s':>8}")
    for name in options.layers:
        heads, kv_heads = LAYERS[name]
        for context in options.context:
            if name == "E2B" and context > 131_072:
                continue  # beyond its context
            peak, seconds = measure(heads, kv_heads, context)
            unsplit = heads * CHUNK * context * 4
            print(
                f"{name:10}{context:10,}{peak / 2**20:10.0f} MiB{unsplit / 2**20:10.0f} MiB"
                f"{seconds:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
