"""Does the wait for the first token grow with the conversation?

    python tests/benchmarks/chat_turns.py                    the teaching model, 12 and 50 words
    python tests/benchmarks/chat_turns.py --true-widths --words 50 --repeat 5
    python tests/benchmarks/chat_turns.py --model FOLDER

Two conversations, one before its second turn and one before its twentieth, hear the same new text
alternately, again and again (each time other words, so that nothing of it is cached). Printed:
CPU seconds from the call to the first token, tokens in the prompt and how many of them were new;
the median ratio of the pairs; and what the late turn costs without a cache. CPU seconds of all
threads are used because wall time on a shared machine says little. New text still attends to
everything before it in the full-attention layers: with many new words in a long conversation on
the tiny teaching model (128 wide), whose other layers cost little, that part shows. With
``--true-widths`` the first ten layers of E2B at their true shapes (random weights, the teaching
model's vocabulary) show what it is in a real model.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# One BLAS thread: others wait by spinning, and that would count as CPU time.
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import gemma4_mlx as g4
from gemma4_mlx.generation import Token


def first_token(chat, text: str) -> tuple[float, object]:
    """(CPU seconds to the first token, the reply's statistics)."""
    begin, cpu, reply = time.process_time(), 0.0, None
    for event in chat.stream(text):
        if isinstance(event, Token) and event.index == 0:
            cpu = time.process_time() - begin
        reply = getattr(event, "reply", reply)
    return cpu, reply.stats


def true_widths():
    """Ten layers of E2B, two of them full, the last four sharing keys and values; 1.5 GB."""
    import mlx.core as mx
    from mlx.utils import tree_map

    from gemma4_mlx.checkpoints.released import released
    from gemma4_mlx.model.gemma4 import Model

    teaching, config = g4.load(), released("e2b").config
    vocab = teaching.config.text.vocab_size
    text = replace(
        config.text, num_hidden_layers=10, layer_types=config.text.layer_types[:10],
        num_kv_shared_layers=4, vocab_size=vocab, vocab_size_per_layer_input=vocab,
    )  # fmt: skip
    model = Model(replace(config, text=text, vision=None, audio=None))
    mx.random.seed(0)

    def fill(w):
        w = mx.random.normal(w.shape) * w.shape[-1] ** -0.5 if w.ndim > 1 else mx.ones(w.shape)
        mx.eval(w)
        return w

    model.update(tree_map(fill, model.parameters()))
    for name in ("tokenizer", "chat_template", "generation_config", "processor_config"):
        setattr(model, name, getattr(teaching, name))
    return model


def words(count: int, start: int) -> str:
    return " ".join(f"stone{(start + i) % 7}" for i in range(count))


def compare(model, turns: int, count: int, repeat: int) -> None:
    late = g4.Chat(model, options={"max_tokens": 8, "temperature": 0.0})
    for turn in range(turns - 1):
        late.send(words(count, 0))
        if turn == 0:
            early = late.branch()
    times, stats = {early: [], late: []}, {}
    for i in range(repeat + 1):
        for chat in (early, late):
            seconds, stats[chat] = first_token(chat, words(count, i + 1))
            chat.undo()
            if i:  # the first pair warms up
                times[chat].append(seconds)
    late.cache = None
    whole, _ = first_token(late, words(count, 0))
    for turn, chat in ((2, early), (turns, late)):
        new = stats[chat].prompt_tokens - stats[chat].reused_tokens
        print(
            f"turn {turn:2}: {statistics.median(times[chat]):.3f} CPU s to the first token, "
            f"{stats[chat].prompt_tokens} tokens, {new} of them new"
        )
    ratio = statistics.median(b / a for a, b in zip(times[early], times[late]))
    print(
        f"turn {turns} / turn 2: {ratio:.2f} (median of {repeat} pairs); without a cache "
        f"{whole:.3f} CPU s, {whole / statistics.median(times[late]):.1f} times as much"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or hub id; default: the teaching model")
    parser.add_argument("--true-widths", action="store_true", help="ten layers as wide as E2B's")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--words", type=int, nargs="+", default=[12, 50], help="said in each turn")
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    model = true_widths() if options.true_widths else g4.load(options.model)
    for count in options.words:
        compare(model, options.turns, count, options.repeat)


if __name__ == "__main__":
    main()
