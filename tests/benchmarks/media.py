"""Encoding one picture at each budget and a 30 s clip: here, in transformers, in mlx-vlm.

    python tests/benchmarks/media.py                      # E2B's towers at their real size
    python tests/benchmarks/media.py --layers 4 --budgets 70 280
    python tests/benchmarks/media.py --vlm-python ~/vlm/bin/python   # mlx-vlm's own environment

Random float32 weights, each engine in a process of its own; after one small encode to warm up
they encode in turns, so that all meet the same machine load, and the best of ``--repeat`` counts.
CPU seconds, wall seconds, and how far memory rose above what the process held before (weights and
libraries not counted). Ratios are theirs over ours: above 1 we are faster, or need less. Each
gets what its own processor makes of the picture: transformers' pads every picture to the budget,
and that is part of the cost of using it.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BUDGETS = (70, 140, 280, 560, 1120)
SECONDS = 30
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16,
    "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64, "patch_size": 16,
    "pooling_kernel_size": 3, "position_embedding_size": 10240, "use_clipped_linears": True,
}  # fmt: skip
AUDIO = {
    "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8,
    "output_proj_dims": 1536, "use_clipped_linears": True,
}  # fmt: skip


def picture():
    """A photograph's shape: 4:3, larger than any budget."""
    return np.random.default_rng(0).integers(0, 255, (1512, 2016, 3), dtype=np.uint8)


def samples():
    return np.random.default_rng(0).normal(0, 0.1, 16_000 * SECONDS).astype(np.float32)


# --- one engine each: item -> a function that encodes it and waits for the result ---------------


def ours(item, layers):
    sys.path.insert(0, str(HERE.parent.parent))
    import gemma4_mlx  # noqa: F401  # isort: skip  (loads OpenBLAS before MLX)
    import mlx.core as mx

    from gemma4_mlx.config import AudioConfig, VisionConfig
    from gemma4_mlx.model.audio import AudioTower
    from gemma4_mlx.model.vision import VisionTower
    from gemma4_mlx.processing.audio import load_audio
    from gemma4_mlx.processing.image import load_image

    if item == "clip":
        tower = AudioTower(AudioConfig(**AUDIO | layers))
        given, warm = load_audio(samples(), rate=16_000), load_audio(samples()[:8000], rate=16_000)

        def encode(x):
            mx.eval(tower(mx.array(x.mel)))
    else:
        tower = VisionTower(VisionConfig(**VISION | layers))
        given = load_image(picture(), budget=int(item))
        warm = load_image(picture()[:40, :300], budget=70)

        def encode(x):
            mx.eval(tower(mx.array(x.patches), x.positions))

    mx.eval(tower.parameters())
    encode(warm)
    mx.clear_cache()
    return lambda: encode(given)


def transformers(item, layers):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers as t
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel, Gemma4VisionModel

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if item == "clip":
        tower = Gemma4AudioModel(t.Gemma4AudioConfig(**AUDIO | layers)).eval()
        extract = t.Gemma4AudioFeatureExtractor()
        given, warm = (extract([x], return_tensors="pt") for x in (samples(), samples()[:8000]))

        def encode(x):
            with torch.no_grad():
                tower(x["input_features"], x["input_features_mask"])
    else:
        tower = Gemma4VisionModel(t.Gemma4VisionConfig(**VISION | layers)).eval()
        given, warm = (
            Gemma4ImageProcessorPil(max_soft_tokens=budget)(array, return_tensors="pt")
            for budget, array in ((int(item), picture()), (70, picture()[:40, :300]))
        )

        def encode(x):
            with torch.no_grad():
                tower(x["pixel_values"].float(), x["image_position_ids"])

    encode(warm)
    return lambda: encode(given)


