"""Does the wait for the first token grow with the conversation?

    python tests/benchmarks/chat_turns.py [--model FOLDER] [--turns 20] [--words 12]

The same new text is said in every turn. Printed for the first, second and last turn: CPU seconds
from the call to the first token, tokens in the prompt and how many of them were new; then the
ratio of the last turn to the second, and what the last turn costs without a cache. CPU seconds of
all threads are used because wall time on a shared machine says little. New text still attends to
everything before it in the full-attention layers: with many new words in a long conversation (say
--words 120 on the tiny teaching model) that part shows.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

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


def conversation(model, turns: int, text: str) -> list[tuple[float, object]]:
    chat = g4.Chat(model, options={"max_tokens": 16, "temperature": 0.0})
    seen = [first_token(chat, text) for _ in range(turns)]
    chat.cache = None  # the last turn once more, reading everything
    chat.undo()
    return [*seen, first_token(chat, text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or hub id; default: the teaching model")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--words", type=int, default=12, help="words said in each turn")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    model = g4.load(options.model)
    text = " ".join(f"stone{i % 7}" for i in range(options.words))
    conversation(model, 2, text)  # compile
    runs = [conversation(model, options.turns, text) for _ in range(options.repeat)]
    medians = [statistics.median(run[i][0] for run in runs) for i in range(options.turns + 1)]
    for i in (0, 1, options.turns - 1):
        stats = runs[0][i][1]
        new = stats.prompt_tokens - stats.reused_tokens
        print(
            f"turn {i + 1:2}: {medians[i]:.3f} CPU s to the first token, "
            f"{stats.prompt_tokens} tokens, {new} of them new"
        )
    last, second, whole = medians[options.turns - 1], medians[1], medians[options.turns]
    print(f"turn {options.turns} / turn 2: {last / second:.2f}")
    print(
        f"turn {options.turns} without a cache: {whole:.3f} CPU s, {whole / last:.1f} times as much"
    )


if __name__ == "__main__":
    main()
