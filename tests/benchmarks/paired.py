"""Prefill and decoding of ours and mlx-lm over one checkpoint, alternating in one process.

    python tests/benchmarks/paired.py FOLDER --prefill 512 4096 --decode 16 --repeat 3

Prints a line of JSON: CPU seconds of all threads, the least of the repeats, by library and part.
Alternating in one process, both meet the same machine load.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import gemma4_mlx as g4

CHUNK = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prefill", type=int, nargs="+", default=[512])
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()

    import mlx.core as mx
    from mlx_lm.utils import load_model

    models = {"ours": g4.load(options.folder), "mlx-lm": load_model(options.folder)[0]}
    vocabulary = models["ours"].config.text.vocab_size

    def prefill(library, cache, tokens):
        model = models[library]
        for start in range(0, tokens.shape[1] - 1, CHUNK):
            part = tokens[:, start : min(start + CHUNK, tokens.shape[1] - 1)]
            model.read(part, cache) if library == "ours" else model(part, cache=cache)
            mx.eval([entry.state for entry in cache])
        mx.eval(model(tokens[:, -1:], cache=cache))

    def decode(library, cache):
        for _ in range(options.decode):
            mx.eval(models[library](mx.array([[5]]), cache=cache))

    best: dict[str, dict[str, float]] = {library: {} for library in models}

    def timed(library, part, function, *arguments):
        start = time.process_time()
        function(library, *arguments)
        took = time.process_time() - start
        best[library][part] = min(took, best[library].get(part, took))

    for length in options.prefill:
        tokens = mx.arange(length)[None] * 7919 % (vocabulary - 3) + 3
        for turn in range(options.repeat):
            for library in list(models)[:: 1 if turn % 2 == 0 else -1]:
                cache = models[library].make_cache()
                timed(library, f"prefill {length}", prefill, cache, tokens)
                if length == options.prefill[0]:
                    timed(library, "decode", decode, cache)
    print(json.dumps(best))


if __name__ == "__main__":
    main()
