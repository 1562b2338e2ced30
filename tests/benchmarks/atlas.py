"""What building an atlas costs beside reading the same documents, and whether packing would help.

    python tests/benchmarks/atlas.py [recording] [packing] [--lengths 64 256 1024] [--wide]

``recording``: building over a plain prefill of the same batches, alternating in one process;
documents of about a length, from two thirds of it to it. ``packing``: building with documents that
are read one by one, over batches.
``--wide``: a model of random weights with 1,024 numbers, 32 experts of 256 and 4 for a token in 6
layers, in place of the teaching model, whose layers are so narrow that each operation's fixed cost
counts. CPU seconds of the process, the least of the repeats.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import gemma4_mlx as g4

DOCUMENTS = 16


def wide():
    """A model between the teaching model and a real one, of random weights."""
    from dataclasses import replace

    import mlx.core as mx

    from gemma4_mlx.model.gemma4 import Model

    config = g4.load().config
    text = replace(
        config.text,
        hidden_size=1024, intermediate_size=1024, moe_intermediate_size=256, num_experts=32,
        top_k_experts=4, num_hidden_layers=6, layer_types=config.text.layer_types[:6],
        num_kv_shared_layers=0, hidden_size_per_layer_input=0,
    )  # fmt: skip
    model = Model(replace(config, text=text, vision=None, audio=None))
    for layer in model.layers:
        for part in ("gate_proj", "up_proj", "down_proj"):
            weight = layer.experts.switch_glu[part].weight
            layer.experts.switch_glu[part].weight = mx.random.normal(weight.shape) * 0.03
    mx.eval(model.parameters())
    model.fingerprint = "wide"
    return model


def least(works: dict, repeats: int) -> dict[str, float]:
    """CPU seconds of each work, the least of the repeats, in turns; each once before."""
    best = {}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                best[name] = min(time.process_time() - start, best.get(name, 1e9))
    return best


def recording(model, length: int, repeats: int) -> str:
    import mlx.core as mx

    from gemma4_mlx.generation import engine
    from gemma4_mlx.studies.building import reading

    groups, build = building(model, length)

    def plain():
        for group in groups:
            for batch in reading.batches([len(ids) for _, ids in group]):
                rows = [group[i][1] for i in batch]
                n = max(map(len, rows))
                mx.eval(model.hidden(mx.array([ids + [0] * (n - len(ids)) for ids in rows])))

    found = engine().run(least, {"plain": plain, "built": build}, repeats)
    tokens = sum(len(ids) for group in groups for _, ids in group)
    rate = tokens / found["plain"]
    return f"{length} tokens: {found['built'] / found['plain']:.3f} of {rate:,.0f} tokens/s"


def packing(model, length: int, repeats: int) -> str:
    from gemma4_mlx.generation import engine

    batched, alone = (building(model, length, alone)[1] for alone in (False, True))
    found = engine().run(least, {"alone": alone, "batched": batched}, repeats)
    return f"{length} tokens: {found['alone'] / found['batched']:.2f}"


def building(model, length: int, alone: bool = False):
    """Groups of documents, and a function that adds them to an atlas."""
    from gemma4_mlx.studies import Atlas
    from gemma4_mlx.studies.building.build import _grouped
    from gemma4_mlx.studies.building.builder import Builder

    builder = Builder(model)
    atlas = Atlas.empty(builder.subject, ["x"])
    groups = list(_grouped(enumerate(documents(length))))
    if alone:
        groups = [[one] for group in groups for one in group]

    def build():
        for group in groups:
            for _ in builder._add(atlas, "x", group):
                pass

    return groups, build


def documents(length: int) -> list[list[int]]:
    """Texts of the teaching model's corpora as one, cut into documents."""
    from gemma4_mlx.studies import corpora

    tokens, rng = [], random.Random(0)
    for inputs in corpora.teaching(g4.load(), 400)["chat"]:
        tokens += inputs.tokens
        if len(tokens) >= length * DOCUMENTS:
            break
    found = []
    for _ in range(DOCUMENTS):
        n = rng.randint(2 * length // 3, length)
        found.append(tokens[:n])
        tokens = tokens[n:]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["recording", "packing"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wide", action="store_true")
    options = parser.parse_args()
    model = wide() if options.wide else g4.load()
    for name, work in (("recording", recording), ("packing", packing)):
        for length in options.lengths if name in options.what else ():
            print(name, work(model, length, options.repeats), flush=True)


if __name__ == "__main__":
    main()
