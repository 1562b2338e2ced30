"""Attribution by gradients against the plain prefill of the same prompt, and against mx.grad.

    python tests/benchmarks/attribution.py --tokens 32768              prefill and gradient
    python tests/benchmarks/attribution.py --tokens 4096 --against grad

On the teaching model. Each side is a process of its own, so that its peak of memory is its own; the
two take turns ``--repeat`` times, and the least CPU time of each counts. One BLAS thread: others
wait by spinning, and that would count as CPU time.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

from measure import Stopwatch, peak

SIDES = ("gradient", "integrated", "patching", "prefill", "grad")


def gradient(model, tokens: list[int], method: str = "gradient", **options) -> None:
    import gemma4_mlx as g4

    g4.attribute(model, tokens, 7, position=len(tokens), method=method, **options)


def integrated(model, tokens: list[int]) -> None:
    gradient(model, tokens, "integrated", steps=1)


def patching(model, tokens: list[int]) -> None:
    gradient(model, tokens, "patching", corrupt=[tokens[0], tokens[1] + 1, *tokens[2:]])


def prefill(model, tokens: list[int]) -> None:
    """As ``g4.stream`` reads a prompt up to its first new token's logits."""
    import mlx.core as mx

    import gemma4_mlx as g4
    from gemma4_mlx.generation.prefill import Prompt, SoftTokens, prefill

    cache, prompt = g4.PromptCache(model), Prompt.of(model, tokens)
    for _ in prefill(model, cache, prompt, SoftTokens(model, prompt, 0, None)):
        pass
    mx.eval(model(mx.array(tokens[len(cache) :])[None], cache=cache.entries))


def grad(model, tokens: list[int]) -> None:
    """By all embeddings at once."""
    import mlx.core as mx

    language = model.language_model

    def logit(x):
        hidden = model.hidden(mx.array(tokens)[None], input_embeddings=x)[:, -1]
        return language.uncapped(hidden)[0, 7]

    mx.eval(mx.grad(logit)(language.model.embed(mx.array(tokens)[None])))


def measured(side: str, tokens: int) -> dict:
    """One side, in a process of its own."""
    command = [sys.executable, __file__, "--tokens", str(tokens), "--side", side]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--method", choices=SIDES[:3], default="gradient")
    parser.add_argument("--against", choices=SIDES[3:], default="prefill")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        import mlx.core as mx
        import numpy as np

        import gemma4_mlx as g4

        model = g4.load()
        mx.eval(model.parameters())
        tokens = np.random.default_rng(0).integers(10, 2000, options.tokens).tolist()
        with Stopwatch() as watch:
            globals()[options.side](model, tokens)
        print(json.dumps({"cpu": watch.cpu, "peak": peak()}))
        return
    sides = options.method, options.against
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for turn in range(options.repeat):
        for side in sides[:: 1 if turn % 2 == 0 else -1]:
            found[side].append(measured(side, options.tokens))
    for side, runs in found.items():
        cpu, memory = (min(run[key] for run in runs) for key in ("cpu", "peak"))
        found[side] = {"cpu": cpu, "peak": memory}
        print(f"{side}: {cpu:.1f} CPU s, peak {memory / 1e6:,.0f} MB")
    ours, theirs = (found[side] for side in sides)
    ratios = [theirs[key] / ours[key] for key in ("cpu", "peak")]
    more = (ours["peak"] - theirs["peak"]) / 1e6
    print(
        f"{options.against} over {options.method}: CPU time {ratios[0]:.2f}, memory "
        f"{ratios[1]:.2f} ({more:+,.0f} MB)"
    )


if __name__ == "__main__":
    main()
