"""What patching and hidden keys cost: a sweep against one run a patch, attention with changes.

    python tests/benchmarks/sweeps.py --repeat 3

Sweeps over the heads and over layer x position of a needle's prompt of about 120 tokens, the
teaching model, against reading the whole prompt once for each patch with ``Patch`` in force. Then
reading 2,048 tokens with nothing in force, with a key hidden from one query in every layer, and
from all queries. CPU seconds of all threads, the least of the repeats, the sides in turns.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import gemma4_mlx as g4


def prompts(model) -> list[list[int]]:
    """Two prompts that differ in a value of three digits in their middle."""
    filler = "The old lamp stands near the river. A green bird sings behind the house. " * 3
    found = []
    for value in ("208", "935"):
        text = f"{filler}Note: key {value}. {filler}\nThe note for key"
        found.append([2, *model.tokenizer.encode(text)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()

    import mlx.core as mx

    model = g4.load()
    clean, corrupt = prompts(model)
    plan = g4.ActivationPlan(("head_outputs", "layer_output"))
    trace = g4.trace(model, clean, attention=None, routing=None, activations=plan)
    layers, n = model.config.text.num_hidden_layers, len(clean)
    first = next(i for i in range(n) if clean[i] != corrupt[i])
    some = range(first, n, 8)
    best: dict[str, float] = {}

    def timed(name, function):
        start = time.process_time()
        function()
        took = time.process_time() - start
        best[name] = min(took, best.get(name, took))

    def one_by_one(patches):
        for patch in patches:
            with model.intervene(patch):
                mx.eval(model(mx.array([corrupt]), cache=model.make_cache())[0, -1])

    def read(*changes):
        tokens = mx.arange(2048)[None] * 7919 % 1900 + 110
        with model.intervene(*changes):
            mx.eval(model.hidden(tokens, model.make_cache()))

    heads = [
        g4.Patch(layer, trace, tap="head_outputs", heads=head)
        for layer in range(layers)
        for head in range(model.config.text.num_attention_heads)
    ]
    stream = [
        g4.Patch(layer, trace, (i, i + 1), (i, i + 1)) for layer in range(layers) for i in some
    ]
    for _ in range(options.repeat):
        timed("heads, swept", lambda: g4.sweep(model, clean, corrupt, over="heads"))
        timed("heads, one by one", lambda: one_by_one(heads))
        timed("stream, swept", lambda: g4.sweep(model, clean, corrupt, positions=some))
        timed("stream, one by one", lambda: one_by_one(stream))
        timed("reading", read)
        timed("reading, one query changed", lambda: read(g4.Knockout(None, None, 2000, 5)))
        timed("reading, all queries changed", lambda: read(g4.Knockout(None, None, None, 5)))
    print(
        f"{n} tokens, patches from {first} on: {len(heads)} of heads, {len(stream)} of the stream"
    )
    for name, took in best.items():
        print(f"{name:28} {took:6.2f} CPU s")
    for a, b in (("heads, one by one", "heads, swept"), ("stream, one by one", "stream, swept"),
                 ("reading, one query changed", "reading"),
                 ("reading, all queries changed", "reading")):  # fmt: skip
        print(f"{a} / {b}: {best[a] / best[b]:.2f}")


if __name__ == "__main__":
    main()
