"""What looking inside costs: time and memory of traces against the plain run.

    python tests/benchmarks/tracing.py [routing] [overview] [last] [transformers] [tile]
        [--tokens 32768] [--table FILE]

``overview`` reads the whole prompt; ``last`` only its last chunk, where memory is highest: the
whole of 131,072 tokens takes hours on a CPU.

Every measured run is a process of its own, so that its peak of memory is its own; runs that are
compared alternate. Time is CPU seconds of the process, which other work on the machine disturbs
least; wall seconds stand beside it. Weights are the embedded teaching model's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20
CHUNK = 2048


def peak_mib() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def measured(work) -> dict:
    """CPU and wall seconds of a call, peak memory after it and the rise it caused."""
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    extra = work() or {}
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "peak": peak_mib(), "rise": peak_mib() - before, **extra}


# Workers: each runs in a fresh process and prints one JSON line.


def loaded(tokens: int):
    import numpy as np

    import gemma4_mlx as g4

    model = g4.load()
    high = min(1900, model.config.text.vocab_size)
    ids = np.random.default_rng(0).integers(200, high, tokens).tolist()
    warm_up(model, ids[:64])
    return model, ids


def warm_up(model, ids):
    import mlx.core as mx

    mx.eval(model(mx.array(ids)[None], cache=model.make_cache()))


def prefill(model, ids):
    """Read a prompt as generation does, but with the layers above the last KV donor too."""
    import mlx.core as mx

    cache = model.make_cache()
    for start in range(0, len(ids), CHUNK):
        hidden = model.hidden(mx.array(ids[start : start + CHUNK])[None], cache)
        mx.eval(hidden, [entry.state for entry in cache])
        del hidden
        mx.clear_cache()
    return cache


def run_plain(tokens):
    model, ids = loaded(tokens)
    return measured(lambda: prefill(model, ids) and None)


def run_overview(tokens):
    import gemma4_mlx as g4
    from gemma4_mlx.tracing import AttentionPlan

    model, ids = loaded(tokens)
    plan = AttentionPlan(retain="none")
    made = []
    result = measured(
        lambda: made.append(g4.trace(model, ids, attention=plan, routing=None, chunk=CHUNK))
    )
    stated = plan.cost(model, tokens)
    return result | {"stated": stated.memory / MIB, "gflop": stated.flops / 1e9}


def filled_cache(model, tokens):
    """A cache that holds ``tokens`` random keys and values, evaluated."""
    import mlx.core as mx

    text, cache = model.config.text, model.make_cache()
    for layer, entry in enumerate(cache):
        shape = (1, text.kv_heads_of(layer), tokens, text.head_dim_of(layer))
        entry.update_and_fetch(mx.random.normal(shape) * 0.2, mx.random.normal(shape))
        mx.eval(entry.state)
    mx.clear_cache()
    return cache


def last_size(tokens: int) -> int:
    """How much of a long prompt ``last`` reads; every bound on memory is reached in either."""
    return CHUNK if tokens <= 32_768 else 256


def last_chunk(tokens, observer_of):
    """The end of a long prompt, its dearest part, behind a cache filled with stand-ins."""
    import mlx.core as mx

    model, ids = loaded(tokens)
    size = last_size(tokens)
    cache = filled_cache(model, tokens - size)
    observers = observer_of(model, ids)

    def work():
        with model.observe(*observers):
            hidden = model.hidden(mx.array(ids[-size:])[None], cache)
            mx.eval(hidden, [entry.state for entry in cache])

    return measured(work)


def run_last_plain(tokens):
    return last_chunk(tokens, lambda model, ids: ())


def run_last_overview(tokens):
    """All that a trace keeps of the earlier tokens is allocated and touched, too."""
    import numpy as np

    from gemma4_mlx.tracing import AttentionPlan, Recorder, TracePlan

    def observer_of(model, ids):
        plan = TracePlan(attention=AttentionPlan(retain="none"))
        recorder = Recorder(model, plan, expected=tokens)
        before = tokens - last_size(tokens)
        recorder._n, recorder._ids = before, np.array(ids[:before], np.int32)
        recorder.attention.blocks = np.full(before, -1, np.int32)
        for part in recorder.attention.parts.values():
            for buffer in (part.normaliser, part.columns):
                buffer.room(tokens)[:] = 0
            part.map.mass[:], part.map.peak[:] = 0, 0
        return (recorder,)

    return last_chunk(tokens, observer_of)


def run_routing(tokens):
    """Prefill and decode with the routing recorded and without, alternating in one process."""
    model, ids = loaded(tokens)  # first: gemma4_mlx brings OpenBLAS, which MLX must not precede
    import mlx.core as mx

    from gemma4_mlx.tracing import Recorder, RoutingPlan, TracePlan

    times = {name: [] for name in ("prefill", "prefill traced", "decode", "decode traced")}
    steps = 48

    def decode(cache):
        token = mx.array([[ids[0]]])
        for _ in range(steps):
            logits = model(token, cache=cache)
            token = logits[:, -1].argmax(-1, keepdims=True)
            mx.async_eval(token)
        mx.eval(token)

    for _ in range(5):
        for traced in (False, True):
            observers = [Recorder(model, TracePlan(RoutingPlan()))] if traced else []
            tag = " traced" if traced else ""
            with model.observe(*observers):
                start = time.process_time()
                cache = prefill(model, ids)
                times["prefill" + tag].append(time.process_time() - start)
                start = time.process_time()
                decode(cache)
                times["decode" + tag].append(time.process_time() - start)
            for observer in observers:
                assert observer.trace().routing.n == tokens + steps
    return {name: statistics.median(values) for name, values in times.items()} | {"steps": steps}


def run_transformers(tokens, attentions):
    import numpy as np
    import torch
    from transformers import AutoModelForImageTextToText

    import gemma4_mlx.teaching

    folder = Path(gemma4_mlx.teaching.__file__).parent / "checkpoint"
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.tensor(np.random.default_rng(0).integers(200, 1900, (1, tokens)))

    def forward(n, **options):
        with torch.no_grad():
            model.model(input_ids=ids[:, :n], use_cache=False, **options)

    forward(64)
    options = {"output_attentions": True} if attentions else {}
    return measured(lambda: forward(tokens, **options))


def run_eager_plain(tokens):
    return run_transformers(tokens, attentions=False)


def run_eager_maps(tokens):
    return run_transformers(tokens, attentions=True)


def run_tile(tokens):
    """Tiles of a trace file with the shapes of one full layer of the teaching model.

    The values are random and the normalisers are not theirs: time depends on shapes alone.
    """
    import numpy as np

    import gemma4_mlx as g4
    from gemma4_mlx.tracing import AttentionData, LayerAttention, Tokens, Trace, open_trace

    text, rng = g4.load().config.text, np.random.default_rng(0)
    layer = next(i for i in range(text.num_hidden_layers) if text.is_full(i))
    heads, kv, D = text.num_attention_heads, text.kv_heads_of(layer), text.head_dim_of(layer)
    part = LayerAttention(
        layer=layer,
        type=text.layer_types[layer],
        window=None,
        donor=layer,
        heads=tuple(range(heads)),
        all_heads=heads,
        kv_heads=kv,
        normaliser=np.full((heads, tokens), 12, np.float32),
        queries=rng.normal(size=(heads, tokens, D)).astype(np.float32),
        keys=rng.normal(size=(kv, tokens, D)).astype(np.float32),
    )
    whole = Trace(
        Tokens(np.zeros(tokens), [""] * tokens),
        attention=AttentionData(tokens, tokens // 256, [part]),
    )
    with tempfile.TemporaryDirectory() as folder:
        attention = open_trace(whole.save(Path(folder) / "x.g4trace")).attention
        milliseconds = []
        for i in range(40):
            q, k = sorted(rng.integers(256, tokens, 2))[::-1]
            start = time.perf_counter()
            tile = attention.tile(layer, i % heads, slice(q - 256, q), slice(k - 256, k))
            milliseconds.append((time.perf_counter() - start) * 1e3)
            assert tile.shape == (256, 256) and not tile.pooled
        start = time.perf_counter()
        attention.row(layer, 0, tokens - 1)
        row = (time.perf_counter() - start) * 1e3
    return {"median": statistics.median(milliseconds), "worst": max(milliseconds), "row": row}


WORKERS = {
    "plain": run_plain,
    "overview": run_overview,
    "last plain": run_last_plain,
    "last overview": run_last_overview,
    "routing": run_routing,
    "eager": run_eager_plain,
    "maps": run_eager_maps,
    "tile": run_tile,
}


def worker(name: str, tokens: int) -> dict:
    command = [sys.executable, __file__, "--worker", name, "--tokens", str(tokens)]
    # One BLAS thread: others wait by spinning, and that would count as CPU time.
    alone = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | alone)
    if run.returncode:
        sys.exit(f"{name} of {tokens} tokens failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


# Reports


def report_routing(tokens, line):
    r = worker("routing", 1024)
    for part, of in (("prefill", "1024 tokens"), ("decode", f"{r['steps']} tokens")):
        ratio = r[f"{part} traced"] / r[part]
        line(f"routing on / off, {part}", f"{r[part]:.2f} s for {of}", f"{ratio:.3f}", "1.05")


def memory_bar(tokens: int) -> str:
    return "256 MiB" if tokens <= 32_768 else "2048 MiB"


def report_overview(tokens, line):
    plain, traced = worker("plain", tokens), worker("overview", tokens)
    again = worker("plain", tokens)
    cpu = (plain["cpu"] + again["cpu"]) / 2
    wall = (plain["wall"] + again["wall"]) / 2
    line(
        f"overview of all heads, {tokens} tokens, CPU time",
        f"{traced['cpu']:.1f} s against {cpu:.1f} s ({traced['gflop']:.0f} Gflop more)",
        f"{traced['cpu'] / cpu:.2f}",
        "2.0",
    )
    line(
        "the same, wall time",
        f"{traced['wall']:.1f} s against {wall:.1f} s",
        f"{traced['wall'] / wall:.2f}",
        "2.0",
    )
    above = traced["peak"] - max(plain["peak"], again["peak"])
    line(
        "memory above the plain prefill",
        f"{traced['peak']:.0f} MiB against {plain['peak']:.0f} (plan said {traced['stated']:.0f})",
        f"{above:.0f} MiB",
        memory_bar(tokens),
    )


def report_last(tokens, line):
    plain, traced = worker("last plain", tokens), worker("last overview", tokens)
    line(
        f"overview of all heads, the last {last_size(tokens)} of {tokens} tokens, CPU time",
        f"{traced['cpu']:.1f} s against {plain['cpu']:.1f}",
        f"{traced['cpu'] / plain['cpu']:.2f}",
        "",
    )
    line(
        "memory above the plain run",
        f"{traced['peak']:.0f} MiB against {plain['peak']:.0f}",
        f"{traced['peak'] - plain['peak']:.0f} MiB",
        memory_bar(tokens),
    )


def report_transformers(tokens, line):
    for n in (1024, 2048, 4096):
        plain, maps, ours = worker("eager", n), worker("maps", n), worker("overview", n)
        line(
            f"transformers' output_attentions / our overview, {n} tokens, memory",
            f"{maps['rise']:.0f} MiB against {ours['rise']:.0f} above the loaded model",
            f"{maps['rise'] / max(1, ours['rise']):.1f}",
            "at least 10 at 4096" if n == 4096 else "",
        )
        line(
            f"transformers' output_attentions / our overview, {n} tokens, CPU time",
            f"{maps['cpu']:.2f} s (without maps {plain['cpu']:.2f}) against {ours['cpu']:.2f}",
            f"{maps['cpu'] / ours['cpu']:.2f}",
            "",
        )


def report_tile(tokens, line):
    n = 131_072
    r = worker("tile", n)
    line(f"256 x 256 tile of {n} tokens", f"median of 40, row {r['row']:.1f} ms",
         f"{r['median']:.1f} ms (worst {r['worst']:.1f})", "100 ms")  # fmt: skip


REPORTS = {
    "routing": report_routing,
    "overview": report_overview,
    "last": report_last,
    "transformers": report_transformers,
    "tile": report_tile,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="*", choices=[*REPORTS, []], default=[])
    parser.add_argument("--tokens", type=int, default=32768, help="length of the overviewed prompt")
    parser.add_argument("--table", type=Path, help="append the lines to this Markdown file")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.tokens)))
        return
    rows = []

    def line(what, figures, result, bar):
        rows.append(f"| {what} | {figures} | {result} | {bar} |")
        print(rows[-1], flush=True)

    head = ["| what | figures | result | bar |", "|---|---|---|---|"]
    print(*head, sep="\n")
    for name in options.reports or REPORTS:
        REPORTS[name](options.tokens, line)
    if options.table:
        options.table.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
