"""What our generation costs beside the model itself.

    python tests/benchmarks/generation.py                  # the teaching model
    python tests/benchmarks/generation.py --model FOLDER

Decoding: our stream (events, text, log-probabilities) and mlx-lm's ``generate_step`` over the same
model object, alternating in one run; CPU seconds and their ratio, so that other work on the
machine does not matter. Conversation: time to the first token of turn 20 against turn 2 for equal
new text, and against reading everything again.
"""

import argparse
import os
import statistics
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


def conversation(model, turns: int, words: int) -> None:
    """Turn after turn of equal new text through one cache."""
    cache, prompt, first = g4.PromptCache(model), [2], {}
    new = model.tokenizer.encode(
        " one two three four five six seven eight nine ten" * (words // 10)
    )
    options = {"max_tokens": 8, "ignore_eos": True}
    for turn in range(1, turns + 1):
        before = len(prompt)
        prompt = [*prompt, *new]
        times = []
        for _ in range(5 if turn in (2, turns) else 1):
            cache.rewind(before)
            started, answer = time.process_time(), []
            for event in g4.stream(model, prompt, cache=cache, options=options):
                if isinstance(event, g4.generation.Token):
                    if not answer:
                        times.append(time.process_time() - started)
                    answer.append(event.id)
        first[turn] = statistics.median(times)
        prompt = [*prompt, *answer]
    anew = cpu(lambda: list(g4.stream(model, prompt, options={"max_tokens": 1})))
    early, late = first[2], first[turns]
    print(
        f"CPU seconds to the first token, {len(new)} new tokens a turn: turn 2 {early:.3f}, turn "
        f"{turns} (at {len(prompt):,} tokens) {late:.3f}, ratio {late / early:.2f}; reading "
        f"everything again {anew:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder; by default the teaching model")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args()
    model = g4.load(arguments.model) if arguments.model else g4.load()
    prompt = [2, *(400 + i % 1000 for i in range(64))]
    decode_ratio(model, prompt, {"temperature": 0.0}, arguments.repeats, "greedy")
    released = {"temperature": 1.0, "top_k": 64, "top_p": 0.95}
    decode_ratio(model, prompt, released, arguments.repeats, "temperature 1, top-k 64, top-p 0.95")
    conversation(model, arguments.turns, 100)


if __name__ == "__main__":
    main()
