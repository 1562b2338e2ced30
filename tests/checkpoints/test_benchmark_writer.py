"""The benchmarks' writer of random checkpoints makes what ``load`` reads."""

import sys
from pathlib import Path

import mlx.core as mx
import pytest
import tiny

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.packing import Packing
from gemma4_mlx.config import Gemma4Config

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import random_checkpoints


@pytest.mark.parametrize("packing", [None, Packing(4, 64), Packing(8, 32)])
def test_writer(packing, tmp_path, monkeypatch):
    monkeypatch.setattr(random_checkpoints, "SHARD_BYTES", 200_000)
    config = Gemma4Config.from_dict(tiny.TEXT_CONFIG)
    random_checkpoints.write(tmp_path, config, packing)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = g4.load(tmp_path)
    assert model.config.text == config.text
    assert hasattr(model.layers[0].mlp.up_proj, "bits") == (packing is not None)
    logits = tiny.logits(model)
    assert mx.isfinite(logits).all() and mx.std(logits) > 0.1
