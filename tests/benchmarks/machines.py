"""Two processes on this machine against one: bytes of each rank, messages and bytes a token, time.

    python tests/benchmarks/machines.py [--decode 32] [--prefill 512] [--repeat 3]

First, from the configuration alone, what each rank holds of the released models. Then a random
model of 26B-A4B's kind (10 layers, 32 experts, 4 bits) in one process and on a cluster of two: what
its messages are, counted, against the least that dividing heads, MLP and experts takes (a sum
behind attention and one behind the MLP in each layer, as a norm follows either; the token's
embedding; the logits), and how long reading and a token take, in turns. Both processes share the
machine's cores, and MLX's ring waits by spinning, so that two ranks on two busy cores are slower
than one; two Macs have the memory and the bandwidth of two.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.checkpoints.released import released

import mlx.core as mx  # isort: skip
from random_checkpoints import write


def shares() -> None:
    """The largest rank's share of each model's bytes."""
    for name in ("e2b", "e4b", "12b", "26b-a4b", "31b"):
        for bits in (4, 16):
            whole = sum(g4.fit(name, bits=bits, memory=64).weights.values())
            plan = g4.fit(name, bits=bits, machines=[64, 64])
            held = [sum(rank.weights.values()) / whole for rank in plan.ranks]
            sent = plan.traffic[0]
            print(
                f"{name:<8} {bits:>2} bit: ranks hold {held[0]:.3f} and {held[1]:.3f}; a token: "
                f"{sent.messages} messages, {sent.nbytes / 1e3:,.0f} kB"
            )


def small_config():
    config = released("26b-a4b").config
    layers = 10
    text = replace(
        config.text,
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=layers,
        layer_types=config.text.layer_types[2:12],
        num_attention_heads=8,
        num_key_value_heads=4,
        num_global_key_value_heads=2,
        head_dim=64,
        global_head_dim=128,
        sliding_window=256,
        num_experts=32,
        moe_intermediate_size=128,
    )
    return replace(config, text=text, vision=None, audio=None)


def times(model, tokens, decode) -> tuple[float, float]:
    """Seconds of reading a prompt, and of each token after it."""
    cache = model.make_cache()
    start = time.perf_counter()
    model.read(tokens, cache)
    mx.eval([entry.state for entry in cache])
    read = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(decode):
        mx.eval(model(mx.array([[5]]), cache))
    return read, (time.perf_counter() - start) / decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    shares()
    config, packing = small_config(), Packing(4, 64)
    with tempfile.TemporaryDirectory() as folder, g4.cluster(2) as cluster:
        write(Path(folder, "m"), config, packing)
        models = {
            "one": g4.load(Path(folder, "m")),
            "tensor": g4.load(Path(folder, "m"), cluster=cluster),
            "pipeline": g4.load(Path(folder, "m"), cluster=cluster, strategy="pipeline"),
        }
        tokens = mx.arange(options.prefill)[None] % 8000 + 3
        best: dict[str, list] = {}
        for turn in range(options.repeat):
            for name in list(models)[:: 1 if turn % 2 == 0 else -1]:
                took = times(models[name], tokens, options.decode)
                best[name] = [min(pair) for pair in zip(took, best.get(name, took))]
        counted = {}
        for name in ("tensor", "pipeline"):
            cache = models[name].make_cache()
            models[name](mx.array([[5]]), cache)
            before = cluster.together.messages, cluster.together.nbytes
            models[name](mx.array([[5]]), cache)
            counted[name] = [
                cluster.together.messages - before[0],
                cluster.together.nbytes - before[1],
            ]
    L, H, V = config.text.num_hidden_layers, config.text.hidden_size, config.text.vocab_size
    least = [2 * L + 2, 4 * (L * 3 * H + H + V // 2)]  # float32 on this backend
    print(json.dumps({"messages and bytes a token": counted, "at least (tensor)": least}))
    for name in ("tensor", "pipeline"):
        read, token = (a / b for a, b in zip(best["one"], best[name]))
        print(f"{name}: reading {read:.2f}, decoding {token:.2f} times the speed of one process")
    print(json.dumps({name: [round(s, 4) for s in took] for name, took in best.items()}))


if __name__ == "__main__":
    main()
