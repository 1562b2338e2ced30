"""Does a chat keep its word and its size through everything that happens to one?

    python tests/benchmarks/soak.py --minutes 60          random operations on one chat
    python tests/benchmarks/soak.py --turns 10000         memory of turns, said and undone

Random operations (the teaching model): turns with words, pictures, sounds and tools that return,
raise and show pictures; edits, new answers, undone turns, branches; answers left in the middle, by
Ctrl-C and from another thread; saves, loads, caches on disk, and a process killed while it saves.
Now and then the same history is answered by a chat that has never said anything: the answers must
be equal. Every saved file must hold a whole conversation. Printed: operations, comparisons,
differences (the exit status is then 1), and resident memory at the start and the end.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from measure import resident

import gemma4_mlx as g4
from gemma4_mlx.chat import Audio, Image
from gemma4_mlx.errors import Gemma4Error

SAVING = """
import sys, gemma4_mlx as g4
chat = g4.Chat.load(sys.argv[1], g4.load())
print("ready", flush=True)
while True:
    chat.save(sys.argv[2])
"""


class Soak:
    """One chat, and the operations that may happen to it; all chance comes from ``rng``."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.rng, self.folder, self.model = rng, folder, g4.load()
        self.tools = [self.note, self.show, self.fail]
        self.chat = self.fresh()
        self.differences: list[str] = []
        self.compared = 0

    def fresh(self, messages=()) -> g4.Chat:
        options = {"temperature": 0.0, "max_tokens": 12}
        return g4.Chat(self.model, tools=self.tools, options=options, messages=messages)

    # Tools

    def note(self, key: int) -> str:
        """Look up a note.

        Args:
            key: which.
        """
        return f"note {key} <turn|>"

    def show(self) -> list:
        """Show a picture."""
        return [self.picture()]

    def fail(self) -> None:
        """Fail."""
        raise RuntimeError("no power")

    # Media

    def picture(self) -> Image:
        pixels = np.full((48, 48, 3), self.rng.randrange(256), np.uint8)
        return Image(pixels, budget=70)

    def sound(self) -> Audio:
        return Audio(np.sin(np.arange(8000) / self.rng.randrange(5, 99)) * 0.5, rate=16_000)

    def media(self) -> dict:
        return {
            "images": [self.picture() for _ in range(self.rng.choice((0, 0, 1, 2)))],
            "audio": [self.sound() for _ in range(self.rng.choice((0, 0, 1)))],
        }

    def words(self) -> str:
        return self.rng.choice(("Hello", "Count from 3 to 9.", "What is 12 + 30?", "<|turn>x", "é"))

    # Operations

    def say(self) -> None:
        self.chat.send(self.words(), **self.media())

    def use_tools(self) -> None:
        self.chat.run(self.words(), require_tool=True, max_steps=2, max_tokens=40)

    def leave(self) -> None:
        events = self.chat.stream(self.words(), **self.media())
        for _ in islice(events, self.rng.randrange(12)):
            pass
        events.close()

    def interrupt(self) -> None:
        def press():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        timer = threading.Timer(self.rng.random() * 0.3, press)
        timer.start()
        try:
            try:
                self.chat.send(self.words(), **self.media())
            finally:  # not in the next operation
                timer.join()
                time.sleep(0.01)
        except KeyboardInterrupt:
            pass

    def stop(self) -> None:
        timer = threading.Timer(self.rng.random() * 0.2, self.chat.stop)
        timer.start()
        try:
            self.chat.send(self.words(), **self.media())
        finally:
            timer.join()

    def edit(self) -> None:
        users = [i for i, m in enumerate(self.chat.messages) if m.role == "user"]
        self.chat.edit(self.rng.choice(users or [0]), self.words())

    def regenerate(self) -> None:
        self.chat.regenerate()

    def undo(self) -> None:
        self.chat.undo()

    def branch(self) -> None:
        self.chat = self.chat.branch(self._whole())

    def save_and_load(self) -> None:
        path = self.folder / "chat.json"
        self.chat.save(path)
        cached = self.chat.cache is not None and self.rng.random() < 0.5
        if cached:
            self.chat.save_cache(self.folder / "cache")
        options = self.chat.options
        self.chat = g4.Chat.load(path, self.model, tools=self.tools, options=options)
        if cached:
            self.chat.load_cache(self.folder / "cache")

    def kill(self) -> None:
        path, target = self.folder / "chat.json", self.folder / "killed.json"
        self.chat.save(path)
        command = [sys.executable, "-c", SAVING, str(path), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(self.rng.random() * 0.1)
            process.kill()
        if target.exists():
            g4.Chat.load(target, self.model)
        self.chat.save(target)
        if left := [p.name for p in self.folder.iterdir() if p.suffix not in (".json", "")]:
            self.differences.append(f"left over: {left}")

    def _whole(self) -> int:
        """The end of a turn."""
        messages = self.chat.messages
        ends = [i + 1 for i, m in enumerate(messages) if m.role == "assistant" and not m.tool_calls]
        return self.rng.choice(ends or [0])

    def compare(self) -> None:
        """The same history, answered by a chat without a past."""
        messages = [*self.chat.messages]
        said = self.words()
        ours = self.chat.send(said)
        other = self.fresh(messages).send(said)
        self.compared += 1
        if ours.text != other.text:
            self.differences.append(f"{ours.text!r} is {other.text!r} afresh")

    def go(self, seconds: float) -> Counter:
        weights = {
            self.say: 6, self.use_tools: 3, self.leave: 2, self.interrupt: 2, self.stop: 2,
            self.edit: 2, self.regenerate: 2, self.undo: 4, self.branch: 1, self.save_and_load: 2,
            self.kill: 0.2, self.compare: 4,
        }  # fmt: skip
        done: Counter = Counter()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operation = self.rng.choices(list(weights), list(weights.values()))[0]
            done[operation.__name__] += 1
            try:
                operation()
            except Gemma4Error as error:  # such as nothing to undo, or calls that wait
                done[f"refused: {type(error).__name__}"] += 1
            if len(self.chat.messages) > 30:
                self.chat.messages[:] = self.chat.messages[: self._whole()]
            done["operations"] += 1
        return done


def memory(turns: int, base: int) -> None:
    """Resident memory after ``base`` turns with a picture and a sound each, undone, and later."""
    soak = Soak(random.Random(0), Path())
    chat = soak.fresh()
    chat.send("Hello", max_tokens=1)
    for i in range(1, turns + 1):
        chat.send("And?", images=[soak.picture()], audio=[soak.sound()], max_tokens=1)
        chat.undo()
        if i == base:
            begin = resident()
        if i % max(1, turns // 10) == 0 and i >= base:
            now = resident()
            print(
                f"{i} turns: {now / 1e6:.0f} MB, {now / begin:.3f} of that after {base}", flush=True
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, help="measure memory over so many turns instead")
    parser.add_argument("--base", type=int, default=100, help="turns to compare them with")
    options = parser.parse_args()
    if options.turns:
        memory(options.turns, options.base)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(random.Random(options.seed), Path(folder))
        soak.say()
        begin = resident()
        done = soak.go(options.minutes * 60)
    for name, count in done.most_common():
        print(f"{count:6,} {name}")
    print(f"{soak.compared} comparisons with a fresh chat, {len(soak.differences)} differences")
    print(f"memory {begin / 1e6:.0f} MB at the start, {resident() / 1e6:.0f} MB at the end")
    print(*soak.differences[:20], sep="\n")
    return 1 if soak.differences else 0


if __name__ == "__main__":
    sys.exit(main())
