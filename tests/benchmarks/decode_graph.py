# ruff: noqa: I001
"""What Python does for one decoded token: the graph's operations and the time to build it.

    python tests/benchmarks/decode_graph.py [e2b 26b-a4b 31b] [--repeat 200]

Ours against mlx-lm's gemma4_text of the same configuration, with small matrices: neither number
depends on sizes. Nothing is computed. As on a GPU: norms, rotary embeddings and attention up to a
head size of 256 count as the one kernel that each is there. Times are CPU seconds of the least
of the repeats, alternating; ratios are theirs / ours, above 1 if ours is less.
"""

import argparse
import time
from copy import copy
from dataclasses import replace
from io import StringIO
from unittest import mock

import gemma4_mlx  # noqa: F401  (loads OpenBLAS, so before MLX)
import mlx.core as mx
from mlx_lm.models import gemma4_text

import random_checkpoints
from gemma4_mlx.checkpoints.released import released
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.model import ops
from gemma4_mlx.model.gemma4 import Model

MODELS = ("e2b", "26b-a4b", "31b")
SMALL = dict(
    hidden_size=64, intermediate_size=64, vocab_size=256, num_attention_heads=4,
)  # fmt: skip
CONTEXT = 40  # tokens in the caches


def configuration(name: str) -> Gemma4Config:
    """A released model's layers, small."""
    config = released(name).config
    text = config.text
    changed = dict(SMALL, sliding_window=64)
    if text.hidden_size_per_layer_input:
        changed |= dict(hidden_size_per_layer_input=8, vocab_size_per_layer_input=256)
    if text.enable_moe_block:
        changed |= dict(moe_intermediate_size=8)
    heads = min(SMALL["num_attention_heads"], text.num_key_value_heads)
    return Gemma4Config("gemma4", replace(text, num_key_value_heads=heads, **changed))


def one_node(x, *inputs):
    """x, as a node of the graph that needs the inputs."""
    return mx.depends([x], [i for i in inputs if isinstance(i, mx.array)])[0]


def attention(q, k, v, *, mask=None, real=mx.fast.scaled_dot_product_attention, **how):
    if q.shape[-1] > ops.FUSED:  # no kernel: what MLX makes of it
        return real(q, k, v, mask=mask, **how)
    return one_node(q, k, v, mask)


def operations(logits: mx.array) -> int:
    """Nodes of the graph that computes logits."""
    file = StringIO()
    mx.export_to_dot(file, logits)
    return file.getvalue().count("shape=rectangle")


class Decoding:
    """A model with a filled cache, in bfloat16."""

    def __init__(self, model):
        self.model, self.cache = model, model.make_cache()
        model(mx.zeros((1, CONTEXT), mx.int32), cache=self.cache)  # float32: MLX's CPU backend
        model(mx.zeros((1, 1), mx.int32), cache=self.cache)  # the cache has grown
        model.set_dtype(mx.bfloat16)  # gathers no other experts
        self._filled = []
        for entry in self.cache:
            entry.keys, entry.values = (x.astype(mx.bfloat16) for x in (entry.keys, entry.values))
            self._filled.append(dict(vars(entry)))
        mx.eval(model.parameters(), [(f["keys"], f["values"]) for f in self._filled])

    def graph(self, token: mx.array) -> tuple[mx.array, float]:
        """Logits that nobody computes, and the seconds that it took to describe them."""
        for entry, filled in zip(self.cache, self._filled):
            vars(entry).update({name: copy(value) for name, value in filled.items()})
        started = time.process_time()
        logits = self.model(token, cache=self.cache)
        return logits, time.process_time() - started


def measured(name: str, repeat: int) -> tuple[dict[str, int], dict[str, float]]:
    """Operations and least seconds, by library."""
    config = configuration(name)
    arguments = random_checkpoints.hub_config(config, None)["text_config"]
    both = {
        "ours": Decoding(Model(config)),
        "mlx-lm": Decoding(gemma4_text.Model(gemma4_text.ModelArgs.from_dict(arguments))),
    }
    token, nodes, best = mx.array([[5]]), {}, {}
    with (
        mock.patch.object(ops, "on_cpu", lambda: mx.default_device() == mx.gpu),
        mock.patch.object(mx.fast, "rms_norm", lambda x, weight, eps: one_node(x, weight)),
        mock.patch.object(mx.fast, "rope", lambda x, *_, freqs=None, **how: one_node(x, freqs)),
        mock.patch.object(mx.fast, "scaled_dot_product_attention", attention),
    ):
        for turn in range(repeat):
            for library in list(both)[:: 1 if turn % 2 else -1]:
                logits, took = both[library].graph(token)
                best[library] = min(took, best.get(library, took))
                if not turn:
                    nodes[library] = operations(logits)
    return nodes, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, help=" ".join(MODELS))
    parser.add_argument("--repeat", type=int, default=200)
    options = parser.parse_args()
    print("one decoded token: ours, mlx-lm's, and how many times ours")
    for name in options.models or MODELS:
        nodes, best = measured(name, options.repeat)
        print(
            f"{name:8} operations{nodes['ours']:6}{nodes['mlx-lm']:6}"
            f"{nodes['mlx-lm'] / nodes['ours']:7.3f}   milliseconds to build"
            f"{1e3 * best['ours']:6.2f}{1e3 * best['mlx-lm']:6.2f}"
            f"{best['mlx-lm'] / best['ours']:7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
