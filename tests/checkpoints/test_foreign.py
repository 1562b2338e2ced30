"""Quantizations of other ecosystems, as their own libraries write them."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.checkpoints import loading
from gemma4_mlx.errors import CheckpointError, ConfigError
from gemma4_mlx.model import ops
from gemma4_mlx.model.ranges import STEPS, rounded

#: Few and small matrices: the libraries' quantizers take a millisecond each.
TEXT = tiny.TEXT_CONFIG | {
    "num_hidden_layers": 3,
    "layer_types": [tiny.SLIDING, tiny.FULL, tiny.FULL],
    "num_kv_shared_layers": 1,
    "num_experts": 4,
}
CONFIG = tiny.CONFIG | {"text_config": TEXT, "vision_config": None, "audio_config": None}
CT = {"quant_method": "compressed-tensors", "format": "mixed-precision"}
#: scheme of compress.py -> how the model holds it: (mode, bits, group size), None for floats
KEPT = {
    "int4": ("affine", 4, 32),
    "int4_asymmetric": ("affine", 4, 32),
    "int4_row": ("affine", 4, None),  # the largest of MLX's groups that divides the row
    "int4_row_asymmetric": ("affine", 4, None),
    "int4_small_groups": None,
    "int3": ("affine", 3, 32),
    "int8_packed": ("affine", 8, 64),
    "int8": ("affine", 8, None),
    "fp8_row": None,
    "fp8_tensor": None,
    "fp8_block": None,
    "mxfp4": ("mxfp4", 4, 32),
    "mxfp8": ("mxfp8", 8, 32),
    "nvfp4": None,
    "nvfp4_exact": ("nvfp4", 4, 16),
}


@pytest.fixture(scope="module")
def schemes(tmp_path_factory):
    """``schemes(name)``: folders of a checkpoint as stored, and of its weights decoded."""
    if not find_spec("compressed_tensors"):
        pytest.skip("the files are written by compressed_tensors")
    root = tmp_path_factory.mktemp("compressed")
    weights = tiny.torch_layout(tiny.weights(CONFIG), tiny.google)
    mx.save_safetensors(str(root / "base.safetensors"), weights)
    script = Path(__file__).with_name("compress.py")
    run = subprocess.run(
        [sys.executable, str(script), str(root / "base.safetensors"), str(root / "out")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]

    def get(name):
        folders = []
        for kind, config in (("stored", {"quantization_config": CT | blocks(name)}), ("exact", {})):
            folder = root / "out" / name / kind
            if not folder.exists():
                folder.mkdir()
                (folder / "config.json").write_text(json.dumps(CONFIG | config))
                (folder.parent / f"{kind}.safetensors").rename(folder / "model.safetensors")
            folders.append(folder)
        return folders

    return get


def blocks(name):
    if name != "fp8_block":
        return {}
    weights = {"strategy": "block", "block_structure": [32, 48]}
    return {"config_groups": {"group_0": {"weights": weights}}}


def outputs(folder, **options):
    return np.array(tiny.logits(g4.load(folder, **options)))


def assert_close(got, expected, tolerance=2e-5):
    assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", KEPT)
def test_same_model_as_the_decoded_weights(name, schemes):
    stored, exact = schemes(name)
    model = g4.load(stored)
    layer = model.layers[0]
    modules = layer.mlp.up_proj, layer.self_attn.q_proj, layer.experts.switch_glu.down_proj
    if KEPT[name] is None:
        assert not any(hasattr(module, "bits") for _, module in model.named_modules())
        mine = dict(tree_flatten(model.parameters()))
        for parameter, value in tree_flatten(g4.load(exact).parameters()):
            np.testing.assert_allclose(mine[parameter], value, rtol=3e-7, err_msg=parameter)
    else:
        mode, bits, group = KEPT[name]
        for module in modules:
            own = group or max(g for g in (128, 64, 32) if width(module) % g == 0)
            assert (module.mode, module.bits, module.group_size) == (mode, bits, own)
            value = mx.dequantize(
                module.weight,
                module.scales.astype(mx.float32) if mode == "affine" else module.scales,
                module.biases.astype(mx.float32) if mode == "affine" else None,
                group_size=own,
                bits=bits,
                mode=mode,
                dtype=mx.float32,
            )
            assert mx.isfinite(value).all()
    assert_close(np.array(tiny.logits(model)), outputs(exact))


def width(module):
    return module.weight.shape[-1] * 32 // module.bits


@pytest.mark.parametrize("asked", ["bfloat16", None])
@pytest.mark.parametrize("name", ["int4", "int4_asymmetric", "fp8_row"])
def test_sixteen_bits(name, asked, schemes, monkeypatch):
    """The type that a GPU computes in, asked for or not: every weight as near as its rounding."""
    stored, exact = schemes(name)
    with monkeypatch.context() as on_a_gpu:
        if asked is None:
            on_a_gpu.setattr(ops, "on_cpu", lambda: False)
            on_a_gpu.setattr(loading, "_dtype", lambda given: given)  # as without --as-gpu
        model = g4.load(stored, dtype=asked)
    floats = {v.dtype for _, v in tree_flatten(model.parameters()) if v.dtype != mx.uint32}
    assert floats == {mx.bfloat16}
    module, rounding = model.layers[0].mlp.up_proj, 2**-8
    value, wanted = module.weight, g4.load(exact).layers[0].mlp.up_proj.weight
    if name != "fp8_row":
        parts = (module.weight, *(module[p].astype(mx.float32) for p in ("scales", "biases")))
        value = mx.dequantize(*parts, group_size=module.group_size, bits=module.bits)
        # symmetric: exact; else the bias is rounded, which is up to 15 steps long
        rounding = 0 if name == "int4" else rounding * 15 * mx.repeat(parts[1], 32, axis=-1)
        wanted_size = 1
    else:
        wanted_size = mx.abs(wanted)
    assert (mx.abs(value.astype(mx.float32) - wanted) <= rounding * wanted_size).all()


def test_blocks_of_rows_change_nothing(schemes, monkeypatch):
    for name in ("int4_asymmetric", "fp8_block", "nvfp4", "nvfp4_exact"):
        stored, _ = schemes(name)
        whole = dict(tree_flatten(g4.load(stored).parameters()))
        monkeypatch.setattr("gemma4_mlx.checkpoints.read.BLOCK_BYTES", 7 * 128 * 4)
        for parameter, value in tree_flatten(g4.load(stored).parameters()):
            assert mx.array_equal(value, whole[parameter]).item(), (name, parameter)
        monkeypatch.undo()


def tensors_of(folder):
    """Name -> (type, shape, bytes); MLX would read 8-bit floats as whole numbers."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, data = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def float32(*values, shape=()):
    return "F32", list(shape), np.array(values, np.float32).tobytes()


