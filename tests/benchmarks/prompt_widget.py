"""What the Prompt widget costs beside the generation that it shows.

    python tests/benchmarks/prompt_widget.py                  # the teaching model
    python tests/benchmarks/prompt_widget.py --model FOLDER

The same answer once by ``Chat.stream`` in a loop that does nothing, once by the widget with its
messages written out as JSON as a kernel does; alternating in one run. CPU seconds of all threads,
so that other work on the machine does not matter. Bars: 5 % of decoding, 30 messages a second.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import gemma4_mlx as g4
from gemma4_mlx.generation import SamplingOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    model = g4.load(options.model) if options.model else g4.load()
    # No answer ends early, nor leaves the text for a marker that shows nothing.
    never = tuple(model.tokenizer.special_ids.values())
    how = SamplingOptions(temperature=0.7, seed=1, max_tokens=options.tokens, suppress_tokens=never)
    messages = 0

    def count(content, buffers=None):
        nonlocal messages
        messages += 1
        json.dumps(content, ensure_ascii=False)

    def plain():
        for _ in g4.Chat(model, options=how).stream("Hello", alternatives=5):
            pass

    def bare():
        for _ in g4.Chat(model, options=how).stream("Hello"):
            pass

    def widget():
        prompt = g4.widgets.Prompt(g4.Chat(model, options=how))
        prompt.send = count
        prompt.say("Hello")
        prompt.wait()

    for run in (plain, widget):
        run()
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "plain": [], "widget": []}
    for _ in range(options.repeats):
        for run in (bare, plain, widget):
            cpu, wall = time.process_time(), time.perf_counter()
            messages = 0
            run()
            used = time.process_time() - cpu, time.perf_counter() - wall
            times[run.__name__].append(used)
    per_token = {
        name: statistics.median(cpu for cpu, _ in found) / options.tokens
        for name, found in times.items()
    }
    ratios = [w[0] / p[0] for w, p in zip(times["widget"], times["plain"])]
    rate = options.tokens / statistics.median(wall for _, wall in times["widget"])
    print(f"decode without alternatives  {1000 * per_token['bare']:.2f} ms CPU per token")
    print(f"decode with 5 alternatives   {1000 * per_token['plain']:.2f} ms CPU per token")
    print(f"the same in the widget       {1000 * per_token['widget']:.2f} ms CPU per token")
    print(f"widget / plain               {statistics.median(ratios):.3f} (bar 1.05)")
    wall = times["widget"][-1][1]
    print(f"{rate:.0f} tokens/s; {messages / wall:.1f} messages a second (bar 30)")


if __name__ == "__main__":
    main()