def mlx_vlm(item, layers):
    import glob

    for library in ["libopenblas.so.0", *glob.glob("/usr/lib/*/libopenblas.so.0")]:
        try:  # the same BLAS for both
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    import mlx.core as mx
    from mlx_vlm.models.gemma4 import audio, config, vision

    if item == "clip":
        tower = audio.AudioEncoder(config.AudioConfig(**AUDIO | layers))
        mel = mx.array(np.load(os.environ["BENCH_MEL"]))[None]

        def encode(x):
            mx.eval(tower(x, mx.zeros(x.shape[:2], dtype=mx.bool_)))

        given, warm = mel, mel[:, :100]
    else:
        from PIL import Image

        budget = int(item)
        sizes = VISION | layers | {"default_output_length": budget}
        tower = vision.VisionModel(config.VisionConfig(**sizes))
        image = Image.fromarray(picture())
        factor = (budget * 48 * 48 / (image.width * image.height)) ** 0.5
        size = tuple(int(factor * side / 48) * 48 for side in image.size)
        image = np.asarray(image.resize(size), np.float32) / 255
        given = mx.array(image.transpose(2, 0, 1)[None])
        warm = given[:, :, :96, :96]

        def encode(x):
            mx.eval(tower(x))

    mx.eval(tower.parameters())
    encode(warm)
    mx.clear_cache()
    return lambda: encode(given)


ENGINES = {"ours": ours, "transformers": transformers, "mlx-vlm": mlx_vlm}


# --- measuring ----------------------------------------------------------------------------------


def memory(field):
    """Bytes of VmRSS or VmHWM on Linux; elsewhere the highest use so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def child(engine, item, layers):
    """Encode once for each line that comes in, and answer with what it took."""
    run = ENGINES[engine](item, {} if layers is None else {"num_hidden_layers": layers})
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what the warm-up used
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest use so far
    except (OSError, AttributeError):
        pass
    before = memory("VmRSS")
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu": cpu, "wall": wall, "rise": memory("VmHWM") - before}), flush=True)


class Child:
    """An engine with one item, in a process of its own."""

    def __init__(self, python, engine, item, options):
        threads = str(options.threads)
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, threads)
        if engine == "mlx-vlm" and item == "clip":
            environment["BENCH_MEL"] = str(mel_file())
        command = [python, __file__, "--child", engine, item]
        if options.layers is not None:
            command += ["--layers", str(options.layers)]
        self.process = subprocess.Popen(
            command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        while (line := self._line()) != "ready":  # libraries print things of their own
            if not line:
                raise SystemExit(f"{engine} failed on {item}")

    def _line(self):
        return self.process.stdout.readline().strip()

    def encode(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(pythons, item, options):
    """Least seconds and highest memory of each engine, encoding in turns."""
    children = {e: Child(python, e, item, options) for e, python in pythons.items()}
    runs = {engine: [] for engine in children}
    for turn in range(options.repeat):
        for engine in list(children)[:: 1 if turn % 2 == 0 else -1]:
            runs[engine].append(children[engine].encode())
    for process in children.values():
        process.end()
    return {
        engine: {k: (max if k == "rise" else min)(run[k] for run in found) for k in found[0]}
        for engine, found in runs.items()
    }


def mel_file():
    import tempfile

    sys.path.insert(0, str(HERE.parent.parent))
    from gemma4_mlx.processing.audio import load_audio

    path = Path(tempfile.gettempdir()) / "gemma4-bench-mel.npy"
    np.save(path, load_audio(samples(), rate=16_000).mel)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--no-clip", action="store_true")
    parser.add_argument("--layers", type=int, help="layers of a tower; default: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vlm-python", help="a Python that has mlx-vlm")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child, options.layers)

    pythons = {"ours": sys.executable, "transformers": sys.executable}
    if options.vlm_python:
        pythons["mlx-vlm"] = options.vlm_python
    items = [str(b) for b in options.budgets] + ([] if options.no_clip else ["clip"])
    depth = "all layers" if options.layers is None else f"{options.layers} layers"
    print(f"E2B's towers, {depth}, float32, {options.threads} threads, best of {options.repeat}")
    print(f"{'':14}{'':8}{'CPU s':>8}{'wall s':>8}{'rise MB':>9}   ratios: CPU, wall, memory")
    for item in items:
        found = measure(pythons, item, options)
        ours = found["ours"]
        for engine, figures in found.items():
            line = (
                f"{engine:14}{item:>8}{figures['cpu']:8.2f}{figures['wall']:8.2f}"
                f"{figures['rise'] / 1e6:9.0f}"
            )
            if engine != "ours":
                ratios = (figures[k] / max(ours[k], 1e-9) for k in ("cpu", "wall", "rise"))
                line += "   " + ", ".join(f"{r:.2f}" for r in ratios)
            print(line, flush=True)


if __name__ == "__main__":
    main()
