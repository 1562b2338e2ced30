"""What quantized caches change: KL divergence of next-token distributions against full caches.

    python tests/benchmarks/kv_quality.py                     # the teaching model, 1K 8K 32K
    python tests/benchmarks/kv_quality.py --lengths 1024 --model FOLDER

A text of the kind the teaching model was trained on is read into a full cache and into 8- and
4-bit ones (full-attention layers only; sliding layers stay as they are). Then the next 128 tokens
of the text are read on each, and the distributions after every one of them compared.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import gemma4_mlx as g4

COMPARED = 128
CHUNK = 2048


def text_tokens(model, count: int) -> list[int]:
    """A long text: the teaching corpus, again and again in another order."""
    from gemma4_mlx.teaching.data import corpus

    tokens, seed = [2], 1
    while len(tokens) < count:
        for line in corpus(seed):
            tokens += model.tokenizer.encode(line + "\n")
        seed += 1
    return tokens[:count]


def distributions(model, tokens: list[int], kv_bits: int | None):
    """(log-probabilities (COMPARED, V) after the last tokens, bytes of the full layers' caches)."""
    import mlx.core as mx

    cache = model.make_cache(kv_bits=kv_bits)
    head, tail = tokens[:-COMPARED], tokens[-COMPARED:]
    for start in range(0, len(head), CHUNK):
        model.read(mx.array(head[start : start + CHUNK])[None], cache)
        mx.eval([entry.state for entry in cache])
    logits = model(mx.array(tail)[None], cache)[0].astype(mx.float32)
    result = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    mx.eval(result)
    text = model.config.text
    held = sum(e.nbytes for i, e in enumerate(cache) if text.is_full(i))
    return result, held


def main() -> None:
    import mlx.core as mx

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder; by default the teaching model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192, 32768])
    arguments = parser.parse_args()
    model = g4.load(arguments.model) if arguments.model else g4.load()
    print(
        "context  bits  mean KL (nats)   max KL    same argmax  bytes of full layers  CPU seconds"
    )
    for length in arguments.lengths:
        tokens = text_tokens(model, length)
        exact, full = distributions(model, tokens, None)
        for bits in (8, 4):
            started = time.process_time()
            near, held = distributions(model, tokens, bits)
            seconds = time.process_time() - started
            kl = (mx.exp(exact) * (exact - near)).sum(axis=-1)
            same = (mx.argmax(exact, axis=-1) == mx.argmax(near, axis=-1)).mean()
            print(
                f"{length:7,}  {bits:4}  {kl.mean().item():14.2e}  {kl.max().item():9.2e}  "
                f"{same.item():10.1%}  {held / 2**20:8.2f} MiB, {held / full:4.0%}  "
                f"{seconds:11.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
