"""Memory and time of ``load(bits=4)`` on a 16-bit checkpoint of about 3 GB, and of plain loading.

    python tests/benchmarks/load_quantizing.py

The 12B's layers, six of them, with a vocabulary of 32,768. The bound: what is resident before,
plus the quantized weights, plus twice the largest tensor of the file.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import random_checkpoints

from gemma4_mlx.checkpoints.files import read_folder
from gemma4_mlx.checkpoints.inventory import tensors
from gemma4_mlx.checkpoints.packing import asked_for, choose
from gemma4_mlx.checkpoints.planner import weight_bytes
from gemma4_mlx.checkpoints.released import released

HERE = Path(__file__).parent
GB = 1e9


def main() -> None:
    whole = released("12b").config
    layers = 6
    text = replace(
        whole.text,
        num_hidden_layers=layers,
        layer_types=whole.text.layer_types[:layers],
        vocab_size=32_768,
    )
    config = replace(whole, model_type="gemma4", text=text, vision=None, audio=None)
    folder = Path(tempfile.mkdtemp(prefix="gemma4-load-"))
    try:
        written = random_checkpoints.write(folder, config, None)
        largest = max(stored.nbytes for stored in read_folder(folder).values())
        print(f"{written / GB:.2f} GB on disk, largest tensor {largest / GB:.2f} GB")
        print(f"{'bits':<6}{'load s':>8}{'CPU s':>8}{'weights':>9}{'peak':>8}{'bound':>8}  GB")
        for bits in (4, 8, None):
            command = [sys.executable, str(HERE / "measure.py"), str(folder), "--prefill"]
            command += ["--bits", str(bits)] if bits else []
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            result = json.loads(done.stdout.splitlines()[-1])
            packings = choose(tensors(config), asked_for(bits, 64, "affine"))
            weights = sum(weight_bytes(config, packings, 4).values())
            bound = result["before"] + weights + 2 * largest
            assert result["load_peak"] <= bound, "more memory than promised"
            print(
                f"{bits or 'as is':<6}{result['load_wall']:>8.1f}{result['load_cpu']:>8.1f}"
                f"{weights / GB:>9.2f}{result['load_peak'] / GB:>8.2f}{bound / GB:>8.2f}"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
