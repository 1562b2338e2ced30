"""Does the wait for the first token grow with the conversation?

    python tests/benchmarks/chat_turns.py                    the teaching model, 12 and 50 words
    python tests/benchmarks/chat_turns.py --true-widths --words 50 --repeat 5
    python tests/benchmarks/chat_turns.py --model FOLDER
    python tests/benchmarks/chat_turns.py --reuse [--true-widths] [--model FOLDER]

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


def two_layers(name: str):
    """A sliding and a full layer with a released text model's stream, heads, keys and values at
    their true sizes; feed-forward layers, which no cache holds, are narrow."""
    from gemma4_mlx.checkpoints.released import released

    config = released(name).config
    return filled(
        config, num_hidden_layers=2, num_kv_shared_layers=0, intermediate_size=256,
        layer_types=("sliding_attention", "full_attention"),
        **({"num_experts": 4, "top_k_experts": 2} if config.text.enable_moe_block else {}),
    )  # fmt: skip


def true_widths():
    """Ten layers of E2B, two of them full, the last four sharing keys and values; 1.5 GB."""
    from gemma4_mlx.checkpoints.released import released

    config = released("e2b").config
    return filled(
        config, num_hidden_layers=10, num_kv_shared_layers=4,
        layer_types=config.text.layer_types[:10],
    )  # fmt: skip


def filled(config, **changes):
    """A text model of random weights with the teaching model's vocabulary."""
    import mlx.core as mx
    from mlx.utils import tree_map

    from gemma4_mlx.model.gemma4 import Model

    teaching = g4.load()
    vocab = teaching.config.text.vocab_size
    text = replace(config.text, vocab_size=vocab, vocab_size_per_layer_input=vocab, **changes)
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


def reuse(name: str, model) -> None:
    """What each kind of turn reads again with room for one snapshot."""
    from gemma4_mlx.chat import Message, Text, Thinking, ToolCall, ToolResult
    from gemma4_mlx.checkpoints.planner import snapshot_bytes
    from gemma4_mlx.generation.caches import snapshot_budget

    def now() -> str:
        """The time."""
        return "noon"

    text = model.config.text
    one = snapshot_bytes(text, text.sliding_window, model.dtype.size)
    options = {"max_tokens": 330, "temperature": 0.0, "suppress_tokens": (1, 50, 106)}
    long = words(text.sliding_window // 2, 0)

    def begin(**how):
        history = [Message("user", Text(long)), Message("assistant", Text("Yes."))]
        return g4.Chat(model, options=options, snapshot_bytes=one, messages=history, **how)

    chat = begin(thinking=True, tools=[now])
    print(f"{name}: window {text.sliding_window}, a snapshot {one / 2**20:.1f} MiB, by default "
          f"room for {snapshot_budget(model) / 2**20:.0f} MiB")  # fmt: skip

    def told(kind: str, stats, turn: int) -> None:
        held = sum(s.nbytes for s in chat.cache.snapshots)
        bar = "" if stats.reused_tokens >= stats.prompt_tokens - turn else "  BELOW THE BAR"
        print(f"  {kind:22} {stats.reused_tokens:5} of {stats.prompt_tokens:5} tokens reused, "
              f"{turn:4} new; snapshots {held / one:.2f} of one{bar}", flush=True)  # fmt: skip

    def from_turn(back: int) -> int:
        """Tokens of the last prompt from the `back`-th last turn on, and the three of an answer
        that was cut short: its last one, and what closes its turn."""
        last = max(i for i, m in enumerate(chat.messages) if m.role in ("user", "tool"))
        other = g4.Chat(
            model,
            messages=chat.messages[: last + 1],
            tools=chat.tools.values(),
            thinking=chat.thinking,
        )
        tokens, mark = other.inputs().tokens, model.tokenizer.id("<|turn>")
        marks = [i for i, token in enumerate(tokens) if token == mark]
        return len(tokens) - marks[-back] + 3

    chat.send("Hello!")
    said = [Thinking("Let me see. " * 4), Text(words(20, 3))]
    chat.messages[-1] = Message("assistant", said)
    told("after a thought", chat.send("And now?").stats, from_turn(3))
    told("regenerate", chat.regenerate().stats, 3)
    chat.edit(-2, "And then?", reply=False)
    told("edit the last message", chat.send().stats, from_turn(2))
    chat.messages[-1] = Message("assistant", [Thinking("Hm."), call := ToolCall("c", "now")])
    chat.messages.append(Message("tool", ToolResult(call.id, "now", "noon")))
    told("after a tool's result", chat.send().stats, from_turn(1))
    chat.messages[-1] = Message("assistant", Text("It is noon."))
    told("the turn after tools", chat.send("Thanks.").stats, from_turn(3))
    chat = begin(thinking=False, tools=[])
    chat.send("Plain.")
    chat.messages[-1] = Message("assistant", Text(words(20, 3)))
    told("plain, other words", chat.send("More.").stats, from_turn(3))
    spoken = {**options, "max_tokens": 4}
    told("plain", chat.send("And more.", **spoken).stats, from_turn(3))
    told("plain", chat.send("And more.", **spoken).stats, from_turn(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or hub id; default: the teaching model")
    parser.add_argument("--true-widths", action="store_true", help="ten layers as wide as E2B's")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--words", type=int, nargs="+", default=[12, 50], help="said in each turn")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--reuse", action="store_true", help="what each kind of turn reads again")
    options = parser.parse_args()
    if options.reuse:
        names = ["e2b", "e4b", "12b", "26b-a4b", "31b"] if options.true_widths else [None]
        for name in names:
            model = two_layers(name) if name else g4.load(options.model)
            reuse(name or options.model or "the teaching model", model)
            del model
        return
    model = true_widths() if options.true_widths else g4.load(options.model)
    for count in options.words:
        compare(model, options.turns, count, options.repeat)


if __name__ == "__main__":
    main()
