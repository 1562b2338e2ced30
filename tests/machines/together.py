"""Run by every rank of ``mlx.launch``: loads its part of checkpoints and computes with the others.

    python together.py CASES.json

Rank 0 prints one JSON line for each case: how far its logits are from those of the whole model, of
a prompt at once, and in pieces of it, single tokens among them.
"""

import json
import sys
from pathlib import Path

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.loading import load_part
from gemma4_mlx.model.parallel import Together

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten


def logits(model, tokens, headless=False):
    """Of the whole prompt, and of its last 20 tokens computed in pieces; of a stage without the
    head, what it has instead."""
    run = model.hidden if headless else model
    whole, cache = run(tokens), model.make_cache()
    model.read(tokens[:, :40], cache)
    pieces = [run(tokens[:, a:b], cache) for a, b in ((40, 58), (58, 59), (59, 60))]
    pieces = mx.concatenate(pieces, axis=1)
    mx.eval(whole, pieces)
    return whole, pieces


def nbytes(model):
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def main(cases):
    together = Together(mx.distributed.init(strict=True, backend="ring"))
    for case in cases:
        how = dict(bits=None, group_size=64, mode="affine", dtype=None, revision=None) | case["how"]
        model = load_part(together, case["folder"], case.get("room"), **how)
        tokens = mx.array(np.random.default_rng(0).integers(3, 300, (1, 60)))
        headless = "room" in case and together.rank > 0
        got = logits(model, tokens, headless)
        together.finish()
        before = together.messages, together.nbytes
        (model.hidden if headless else model)(tokens[:, :1])
        together.finish()
        if together.rank:
            continue
        one = g4.load(case["folder"], **how)
        expected = logits(one, tokens)
        largest = abs(expected[0]).max()
        off = [float(abs(a - b).max() / largest) for a, b in zip(got, expected)]
        sent = together.messages - before[0], together.nbytes - before[1]
        share = nbytes(model) / nbytes(one)
        print(json.dumps(dict(off=off, sent=sent, share=share)), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
