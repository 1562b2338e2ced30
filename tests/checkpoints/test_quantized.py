"""Quantized checkpoints of every kind, and quantizing while reading."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.packing import MODES
from gemma4_mlx.errors import CheckpointError
from gemma4_mlx.model import ops
from gemma4_mlx.model.cpu import quantized
from gemma4_mlx.model.moe import QuantizedSwitchLinear, SwitchLinear

ROUTER = {"group_size": 64, "bits": 8}


def quantize(weights, config, choose):
    """As mlx-lm and mlx-vlm write it: ``choose(path) -> dict, True (default) or False``."""
    default = config["quantization"]
    out = {}
    for name, value in weights.items():
        path = name.removesuffix(".weight")
        how = choose(path) if name.endswith(".weight") and value.ndim > 1 else False
        if how is True:
            how = {k: default[k] for k in ("group_size", "bits", "mode")}
        if not how:
            out[name] = value
            continue
        parts = mx.quantize(value, **how)
        out |= {f"{path}.{n}": v for n, v in zip(("weight", "scales", "biases"), parts)}
    return out


def text_matrix(path):
    return path.startswith(tiny.TEXT) and "norm" not in path


def outputs(model):
    return np.array(tiny.logits(model))


def unpacked(stored, group_size, bits, mode):
    """The same checkpoint with every packed matrix written out in float32."""
    out = {}
    for name, value in stored.items():
        path, _, part = name.rpartition(".")
        if path + ".scales" not in stored or part == "bias":
            out[name] = value
        elif part == "weight":
            packed = value, stored[path + ".scales"], stored.get(path + ".biases")
            packed = [
                p if p is None or p.dtype != mx.bfloat16 else p.astype(mx.float32) for p in packed
            ]
            out[name] = mx.dequantize(
                *packed, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
            )
    return out


def assert_close(got, expected, tolerance=2e-4):
    assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A 16-bit checkpoint's folder."""
    return tiny.save(tmp_path_factory.mktemp("plain"), tiny.CONFIG, tiny.weights(tiny.CONFIG))


