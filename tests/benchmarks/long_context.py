"""A long prompt for real: the teaching model reads up to 131,072 tokens, looks up a needle, and is
traced; mlx-lm reads the same prompt.

    python tests/benchmarks/long_context.py --tokens 8192               a few minutes
    python tests/benchmarks/long_context.py --tokens 131072 --out FOLDER
    python tests/benchmarks/long_context.py --tokens 131072 --out FOLDER --stages trace

Each stage is a process of its own, so that its peak of memory is its own. With ``--out`` what is
done lies in a folder: finished stages are not run again, and an interrupted reading goes on from
the last cache that was saved there (every 16,384 tokens). Times are CPU seconds, wall seconds
beside them. The needle stands in the middle; whether it is found is reported, not assumed: the
model was trained on at most 8K tokens.

- ours: prefill through ``PromptCache`` in chunks of 2,048, then 16 tokens of answer;
- mlx-lm: the same tokens and chunks through its own model and cache, then its 16 tokens;
- trace: ``g4.trace`` of all layers with the exact overview and the full layers' queries and keys
  on disk, then the row of the token that says the needle's value, in the head that looks most at
  it, and a tile.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# One BLAS thread: others wait by spinning, and that would count as CPU time.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import gemma4_mlx as g4

STAGES = ("ours", "mlx-lm", "trace")
CHUNK, SAVE_EVERY, ANSWER = 2048, 16_384, 16
NEEDLE, QUESTION = "Note: key 208.", "What is the note for key?"


def prompt(model, length: int) -> tuple[list[int], slice]:
    """A chat turn of at most ``length`` tokens, and where in its middle the needle's value is."""
    import numpy as np

    rng = np.random.default_rng(3)
    people, cities = ["Anna", "Ben", "Clara", "David"], ["Paris", "Rome", "Oslo", "Cairo"]
    things, looks = ["lamp", "boat", "clock", "chair", "garden"], ["old", "small", "red", "quiet"]

    def filler():
        who, where, what, how = (str(rng.choice(x)) for x in (people, cities, things, looks))
        either = [f"{who} has a {how} {what}.", f"In {where} the {what} is {how}."]
        return either[int(rng.integers(2))]

    encode, chat = model.tokenizer.encode, g4.Chat(model)
    sentences, used = [], 64  # beginning, needle, question
    while used < length:
        sentences.append(filler())
        used += len(encode(" " + sentences[-1]))
    sentences.insert(len(sentences) // 2, NEEDLE)
    chat.messages.append(_user(" ".join(sentences) + "\n" + QUESTION))
    tokens = chat.inputs().tokens
    value = encode(" 208")
    n = len(value)
    at = next(i for i in range(len(tokens)) if tokens[i : i + n] == value)
    return tokens, slice(at, at + n)


def _user(text: str):
    from gemma4_mlx.chat.messages import Message, Text

    return Message("user", (Text(text),))


def peak() -> int:
    """Largest resident memory of this process so far, bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class Clock:
    """CPU and wall seconds since it was made, on top of what an earlier process had used."""

    def __init__(self, cpu: float = 0.0, wall: float = 0.0):
        self._cpu, self._wall = time.process_time() - cpu, time.perf_counter() - wall

    def read(self) -> dict:
        return {
            "cpu": time.process_time() - self._cpu,
            "wall": time.perf_counter() - self._wall,
        }


def ours(tokens: list[int], folder: Path) -> dict:
    from gemma4_mlx.generation.prefill import Prompt, SoftTokens, prefill

    model = g4.load()
    saved, notes = folder / "cache.safetensors", folder / "cache.json"
    if notes.exists():
        cache, used = g4.PromptCache.load(saved, model), json.loads(notes.read_text())
    else:
        cache, used = g4.PromptCache(model), {}
    cache.reuse(tokens)
    clock, read = Clock(**used), Prompt.of(model, tokens)
    begun = len(cache)
    for done in prefill(model, cache, read, SoftTokens(model, read, begun, None), chunk=CHUNK):
        if done - begun >= SAVE_EVERY:
            used, begun = clock.read(), done
            cache.save(saved)
            notes.write_text(json.dumps(used))
            print(f"  {done:,} tokens, {used['cpu']:.0f} CPU s", file=sys.stderr, flush=True)
            clock = Clock(**used)  # saving does not count
    reading, clock = clock.read(), Clock()
    options = {"temperature": 0.0, "max_tokens": ANSWER, "ignore_eos": True}
    events = list(g4.stream(model, tokens, cache=cache, options=options))
    text = "".join(e.text for e in events if isinstance(e, g4.generation.Token))
    held = sum(entry.nbytes for entry in cache.entries)
    return {"read": reading, "answer": clock.read(), "text": text, "peak": peak(), "cache": held}


def mlx_lm(tokens: list[int], folder: Path) -> dict:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from gemma4_mlx.teaching import CHECKPOINT

    size = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]["vocab_size"]
    # It takes the vocabulary's size from the top of the file, where this one does not have it.
    model, _ = load_model(CHECKPOINT, strict=False, model_config={"vocab_size": size})
    model.set_dtype(mx.float32)  # on the CPU backend its experts run in no other
    mx.eval(model.parameters())
    cache, clock = model.make_cache(), Clock()
    for start in range(0, len(tokens) - 1, CHUNK):
        model(mx.array(tokens[start : min(start + CHUNK, len(tokens) - 1)])[None], cache=cache)
        mx.eval([entry.state for entry in cache])
        mx.clear_cache()
        if start % SAVE_EVERY == 0:
            used = clock.read()["cpu"]
            print(f"  {start:,} tokens, {used:.0f} CPU s", file=sys.stderr, flush=True)
    reading, clock, ids = clock.read(), Clock(), []
    token = mx.array(tokens[-1:])
    for _ in range(ANSWER):
        token = model(token[None], cache=cache)[:, -1].argmax(-1)
        ids.append(token.item())
    answering = clock.read()
    text = g4.load().tokenizer.decode(ids)
    return {"read": reading, "answer": answering, "text": text, "peak": peak()}


def trace(tokens: list[int], folder: Path) -> dict:
    model = g4.load()
    at = slice(*json.loads((folder / "needle.json").read_text()))
    tokens = [*tokens, *model.tokenizer.encode("The note for key")]  # what comes before the value
    plan = g4.AttentionPlan(retain="full", storage="disk", folder=str(folder), links=0)
    clock = Clock()
    found = g4.trace(model, tokens, attention=plan)
    reading, clock = clock.read(), Clock()
    n = len(tokens)
    best = found.attention.find(slice(n - 1, n), at)[0]
    row = found.attention.row(best.layer, best.head, n - 1)
    tile = found.attention.tile(
        best.layer, best.head, queries=slice(0, n), keys=slice(0, n), shape=(256, 256)
    )
    return {
        "read": reading, "answer": clock.read(), "peak": peak(),
        "text": f"layer {best.layer} head {best.head}: {row[at].sum():.1%} of its mass on the "
        f"needle; a row sums to {row.sum():.6f}; tile {tile.values.shape}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", help="where results and the cache are kept; default: nowhere")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--worker", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        tokens = json.loads((Path(options.out) / "prompt.json").read_text())
        run = {"ours": ours, "mlx-lm": mlx_lm, "trace": trace}[options.worker]
        print(json.dumps(run(tokens, Path(options.out))))
        return
    with tempfile.TemporaryDirectory(prefix="gemma4-long-") as temporary:
        folder = Path(options.out or temporary) / str(options.tokens)
        folder.mkdir(parents=True, exist_ok=True)
        tokens, needle = prompt(g4.load(), options.tokens)
        (folder / "prompt.json").write_text(json.dumps(tokens))
        (folder / "needle.json").write_text(json.dumps([needle.start, needle.stop]))
        results = {}
        for stage in options.stages:
            file = folder / f"{stage}.json"
            if not file.exists():
                command = [sys.executable, __file__, "--worker", stage, "--out", str(folder)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                file.write_text(done.stdout.splitlines()[-1])
            results[stage] = one = json.loads(file.read_text())
            read, answer = one["read"], one["answer"]
            print(
                f"{stage}: {len(tokens):,} tokens read in {read['cpu']:.1f} CPU s (wall "
                f"{read['wall']:.0f}), then {answer['cpu']:.2f} CPU s; peak "
                f"{one['peak'] / 1e6:,.0f} MB\n    {one['text']!r}",
                flush=True,
            )
        if {"ours", "mlx-lm"} <= set(results):
            a, b = results["ours"], results["mlx-lm"]
            print(
                f"mlx-lm / ours: reading {b['read']['cpu'] / a['read']['cpu']:.2f}, answer "
                f"{b['answer']['cpu'] / a['answer']['cpu']:.2f}, peak memory "
                f"{b['peak'] / a['peak']:.2f}"
            )


if __name__ == "__main__":
    main()
