"""Models with weights on disk: memory under a limit that the system enforces, speed, and policy.

    python tests/benchmarks/from_disk.py real 26b-a4b --experts 2GB --limit 5 --keep FOLDER
    python tests/benchmarks/from_disk.py real 31b --limit 4 --prefill 0 --decode 0 --trace 2048 \
        --chunk 1024 --keep FOLDER
    python tests/benchmarks/from_disk.py resident         decoding with all slots full / in memory
    python tests/benchmarks/from_disk.py policy [TRACE...]  which expert should make room

``real`` writes a checkpoint of the true size with random weights (or takes it from FOLDER), and
runs a process within a control group of so many GB (Linux, as root): 512 tokens of prefill, 16
decoded, a trace. Reported are its resident memory as seen from outside, and the speed of reading
missed experts over that of plain reading of the same file, both from the disk and not the page
cache. ``policy`` replays routing as recorded (by default of texts that the teaching model reads)
with a share of the experts held. Its hit rates are of real routing; random weights route evenly.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil
import random_checkpoints

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.disk.planning import disk_speed
from gemma4_mlx.checkpoints.disk.slots import Slots
from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.checkpoints.released import released

GB = 10**9
GROUP = Path("/sys/fs/cgroup/memory/gemma4-from-disk")


def real(options: argparse.Namespace) -> None:
    folder = Path(options.keep or tempfile.mkdtemp()) / f"{options.model}-{options.bits}bit"
    config = replace(released(options.model).config, vision=None, audio=None)
    if not (folder / "complete").exists():
        begin = time.perf_counter()
        packing = Packing(options.bits, 64) if options.bits < 16 else None
        size = random_checkpoints.write(folder, config, packing)
        (folder / "complete").touch()
        print(f"{size / GB:.1f} GB written in {time.perf_counter() - begin:.0f} s", flush=True)
    limit = int(options.limit * GB)
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(limit))
    command = [sys.executable, __file__, "within", str(folder), "--prefill", str(options.prefill),
               "--decode", str(options.decode), "--trace", str(options.trace)]  # fmt: skip
    command += ["--experts", options.experts] if options.experts else []
    command += ["--chunk", str(options.chunk)] if options.chunk else []
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: (GROUP / "cgroup.procs").write_text(str(os.getpid())),
    )
    most = [0]

    def watch() -> None:
        while process.poll() is None:
            try:
                most[0] = max(most[0], psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.1)

    watching = threading.Thread(target=watch)
    watching.start()
    for line in process.stdout:
        print(line, end="", flush=True)
    watching.join()
    print(
        f"exit status {process.wait()}; resident at most {most[0] / GB:.2f} GB seen from outside, "
        f"limit {limit / GB:.1f} GB"
    )
    GROUP.rmdir()


def within(options: argparse.Namespace) -> None:
    """What the limited process does."""
    import mlx.core as mx

    places = dict(experts="disk", expert_memory=options.experts) if options.experts else {}
    begin = time.perf_counter()
    model = g4.load(options.folder, **(places or dict(layers="disk")))
    reads = model.on_disk.reads
    print(f"loaded in {time.perf_counter() - begin:.1f} s: {model.on_disk}", flush=True)
    rng = np.random.default_rng(0)
    ids = rng.integers(
        3, model.config.text.vocab_size - 3, (1, max(options.prefill, options.trace))
    )

    def step(name: str, work) -> None:
        before, wall, cpu = replace(reads), time.perf_counter(), time.process_time()
        work()
        told = reads - before
        print(
            f"{name}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s; "
            f"{told}; {reads.nbytes - before.nbytes:,} bytes",
            flush=True,
        )

    cache = model.make_cache()

    def prefill() -> None:
        model.read(mx.array(ids[:, : options.prefill]), cache)
        mx.eval([entry.state for entry in cache])

    def decode() -> None:
        for i in range(options.decode):
            mx.eval(model(mx.array(ids[:, i : i + 1]), cache))

    if options.prefill:
        step(f"prefill of {options.prefill}", prefill)
        step(f"decoding {options.decode}", decode)
    if options.trace:
        plan = g4.AttentionPlan(retain="none")
        tokens = ids[0, : options.trace].tolist()
        trace = partial(g4.trace, model, tokens, attention=plan, chunk=options.chunk)
        step(f"trace of {options.trace}", lambda: print(trace()))
    if options.experts:
        missed_over_plain(model, Path(options.folder))


def missed_over_plain(model, folder: Path) -> None:
    """Speed of reading experts, none of which is held or cached, over plain reading's."""
    file = max(folder.glob("*.safetensors"), key=lambda f: f.stat().st_size)
    shelf = model.layers[len(model.layers) // 2].experts.switch_glu.shelf
    reads, found = model.on_disk.reads, []
    for _ in range(5):
        for path in folder.glob("*.safetensors"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        plain, before = disk_speed(file), replace(reads)
        missing = np.flatnonzero(shelf.slots.place < 0)[: len(shelf.slots.held)]
        shelf.hold(missing.tolist())
        told = reads - before
        found.append(told.nbytes / told.waited / plain)
    print("reading missed experts / plain reading:", *(f"{ratio:.2f}" for ratio in found))


def resident(options: argparse.Namespace) -> None:
    """CPU seconds of decoded tokens, in turns."""
    import mlx.core as mx

    models = {
        "in memory": g4.load(),
        "all slots full": g4.load(experts="disk", expert_memory="100MB"),
        "half of them": g4.load(experts="disk", expert_memory="6.6MB"),
    }
    for model in models.values():
        for _ in range(4):
            mx.eval(model(mx.random.randint(3, 1900, (1, 600))))
    caches = {name: model.make_cache() for name, model in models.items()}
    seconds = {name: [] for name in models}
    for turn in range(options.turns):
        for name, model in models.items():
            begin = time.process_time()
            for i in range(50):
                mx.eval(model(mx.array([[3 + (turn * 50 + i) * 7 % 1900]]), caches[name]))
            seconds[name].append(time.process_time() - begin)
    base = np.array(seconds["in memory"])
    for name, of in seconds.items():
        ratio = np.median(base / np.array(of))
        on_disk = models[name].on_disk
        held = f"; {on_disk.slots} slots, all held: {_all_held(models[name])}" if on_disk else ""
        print(f"{name}: {ratio:.2f} of the speed with all in memory{held}")


def _all_held(model) -> bool:
    return all(layer.experts.switch_glu.shelf.whole for layer in model.layers)


def policy(options: argparse.Namespace) -> None:
    traces = [g4.open_trace(file) for file in options.traces] or teaching_traces()
    print("share of chosen experts that were held, token by token, from empty slots")
    kepts = (0.0, 0.5, 0.9, 0.98, 0.995, 1.0)
    print(f"{'':<24}" + "".join(f"{f'kept {kept:g}':>12}" for kept in kepts))
    for share in (0.25, 0.5, 0.75):
        hits = [hit_rate(traces, share, kept) for kept in kepts]
        print(f"{share:<24.0%}" + "".join(f"{hit:>12.3f}" for hit in hits))


def teaching_traces() -> list:
    from gemma4_mlx.studies.corpora import teaching

    model = g4.load()
    texts = [text for label in teaching(model).values() for text in list(label)[:6]]
    return [g4.trace(model, text, attention=None) for text in texts]


def hit_rate(traces: list, share: float, kept: float) -> float:
    held = chosen = 0
    for trace in traces:
        experts = trace.routing.experts
        size = max(experts.shape[2], round(share * trace.routing.num_experts))
        for layer in experts:
            slots = Slots(trace.routing.num_experts, size, kept)
            for needed in layer.tolist():
                held += int(np.count_nonzero(slots.place[needed] >= 0))
                chosen += len(needed)
                slots.used(needed)
                for expert, slot in slots.make_room(needed, needed):
                    slots.fill(expert, slot)
    return held / chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (("real", real), ("within", within)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("model" if name == "real" else "folder")
        command.add_argument("--experts", help="bytes for experts; without it, layers on disk")
        command.add_argument("--prefill", type=int, default=512)
        command.add_argument("--decode", type=int, default=16)
        command.add_argument("--trace", type=int, default=512)
        command.add_argument("--chunk", type=int, help="tokens that the trace reads at once")
        if name == "real":
            command.add_argument("--bits", type=int, default=4)
            command.add_argument("--limit", type=float, required=True, help="GB")
            command.add_argument("--keep", help="a folder where checkpoints stay")
    command = commands.add_parser("resident")
    command.set_defaults(run=resident)
    command.add_argument("--turns", type=int, default=15)
    command = commands.add_parser("policy")
    command.set_defaults(run=policy)
    command.add_argument("traces", nargs="*", type=Path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