class TestStored:
    @pytest.mark.parametrize(
        ("mode", "bits", "group_size"),
        [
            ("affine", 4, 64),
            ("affine", 8, 64),
            ("affine", 8, 32),
            ("mxfp4", 4, 32),
            ("mxfp8", 8, 32),
            ("nvfp4", 4, 16),
        ],
    )
    def test_modes(self, mode, bits, group_size, tmp_path):
        config = tiny.CONFIG | {
            "quantization": {"group_size": group_size, "bits": bits, "mode": mode}
        }
        stored = quantize(tiny.weights(tiny.CONFIG), config, text_matrix)
        model = g4.load(tiny.save(tmp_path, config, stored))
        layer = model.layers[0]
        assert isinstance(layer.self_attn.q_proj, nn.QuantizedLinear)
        assert isinstance(layer.experts.switch_glu.up_proj, QuantizedSwitchLinear)
        assert isinstance(model.language_model.model.embed_tokens, nn.QuantizedEmbedding)
        assert (layer.mlp.up_proj.bits, layer.mlp.up_proj.mode) == (bits, mode)
        written_out = unpacked(stored, group_size, bits, mode)
        same = g4.load(tiny.save(tmp_path / "same", tiny.CONFIG, written_out))
        assert_close(outputs(model), outputs(same))
        # one token at a time takes other paths; the sums differ in their order only
        cache, steps = model.make_cache(), []
        for token in range(3, 43):
            steps.append(model(mx.array([[token]]), cache=cache))
        steps = np.array(mx.concatenate(steps, axis=1))
        assert_close(steps, outputs(model))

    def test_overrides(self, tmp_path):
        """8-bit MLPs and router, an unquantized projection, a group size of its own."""
        names = {f"{tiny.TEXT}layers.{i}.router.proj": ROUTER for i in range(5)}
        names |= {f"{tiny.TEXT}layers.{i}.mlp.up_proj": ROUTER for i in range(5)}
        names[f"{tiny.TEXT}layers.0.self_attn.o_proj"] = False
        names[f"{tiny.TEXT}layers.1.self_attn.o_proj"] = {"group_size": 32, "bits": 6}
        config = tiny.CONFIG | {
            "quantization": {"group_size": 64, "bits": 4, "mode": "affine", **names}
        }
        stored = quantize(
            tiny.weights(tiny.CONFIG), config, lambda p: text_matrix(p) and names.get(p, True)
        )
        model = g4.load(tiny.save(tmp_path, config, stored))
        first, second = model.layers[0], model.layers[1]
        assert (first.router.proj.bits, first.mlp.up_proj.bits) == (8, 8)
        assert first.mlp.gate_proj.bits == 4
        assert not isinstance(first.self_attn.o_proj, nn.QuantizedLinear)
        assert (second.self_attn.o_proj.bits, second.self_attn.o_proj.group_size) == (6, 32)

    def test_tensors_decide_not_the_configuration(self, tmp_path):
        """A conversion whose config.json lacks its overrides."""
        config = tiny.CONFIG | {"quantization": {"group_size": 64, "bits": 4, "mode": "affine"}}
        stored = quantize(
            tiny.weights(tiny.CONFIG),
            config,
            lambda path: ROUTER if path.endswith("_proj") and text_matrix(path) else False,
        )
        model = g4.load(tiny.save(tmp_path, config, stored))
        assert model.layers[0].mlp.up_proj.bits == 8
        assert isinstance(model.language_model.model.embed_tokens, nn.Embedding)
        same = g4.load(tiny.save(tmp_path / "same", tiny.CONFIG, unpacked(stored, 64, 8, "affine")))
        assert_close(outputs(model), outputs(same))

    def test_quantized_stack_of_gate_and_up(self, tmp_path):
        """Quantized before gate and up were split: the halves of every part."""
        weights = tiny.torch_layout(tiny.weights(tiny.CONFIG), tiny.google)
        config = tiny.CONFIG | {"quantization": {"group_size": 64, "bits": 8, "mode": "affine"}}
        stored = {}
        for name, value in weights.items():
            if "experts" not in name:
                stored[name] = value
                continue
            parts = mx.quantize(value, group_size=64, bits=8)
            stored |= {f"{name}.{n}": v for n, v in zip(("weight", "scales", "biases"), parts)}
        model = g4.load(tiny.save(tmp_path, config, stored))
        own = quantize(
            tiny.weights(tiny.CONFIG), config, lambda path: "experts" in path and text_matrix(path)
        )
        expected = dict(tree_flatten(g4.load(tiny.save(tmp_path, config, own)).parameters()))
        for name, value in tree_flatten(model.parameters()):
            assert mx.array_equal(value, expected[name]).item(), name

    def test_conversion_by_mlx_lm(self, checkpoint, tmp_path):
        """A checkpoint that mlx-lm itself converted gives mlx-lm's own logits."""
        reference = checkpoint("moe")
        code = """
import sys, json, numpy as np, mlx.core as mx
from pathlib import Path
from mlx_lm.utils import load_model, quantize_model, save_model, save_config
source, out = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((source / "config.json").read_text())
text = config["text_config"]
per_layer = text.pop("per_layer_config", None)  # mlx-lm does not read this spelling
if per_layer:
    first = next(iter(per_layer.values()))
    text["global_head_dim"] = first["head_dim"]
    text["num_global_key_value_heads"] = first.get("num_key_value_heads")
config["vocab_size"] = text["vocab_size"]
model, config = load_model(source, model_config=config)
model, config = quantize_model(model, config, 64, 4)
out.mkdir()
save_model(out, model)
save_config(config, config_path=out / "config.json")
np.save(out / "logits.npy", np.array(model(mx.arange(3, 43)[None])))
"""
        out = tmp_path / "converted"
        run = subprocess.run(
            [sys.executable, "-c", code, str(reference.folder), str(out)],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert json.loads((out / "config.json").read_text())["quantization"]["bits"] == 4
        theirs = np.load(out / "logits.npy")
        model = g4.load(out)
        assert model.layers[0].router.proj.bits == 8 and model.layers[0].mlp.up_proj.bits == 4
        ours = outputs(model)
        assert np.abs(ours - theirs).max() < 2e-4 * np.abs(theirs).max()


class TestBadPacking:
    @pytest.fixture
    def stored(self):
        config = tiny.TEXT_CONFIG | {
            "quantization": {"group_size": 64, "bits": 4, "mode": "affine"}
        }
        return config, quantize(tiny.weights(tiny.TEXT_CONFIG), config, text_matrix)

    PATH = tiny.TEXT + "layers.0.mlp.up_proj"

    def refused(self, tmp_path, config, stored, *patterns):
        with pytest.raises(CheckpointError) as caught:
            g4.load(tiny.save(tmp_path, config, stored))
        for pattern in patterns:
            assert pattern in str(caught.value)

    def test_no_biases(self, stored, tmp_path):
        del stored[1][self.PATH + ".biases"]
        self.refused(tmp_path, *stored, f"missing: {self.PATH}.biases")

    def test_no_scales(self, stored, tmp_path):
        del stored[1][self.PATH + ".scales"]
        self.refused(tmp_path, *stored, f"misshapen: {self.PATH}.weight", "has dtype U32")

    def test_scales_alone(self, stored, tmp_path):
        del stored[1][self.PATH + ".weight"]
        self.refused(tmp_path, *stored, self.PATH)

    @pytest.mark.parametrize("groups", [0, 3, 128])
    def test_impossible_groups(self, groups, stored, tmp_path):
        stored[1][self.PATH + ".scales"] = mx.zeros((192, groups), dtype=mx.bfloat16)
        self.refused(tmp_path, *stored, self.PATH)

    def test_unknown_float_mode(self, stored, tmp_path):
        stored[1][self.PATH + ".scales"] = mx.zeros((192, 2), dtype=mx.uint8)
        self.refused(tmp_path, *stored, self.PATH, "no mode of MLX")

    def test_foreign_method(self, tmp_path):
        config = tiny.TEXT_CONFIG | {"quantization_config": {"quant_method": "gptq"}}
        folder = tiny.save(tmp_path, config, tiny.weights(tiny.TEXT_CONFIG))
        with pytest.raises(g4.errors.ConfigError, match="gptq"):
            g4.load(folder)


class TestWhileReading:
    @pytest.mark.parametrize(
        ("bits", "mode"),
        [(8, "affine"), (4, "affine"), (None, "mxfp4"), (None, "mxfp8"), (None, "nvfp4")],
    )
    def test_equals_quantizing_afterwards(self, bits, mode, plain, monkeypatch):
        """Read in blocks of a few rows that divide nothing evenly."""
        monkeypatch.setattr("gemma4_mlx.checkpoints.read.BLOCK_BYTES", 5 * 128 * 4)
        model = g4.load(plain, bits=bits, mode=mode)
        whole = dict(tree_flatten(g4.load(plain, dtype="bfloat16").parameters()))
        group_size, own_bits = MODES[mode]
        checked = 0
        for path, module in model.named_modules():
            if not hasattr(module, "group_size"):
                continue
            checked += 1
            how = dict(group_size=module.group_size, bits=module.bits, mode=module.mode)
            if path.endswith("router.proj"):
                assert module.bits == 8
            else:
                assert how == dict(group_size=group_size, bits=bits or own_bits, mode=mode)
            for part, value in zip(
                ("weight", "scales", "biases"), mx.quantize(whole[path + ".weight"], **how)
            ):
                np.testing.assert_array_equal(
                    np.array(value.astype(mx.float32)),
                    np.array(module[part].astype(mx.float32)),
                    err_msg=f"{path}.{part}",
                )
        # embeddings, per-layer table and projection; 5 layers of q, o, 3 MLP, 3 experts, router,
        # 2 per-layer projections; 3 layers own keys, 2 of them values
        assert checked == 3 + 5 * 11 + 3 + 2
        assert np.isfinite(outputs(model)).all()

    def test_stacked_experts(self, plain, tmp_path, monkeypatch):
        """gate and up are read from their halves of one tensor, whatever the block size."""
        stored = tiny.torch_layout(tiny.weights(tiny.CONFIG), tiny.google)
        folder = tiny.save(tmp_path, tiny.CONFIG, stored, shards=2)
        expected = dict(tree_flatten(g4.load(plain, bits=4).parameters()))
        for rows in (1, 7, 100, 10_000):
            monkeypatch.setattr("gemma4_mlx.checkpoints.read.BLOCK_BYTES", rows * 128 * 4)
            got = dict(tree_flatten(g4.load(folder, bits=4).parameters()))
            assert got.keys() == expected.keys()
            for name, value in got.items():
                assert mx.array_equal(value, expected[name], equal_nan=True).item(), name

    def test_another_thread_can_run_it(self, plain):
        """Chat and trace compute on the engine's thread; what is lazy belongs to this one."""
        model = g4.load(plain, bits=4)
        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(lambda: np.array(tiny.logits(model))).result()
        assert np.array_equal(other, np.array(tiny.logits(model)))

    def test_rows_that_do_not_divide_stay(self, tmp_path):
        """Groups of 128 fit rows of 128, not of 64 (experts, per-layer projection) or 192."""
        folder = tiny.save(tmp_path, tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG))
        layer = g4.load(folder, bits=4, group_size=128).layers[0]
        assert layer.mlp.up_proj.bits == 4 and isinstance(layer.mlp.up_proj, nn.QuantizedLinear)
        assert not hasattr(layer.mlp.down_proj, "bits")
        assert not hasattr(layer.per_layer_projection, "bits")
        assert type(layer.experts.switch_glu.down_proj) is SwitchLinear

    def test_towers_stay(self, plain):
        model = g4.load(plain, bits=4)
        for tower in (model.vision_tower, model.audio_tower, model.embed_vision):
            assert not any(hasattr(module, "bits") for _, module in tower.named_modules())

    def test_mlx_lms_loader_type(self, plain):
        """Adapters look for these classes."""
        model = g4.load(plain, bits=8)
        assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"bits": 7},
            {"bits": 16},
            {"bits": 0},
            {"bits": 4, "group_size": 48},
            {"mode": "int4"},
            {"bits": 8, "mode": "mxfp4"},
        ],
    )
    def test_impossible_requests(self, arguments, plain):
        with pytest.raises(CheckpointError, match="expected"):
            g4.load(plain, **arguments)

    def test_already_quantized(self, tmp_path):
        config = tiny.TEXT_CONFIG | {
            "quantization": {"group_size": 64, "bits": 4, "mode": "affine"}
        }
        stored = quantize(tiny.weights(tiny.TEXT_CONFIG), config, text_matrix)
        with pytest.raises(CheckpointError, match="quantized already"):
            g4.load(tiny.save(tmp_path, config, stored), bits=8)


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on the CPU backend only")
class TestCPULayers:
    """Unpacking blocks of weights gives what MLX's quantized products give."""

    @pytest.mark.parametrize(
        ("mode", "bits"), [("affine", 3), ("affine", 4), ("mxfp4", 4), ("nvfp4", 4)]
    )
    @pytest.mark.parametrize("rows", [1, 4, 5, 40])
    def test_linear_and_head(self, mode, bits, rows, monkeypatch):
        monkeypatch.setattr(quantized, "BLOCK_BYTES", 4 * 256 * 30)  # 30 of 100 rows at a time
        group_size = MODES[mode][0]
        x = mx.random.normal((1, rows, 256))
        linear = nn.Linear(256, 100).to_quantized(group_size, bits, mode)
        ours = quantized.QuantizedLinear(256, 100, True, group_size, bits, mode)
        ours.update(linear.parameters())
        np.testing.assert_allclose(ours(x), linear(x), atol=1e-4)
        table = nn.Embedding(100, 256).to_quantized(group_size, bits, mode)
        mine = quantized.QuantizedEmbedding(100, 256, group_size, bits, mode)
        mine.update(table.parameters())
        np.testing.assert_allclose(mine.as_linear(x), table.as_linear(x), atol=1e-4)
        assert mine(mx.array([3])).dtype == mx.float32

    @pytest.mark.parametrize("scales", [mx.float32, mx.bfloat16])
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("rows", [3, 90])
    def test_experts(self, scales, ordered, rows, monkeypatch):
        experts = SwitchLinear(64, 48, 8)
        experts.weight = mx.random.normal((8, 48, 64))
        theirs = experts.to_quantized(32, 4)
        mine = QuantizedSwitchLinear(64, 48, 8, 32, 4)
        for name in ("scales", "biases"):
            rounded = theirs[name].astype(scales)
            mine[name], theirs[name] = rounded, rounded.astype(mx.float32)
        mine.weight = theirs.weight
        x, chosen = mx.random.normal((rows, 1, 64)), mx.random.randint(0, 8, (rows,))
        if ordered:
            chosen = mx.sort(chosen)
        got = mine(x, chosen, ordered)
        monkeypatch.setattr(ops, "on_cpu", lambda: False)  # theirs: MLX's own product
        np.testing.assert_allclose(got, theirs(x, chosen, ordered), atol=1e-4)