def save(folder, config, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    whole = len(text).to_bytes(8, "little") + text + b"".join(t[2] for t in tensors.values())
    (folder / "model.safetensors").write_bytes(whole)
    return folder


def changed(folder, out, change, config=None):
    """A copy of a checkpoint with its tensors put through ``change``."""
    tensors = change(tensors_of(folder))
    return save(out, config or json.loads((folder / "config.json").read_text()), tensors)


def test_modelopts_names_of_nvfp4(schemes, tmp_path):
    """One scale that multiplies where compressed-tensors has one that divides."""
    stored, exact = schemes("nvfp4")

    def rename(tensors):
        out = {}
        for name, value in tensors.items():
            path, _, part = name.rpartition(".")
            if part == "weight_global_scale":
                out[path + ".weight_scale_2"] = float32(1 / np.frombuffer(value[2], np.float32))
                out[path + ".input_scale"] = float32(0.01)
            else:
                out[name.replace("weight_packed", "weight")] = value
        return out

    config = CONFIG | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    assert_close(outputs(changed(stored, tmp_path, rename, config)), outputs(exact))


def test_mixed_with_scales_of_activations_and_cache(schemes, tmp_path):
    """Attention in FP8, MLPs in 4 bits, the first layer left out, scales that are not used."""

    def mix(four, eight, plain):
        out = {}
        for name in four.keys() | eight.keys() | plain.keys():
            source = four if ".mlp." in name or ".experts." in name else eight
            source = plain if ".layers.0." in name else source
            if name in source:
                out[name] = source[name]
        return out

    kinds = ("stored", "exact")
    four, eight = (dict(zip(kinds, schemes(name))) for name in ("int4", "fp8_tensor"))
    folders = {}
    for kind in kinds:
        parts = [tensors_of(source[kind]) for source in (four, eight)]
        folders[kind] = mix(*parts, tensors_of(four["exact"]))
    for layer in range(3):
        base = f"model.language_model.layers.{layer}.self_attn."
        folders["stored"] |= {
            base + "k_proj.input_scale": float32(0.1),
            base + "k_proj.k_scale": float32(0.1),
            base + "v_proj.output_scale": float32(0.1),
            base + "v_scale": float32(0.1),
        }
    config = CONFIG | {
        "quantization_config": CT | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    }
    mixed = save(tmp_path / "mixed", config, folders["stored"])
    model = g4.load(mixed)
    assert not hasattr(model.layers[0].mlp.up_proj, "bits")
    assert model.layers[1].mlp.up_proj.bits == 4
    assert not hasattr(model.layers[1].self_attn.q_proj, "bits")
    assert_close(
        np.array(tiny.logits(model)),
        outputs(save(tmp_path / "exact", CONFIG, folders["exact"])),
    )


def test_scales_that_no_scale_of_mlx_takes_in(schemes, tmp_path):
    """A power of two that pushes a scale below the smallest 8-bit float: the stack is decoded."""
    stored, _ = schemes("nvfp4_exact")
    name = "model.language_model.layers.0.experts.3.up_proj.weight_global_scale"

    def tiny_scale(tensors):
        return tensors | {name: float32(2.0**20, shape=(1,))}

    model = g4.load(changed(stored, tmp_path, tiny_scale))
    experts = model.layers[0].experts.switch_glu
    assert not hasattr(experts.up_proj, "bits") and experts.gate_proj.mode == "nvfp4"


def test_reordered_columns(schemes, tmp_path):
    """``weight_g_idx``: which group a column belongs to, as act-order quantizers store it."""
    stored, _ = schemes("int4_asymmetric")
    path = "model.language_model.layers.1.mlp.up_proj."
    order = np.random.default_rng(0).permutation(128)

    def reorder(tensors):
        index = (order // 32).astype(np.int32)
        return tensors | {path + "weight_g_idx": ("I32", [128], index.tobytes())}

    model = g4.load(changed(stored, tmp_path, reorder))
    got = np.array(model.layers[1].mlp.up_proj.weight)
    tensors = mx.load(str(stored / "model.safetensors"))
    packed, scales = tensors[path + "weight_packed"], tensors[path + "weight_scale"]
    zeros = tensors[path + "weight_zero_point"].view(mx.uint32)
    nibbles = np.arange(0, 32, 4, dtype=np.uint32)
    codes = (np.array(packed.view(mx.uint32))[..., None] >> nibbles & 15).reshape(192, 128)
    zeros = (np.array(zeros)[:, None] >> nibbles[:, None] & 15).reshape(192, 4)
    group = order // 32
    wanted = (codes.astype(np.float32) - zeros[:, group]) * np.array(scales.astype(mx.float32))[
        :, group
    ]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_decoded_weights_can_be_packed_again(schemes):
    stored, exact = schemes("fp8_row")
    model, same = g4.load(stored, bits=8), g4.load(exact)
    for mine, theirs in (
        (model.layers[0].mlp.up_proj, same.layers[0].mlp.up_proj),
        (model.layers[1].experts.switch_glu.up_proj, same.layers[1].experts.switch_glu.up_proj),
    ):
        assert (mine.bits, mine.group_size) == (8, 64)
        value = mx.dequantize(mine.weight, mine.scales, mine.biases, group_size=64, bits=8)
        step = mx.repeat(mx.abs(mine.scales), 64, axis=-1)
        assert (mx.abs(value - theirs.weight) <= 1.01 * step).all()


def test_what_fits_is_planned_without_mlx(schemes):
    folders = [schemes(name)[0] for name in KEPT]
    done = run("for f in sys.argv[1:]: print(g4.fit(f, context=99, memory=16).weights)", *folders)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(g4.fit(f, context=99, memory=16).weights) for f in folders
    ]


class TestMobile:
    """Google's mobile files: 2, 4 and 8 bits, and activations rounded to steps that are stored."""

    @pytest.fixture(scope="class")
    def mobile(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("mobile")
        if not find_spec("transformers.integrations.gemma_quant"):
            pytest.skip("this version of transformers does not read them")
        script = Path(__file__).with_name("mobile.py")
        run = subprocess.run(
            [sys.executable, str(script), str(folder)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
        with np.load(folder / "reference.npz") as arrays:
            return folder, dict(arrays)

    def test_weights(self, mobile, tmp_path):
        """Not calibrated, whatever is stored: every step 0."""
        folder, reference = mobile
        tensors = mx.load(str(folder / "model.safetensors"))
        for name in tensors:
            if name.endswith("_activation_scale"):
                tensors[name] = mx.zeros_like(tensors[name])
        config = json.loads((folder / "config.json").read_text())
        model = g4.load(tiny.save(tmp_path, config, tensors))
        layer = model.layers[0]
        assert (layer.mlp.up_proj.bits, layer.self_attn.q_proj.bits) == (2, 8)
        table = model.language_model.model.embed_tokens
        assert (table.bits, table.group_size) == (4, 64)
        got = np.array(model(mx.array(reference["ids"])))
        assert_close(got, reference["plain"], 1e-4)

    def test_rounding(self, mobile):
        _, reference = mobile
        got = rounded(mx.array(reference["x"]), mx.array(0.03))
        np.testing.assert_array_equal(np.array(got), reference["rounded"])
        np.testing.assert_array_equal(rounded(got, mx.array(0.0)), got)
        x, step = mx.array([-4.0, -3.0, 0.01, 3.0, 4.0]), mx.array(0.03)
        slope = mx.grad(lambda x: (rounded(x, step) * mx.arange(1, 6)).sum())(x)
        assert slope.tolist() == [0, 2, 3, 4, 0]  # straight through, but for what is cut

    def test_calibrated(self, mobile):
        """Where no value lies between two steps to the last digit, the outputs agree to it too;
        one that does moves by a whole step, so not all tokens can be asked for that."""
        folder, reference = mobile
        model = g4.load(folder)
        assert all(step in model.layers[0].mlp.up_proj for step in STEPS)
        assert not model.layers[0].mlp.up_proj.trainable_parameters()
        got, wanted = np.array(model(mx.array(reference["ids"].T))), reference["single"]
        error = np.abs(got - wanted).max(axis=(1, 2)) / np.abs(wanted).max()
        assert (error < 1e-5).mean() > 0.4
        assert np.abs(wanted[:, 0] - reference["plain"][0])[0].max() > 0.05  # rounding counts


class TestRefused:
    def refused(self, folder, *patterns, error=CheckpointError):
        with pytest.raises(error) as caught:
            g4.load(folder)
        for pattern in patterns:
            assert pattern in str(caught.value)
        assert len(str(caught.value)) < 700

    @pytest.mark.parametrize("method", ["gptq", "auto-round", "awq", "bitsandbytes", "hqq", 3])
    def test_method_in_the_configuration(self, method, tmp_path):
        """Before weights are looked at, whatever else the block says."""
        config = tiny.TEXT_CONFIG | {
            "quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}
        }
        folder = tiny.save(tmp_path, config, {"a": mx.zeros(3)})
        self.refused(folder, repr(method), "16-bit", error=ConfigError)

    @pytest.mark.parametrize(
        ("part", "said"),
        [("qweight", "GPTQ"), ("weight.absmax", "bitsandbytes"), ("pre_quant_scale", "AWQ")],
    )
    def test_method_in_the_tensors(self, part, said, tmp_path):
        weights = tiny.weights(tiny.TEXT_CONFIG)
        weights[f"model.layers.0.mlp.up_proj.{part}"] = mx.zeros((4, 4))
        self.refused(tiny.save(tmp_path, tiny.TEXT_CONFIG, weights), said, "up_proj")

    def test_an_expert_is_missing(self, schemes, tmp_path):
        def without(tensors):
            return {n: v for n, v in tensors.items() if ".layers.1.experts.2.up_proj." not in n}

        self.refused(changed(schemes("int4")[0], tmp_path, without), "expert 2 of 4 is missing")

    def test_experts_that_differ(self, schemes, tmp_path):
        name = "model.language_model.layers.1.experts.2.up_proj.weight_scale"

        def other(tensors):
            _, shape, data = tensors[name]
            return tensors | {name: ("F32", shape, data * 2)}

        self.refused(changed(schemes("int4")[0], tmp_path, other), "differ")

    @pytest.mark.parametrize("part", ["weight_packed", "weight_scale", "weight_shape"])
    def test_a_part_is_missing(self, part, schemes, tmp_path):
        name = f"model.language_model.layers.1.mlp.up_proj.{part}"

        def without(tensors):
            return {n: v for n, v in tensors.items() if n != name}

        folder = changed(schemes("int4")[0], tmp_path, without)
        if part == "weight_shape":  # rows of whole words tell the width, too
            g4.load(folder)
        else:
            self.refused(folder, "layers.1.mlp.up_proj")

    @pytest.mark.parametrize("scheme", ["int4", "fp8_row", "nvfp4", "mxfp8", "int8"])
    @pytest.mark.parametrize("part", ["weight_scale", "weight", "weight_packed"])
    def test_impossible_shapes(self, scheme, part, schemes, tmp_path):
        name = f"model.language_model.layers.1.mlp.up_proj.{part}"

        def cut(tensors):
            if name not in tensors:
                pytest.skip("this scheme has no such part")
            dtype, shape, data = tensors[name]
            if len(shape) < 2:
                pytest.skip("one scale for all")
            count = len(data) // int(np.prod(shape))
            rows = np.frombuffer(data, np.dtype((np.void, count))).reshape(shape)[:-1]
            return tensors | {name: (dtype, list(rows.shape), rows.tobytes())}

        self.refused(changed(schemes(scheme)[0], tmp_path, cut), "layers.1.mlp.up_proj")

    def test_cut_short(self, schemes, tmp_path):
        """Between reading headers and weights."""
        from gemma4_mlx.checkpoints.plan import read_plan
        from gemma4_mlx.checkpoints.read import read_as_stored

        folder = Path(shutil.copytree(schemes("int4")[0], tmp_path / "cut"))
        sources = read_plan(folder).sources
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(CheckpointError):
            list(read_as_stored(sources, lambda name, source: None))
