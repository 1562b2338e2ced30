"""What our generation costs beside the model itself.

    python tests/benchmarks/generation.py                  # the teaching model
    python tests/benchmarks/generation.py --model FOLDER

Decoding: our stream (events, text, log-probabilities) and mlx-lm's ``generate_step`` over the same
model object, alternating in one run; CPU seconds and their ratio, so that other work on the
machine does not matter. Conversations are in ``chat_turns.py``.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# One BLAS thread: others wait by spinning, and that would count as CPU time.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import gemma4_mlx as g4

STEPS = 48


def cpu(function) -> float:
    """CPU seconds of all threads."""
    started = time.process_time()
    function()
    return time.process_time() - started


def decode_ratio(model, prompt, options, repeats: int, label: str) -> None:
    """mlx-lm's CPU time divided by ours, over alternating pairs."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    sampler = make_sampler(
        temp=options.get("temperature", 0),
        top_p=options.get("top_p", 0),
        top_k=options.get("top_k", 0),
    )

    def ours():
        for _ in g4.stream(
            model, prompt, options={"ignore_eos": True, "max_tokens": STEPS, **options}
        ):
            pass

    def theirs():
        detokenizer = model.tokenizer.detokenizer()
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=STEPS, sampler=sampler):
            detokenizer.add(token)

    ours(), theirs()
    mine, other = (
        sum(column) for column in zip(*((cpu(ours), cpu(theirs)) for _ in range(repeats)))
    )
    tokens = STEPS * repeats
    print(
        f"decode, {label}: ours {tokens / mine:.1f}, mlx-lm {tokens / other:.1f} tokens per "
        f"CPU-second, ratio {other / mine:.2f} ({repeats} alternating pairs of {STEPS})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder; by default the teaching model")
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    model = g4.load(arguments.model) if arguments.model else g4.load()
    prompt = [2, *(400 + i % 1000 for i in range(64))]
    decode_ratio(model, prompt, {"temperature": 0.0}, arguments.repeats, "greedy")
    released = {"temperature": 1.0, "top_k": 64, "top_p": 0.95}
    decode_ratio(model, prompt, released, arguments.repeats, "temperature 1, top-k 64, top-p 0.95")


if __name__ == "__main__":
    main()