def test_quantized_towers(tmp_path):
    """Some conversions quantize the towers' matrices and the projectors as well."""
    config = tiny.CONFIG | {"quantization": {"group_size": 32, "bits": 8, "mode": "affine"}}
    weights = tiny.weights(tiny.CONFIG)

    def tower_matrix(path):
        matrix = weights[path + ".weight"]
        return not path.startswith(tiny.TEXT) and matrix.ndim == 2 and matrix.shape[-1] % 32 == 0

    stored = quantize(weights, config, tower_matrix)
    model = g4.load(tiny.save(tmp_path, config, stored))
    assert model.embed_vision.embedding_projection.bits == 8
    assert "bias" in model.audio_tower.output_proj and model.audio_tower.output_proj.bits == 8
    same = g4.load(tiny.save(tmp_path / "same", tiny.CONFIG, unpacked(stored, 32, 8, "affine")))
    patches = mx.random.uniform(shape=(9, 768))
    positions = mx.array([[x, y] for y in range(3) for x in range(3)])
    assert_close(
        np.array(model.encode_image(patches, positions)),
        np.array(same.encode_image(patches, positions)),
    )
    mel = mx.random.normal((40, 16))
    assert_close(np.array(model.encode_audio(mel)), np.array(same.encode_audio(mel)))
