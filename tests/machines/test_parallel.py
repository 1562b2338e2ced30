"""One model on real processes that talk over loopback computes what one process computes."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny

from gemma4_mlx.checkpoints.inventory import layer_sizes, tensors
from gemma4_mlx.checkpoints.packing import Packing, choose
from gemma4_mlx.checkpoints.plan import read_plan
from gemma4_mlx.checkpoints.sharing import divisions, traffic
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.model.stages import Stages, layer_ranges

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
#: Everything of the family, and where it is cut: heads, MLP, experts, tables.
KINDS = ["e2b", "e2b_noshare", "moe", "dense31", "everything"]
#: With groups of 64, heads of 64 numbers and an MLP of three groups.
PACKED = dict(bits=4, group_size=64)


@pytest.fixture
def computed(tmp_path, free_ports):
    """``computed(ranks, cases)``: what rank 0 of so many real processes tells of each case."""
    return partial(_computed, tmp_path, free_ports)


def _computed(tmp_path, free_ports, ranks, cases):
    told = tmp_path / "cases.json"
    told.write_text(json.dumps(cases))
    launch = [Path(sys.executable).with_name("mlx.launch"), "-n", str(ranks), "--backend", "ring"]
    launch += ["--starting-port", str(free_ports(ranks)), "--python", sys.executable]
    run = subprocess.run(
        [*launch, str(HERE / "together.py"), str(told)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(cases), run.stderr[-3000:]
    return lines


def test_logits_of_two_are_those_of_one(checkpoint, computed):
    cases = [dict(folder=str(checkpoint(kind).folder), how={}) for kind in KINDS]
    cases += [dict(case, how=PACKED) for case in cases[-1:]]
    dense, moe = KINDS.index("dense31"), KINDS.index("moe")
    told = computed(2, cases)
    for case, found in zip(cases, told):
        assert max(found["off"]) < 1e-5, (case, found)
    assert told[dense]["share"] < 0.6 and told[moe]["share"] < 0.55
    # 12 layers; the token's embedding, and the logits of all rows.
    assert told[dense]["sent"][0] == told[moe]["sent"][0] == 2 * 12 + 2
    for case, found in zip(cases, told):  # as the planner says beforehand
        plan = read_plan(Path(case["folder"]))
        packings = choose(tensors(plan.config), Packing(4, 64)) if case["how"] else {}
        division = divisions(plan.config, packings, [1, 1], "tensor")[0]
        expected = traffic(plan.config, division, itemsize=4)
        assert found["sent"] == [expected.messages, expected.nbytes], case


def test_logits_of_three_are_those_of_one(computed, tmp_path):
    folder = tiny.save(tmp_path / "m", tiny.CONFIG, tiny.weights(tiny.CONFIG), 2)
    cases = [dict(folder=str(folder), how=how) for how in ({}, PACKED)]
    cases += [dict(case, room=[2, 1, 1]) for case in cases]
    divided, packed, *stages = computed(3, cases)
    for found in (divided, packed):
        assert max(found["off"]) < 1e-5, found
    for found in stages:
        assert max(found["off"]) < 1e-5, found


def test_logits_of_two_stages_are_those_of_one(checkpoint, computed):
    cases = [dict(folder=str(checkpoint(kind).folder), how={}, room=[1, 1]) for kind in KINDS]
    # And with rank 0 alone having room, so that what layers share is made there and used behind.
    cases += [dict(case, room=[5, 2]) for case in (cases[0], cases[-1])]
    for case, found in zip(cases, computed(2, cases)):
        assert max(found["off"]) < 1e-5, (case, found)
        config = Gemma4Config.from_file(case["folder"])
        ranges = layer_ranges(*layer_sizes(config, {}), case["room"])
        stages = Stages(config.text, 0, ranges, lambda path: 1)
        # The stream there and back; the embeddings, where there are per-layer ones; and the keys
        # and values that the other stage's layers share.
        shared = sum(stages.sends_on(layer) for layer in range(config.text.num_hidden_layers))
        expected = 2 + bool(config.text.hidden_size_per_layer_input) + shared
        assert found["sent"][0] == expected, (case, found)
        assert shared >= (case["room"][0] > 1)
