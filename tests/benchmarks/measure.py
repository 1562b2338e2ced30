"""One run of one library over one checkpoint, in a process of its own, as a line of JSON.

    python tests/benchmarks/measure.py FOLDER --library ours --prefill 512 --decode 16

Both libraries get OpenBLAS, the same tokens and the same loop over mlx-lm's model protocol.
CPU seconds are those of all threads; resident memory is the process's own peak.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


class Stopwatch:
    """``with Stopwatch() as t: ...``, then ``t.wall`` and ``t.cpu`` in seconds."""

    def __enter__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu


def peak() -> int:
    """Largest resident memory of this process so far, bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def load(library: str, folder: str, bits: int | None):
    if library == "ours":
        import gemma4_mlx as g4

        return g4.load(folder, bits=bits)
    from mlx_lm.utils import load_model

    return load_model(Path(folder))[0]


def fill(model, cache: list, tokens: int, chunk: int) -> None:
    """Put random keys and values of ``tokens`` earlier tokens into a cache, chunk by chunk.

    What a long context costs in memory can so be measured where computing it would take hours.
    """
    import mlx.core as mx

    text, dtype = model.config.text, model.dtype
    for start in range(0, tokens, chunk):
        n = min(chunk, tokens - start)
        for layer, entry in enumerate(cache):
            shape = (1, text.kv_heads_of(layer), n, text.head_dim_of(layer))
            entry.update_and_fetch(*(mx.random.normal(shape).astype(dtype) for _ in range(2)))
            mx.eval(entry.state)


def vocabulary(folder: str) -> int:
    config = json.loads((Path(folder) / "config.json").read_text())
    return config.get("text_config", config)["vocab_size"]


def run(model, options: argparse.Namespace, prefill: int) -> dict:
    """Prefill in chunks with the cache alone evaluated, then greedy decoding."""
    import mlx.core as mx

    decode, chunk, ours = options.decode, options.chunk, options.library == "ours"
    if ours:
        from gemma4_mlx.generation.prefill import KEPT_BYTES
    tokens = mx.arange(prefill)[None] * 7919 % (vocabulary(options.folder) - 3) + 3
    cache = model.make_cache(kv_bits=options.kv_bits) if options.kv_bits else model.make_cache()
    if options.behind:
        fill(model, cache, options.behind, chunk)
    with Stopwatch() as filling:
        for start in range(0, prefill - 1, chunk):
            part = tokens[:, start : min(start + chunk, prefill - 1)]
            model.read(part, cache) if ours else model(part, cache=cache)
            mx.eval([entry.state for entry in cache])
            if ours and mx.get_cache_memory() > KEPT_BYTES:  # as a chat's prefill does
                mx.clear_cache()
        logits = model(tokens[:, -1:], cache=cache)[:, -1]
        mx.eval(logits)
    finite = bool(mx.isfinite(logits).all())
    with Stopwatch() as answering:
        for _ in range(decode):
            token = logits.argmax(-1)[None]
            logits = model(token, cache=cache)[:, -1]
            mx.eval(logits)
    held = sum(entry.nbytes for entry in cache)
    return {
        "prefill": prefill,
        "prefill_wall": filling.wall,
        "prefill_cpu": filling.cpu,
        "decode": decode,
        "decode_wall": answering.wall,
        "decode_cpu": answering.cpu,
        "cache_bytes": held,
        "finite": finite,
        "peak": peak(),
        "mlx_peak": mx.get_peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--library", choices=["ours", "mlx-lm"], default="ours")
    parser.add_argument("--bits", type=int, help="quantize while loading (ours)")
    parser.add_argument("--prefill", type=int, nargs="*", default=[512])
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--kv-bits", type=int)
    parser.add_argument("--behind", type=int, default=0, help="random tokens in the cache before")
    options = parser.parse_args()

    from gemma4_mlx import _blas  # preloads OpenBLAS for either library

    with Stopwatch() as importing:
        import mlx.core as mx

        if options.library == "mlx-lm":
            import mlx_lm
            import mlx_lm.utils  # noqa: F401
        else:
            import gemma4_mlx.checkpoints.loading  # noqa: F401
    before = resident()
    with Stopwatch() as loading:
        model = load(options.library, options.folder, options.bits)
        mx.eval(model.parameters())
    result = {
        "library": options.library,
        "blas": _blas.status,
        "import_wall": importing.wall,
        "import_cpu": importing.cpu,
        "before": before,
        "load_wall": loading.wall,
        "load_cpu": loading.cpu,
        "load_peak": peak(),
        "loaded": resident(),
    }
    result["runs"] = [run(model, options, n) for n in options.prefill]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
