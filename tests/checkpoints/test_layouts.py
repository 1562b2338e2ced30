"""Every layout of the same weights gives the same model."""

import json
import re
import sys

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.layout import model_name


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The model's own layout, and its logits."""
    folder = tiny.save(tmp_path_factory.mktemp("own"), tiny.CONFIG, tiny.weights(tiny.CONFIG))
    model = g4.load(folder)
    return model, np.array(tiny.logits(model))


def parameters(model):
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def assert_same(model, expected):
    other, logits = expected
    mine, theirs = parameters(model), parameters(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    np.testing.assert_array_equal(np.array(tiny.logits(model)), logits)


@pytest.mark.parametrize("shards", [1, 3])
def test_google_layout(shards, expected, tmp_path):
    """``model.language_model...``, stacked gate and up, torch's convolutions, dead tensors."""
    stored = tiny.torch_layout(tiny.weights(tiny.CONFIG), tiny.google)
    assert "model.language_model.layers.4.self_attn.k_proj.weight" in stored
    assert stored["model.language_model.layers.0.experts.gate_up_proj"].shape == (8, 128, 128)
    assert stored["model.audio_tower.layers.0.lconv1d.depthwise_conv1d.weight"].shape == (64, 1, 5)
    assert_same(g4.load(tiny.save(tmp_path, tiny.CONFIG, stored, shards)), expected)


@pytest.mark.parametrize("rename", [tiny.text_only, tiny.bare])
def test_text_only_layouts(rename, expected, tmp_path):
    weights = {n: v for n, v in tiny.weights(tiny.CONFIG).items() if n.startswith(tiny.TEXT)}
    stored = tiny.torch_layout(weights, rename)
    model = g4.load(tiny.save(tmp_path, tiny.TEXT_CONFIG, stored))
    assert model.config.vision is None and model.config.audio is None
    np.testing.assert_array_equal(np.array(tiny.logits(model)), expected[1])


def test_earlier_names_and_leftovers(expected, tmp_path):
    stored = {}
    for name, value in tiny.torch_layout(tiny.weights(tiny.CONFIG), tiny.google).items():
        name = name.replace("audio_tower.layers.", "audio_tower.conformer.")
        name = re.sub(r"projection\.layer([01])\.", r"projection.conv_\1.", name)
        stored[name] = value
    table = stored["model.language_model.embed_tokens.weight"]
    stored["lm_head.weight"] = table
    stored["model.language_model.rotary_emb.inv_freq"] = mx.zeros((16,))
    stored["model.audio_tower.rel_pos_enc.inv_timescales"] = mx.zeros((4,))
    stored["model.vision_tower.encoder.rotary_emb.inv_freq"] = mx.zeros((4,), dtype=mx.int64)
    assert_same(g4.load(tiny.save(tmp_path, tiny.CONFIG, stored)), expected)


@pytest.mark.parametrize("spelling", ["hub", "transformers"])
def test_unified_layouts(spelling, tmp_path):
    """The 12B's embedder under the hub's names and under transformers' in-memory ones."""
    weights = tiny.weights(tiny.UNIFIED)
    stored = tiny.torch_layout(weights, tiny.google)
    if spelling == "transformers":
        stored = {
            name.replace("embed_vision.", "embed_vision.multimodal_embedder.").replace(
                "vision_embedder.", "embed_vision."
            ): value
            for name, value in stored.items()
        }
    model = g4.load(tiny.save(tmp_path, tiny.UNIFIED, stored))
    mine = parameters(model)
    name = "vision_embedder.pos_embedding"
    np.testing.assert_array_equal(mine[name], np.array(weights[name].astype(mx.float32)))
    name = "embed_vision.embedding_projection.weight"
    np.testing.assert_array_equal(mine[name], np.array(weights[name].astype(mx.float32)))


def test_configuration_as_new_transformers_saves_it(expected, tmp_path):
    text = dict(tiny.TEXT_CONFIG)
    overrides = {
        "head_dim": text.pop("global_head_dim"),
        "num_key_value_heads": text.pop("num_global_key_value_heads"),
    }
    text["per_layer_config"] = {"02": overrides, "04": overrides}
    config = tiny.CONFIG | {"text_config": text}
    assert_same(g4.load(tiny.save(tmp_path, config, tiny.weights(tiny.CONFIG))), expected)


def test_conversion_without_towers(expected, tmp_path):
    """mlx-lm keeps the towers' configuration and drops their weights."""
    weights = {n: v for n, v in tiny.weights(tiny.CONFIG).items() if n.startswith(tiny.TEXT)}
    model = g4.load(tiny.save(tmp_path, tiny.CONFIG, weights))
    assert model.config.vision is None and model.config.audio is None
    np.testing.assert_array_equal(np.array(tiny.logits(model)), expected[1])
    with pytest.raises(g4.errors.MediaError):
        model.encode_image(mx.zeros((9, 768)), mx.zeros((9, 2), dtype=mx.int32))


@pytest.mark.parametrize("name", ["mm", "everything", "textonly_moe"])
def test_checkpoints_that_transformers_saved(name, checkpoint):
    reference = checkpoint(name)
    model = g4.load(reference.folder)
    got = np.array(model(mx.array(reference.ids)))
    assert np.abs(got - reference.logits).max() <= 1e-4 * np.abs(reference.logits).max()


def test_names():
    own = "language_model.model.layers.0.mlp.gate_proj.weight"
    for name in (
        own,
        "model.language_model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "layers.0.mlp.gate_proj.weight",
    ):
        assert model_name(name) == own
    assert model_name("model.vision_tower.std_bias") == "vision_tower.std_bias"
    packed = "language_model.model.layers.0.experts.switch_glu.up_proj.scales"
    assert model_name(packed) == packed
    assert model_name(packed.replace("switch_glu", "switch_mlp")) == packed


class TestWhatComesWithTheWeights:
    def test_teaching_model(self):
        model = g4.load()
        assert model.tokenizer is not None and model.tokenizer.encode("hello")
        assert model.generation_config["temperature"] > 0
        assert re.fullmatch("[0-9a-f]{64}", model.fingerprint)
        assert model.source == "teaching model"

    def test_no_heavy_library_is_imported(self):
        import subprocess

        code = "import gemma4_mlx as g4, sys; g4.load(); print(*sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        loaded = set(run.stdout.split())
        assert not loaded & {"mlx_lm", "transformers", "torch", "huggingface_hub", "librosa"}

    @pytest.fixture
    def folder(self, tmp_path):
        return tiny.save(tmp_path / "model", tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG))

    def test_nothing_besides(self, folder):
        model = g4.load(folder)
        assert model.tokenizer is None and model.chat_template is None
        assert model.generation_config == {} and model.processor_config == {}
        assert model.source == str(folder)

    def test_json_files(self, folder):
        (folder / "generation_config.json").write_text('{"top_k": 64, "eos_token_id": [1, 106]}')
        (folder / "preprocessor_config.json").write_text('{"patch_size": 16}')
        model = g4.load(folder)
        assert model.generation_config == {"top_k": 64, "eos_token_id": [1, 106]}
        assert model.processor_config == {"patch_size": 16}
        assert len(tree_flatten(model.parameters())) == len(
            tree_flatten(g4.load(folder).parameters())
        )
        (folder / "generation_config.json").write_text("[1]")
        with pytest.raises(g4.errors.CheckpointError, match=r"generation_config\.json"):
            g4.load(folder)

    def test_chat_template(self, folder):
        named = [{"name": "default", "template": "B"}, {"name": "rag", "template": "C"}]
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": "A"}))
        assert g4.load(folder).chat_template == "A"
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
        assert g4.load(folder).chat_template == "B"
        (folder / "chat_template.jinja").write_text("D")
        assert g4.load(folder).chat_template == "D"

    def test_fingerprint(self, folder, tmp_path):
        first = g4.load(folder).fingerprint
        assert g4.load(folder).fingerprint == first
        assert g4.load(folder, bits=4).fingerprint != first
        weights = tiny.weights(tiny.TEXT_CONFIG)
        name = tiny.TEXT + "layers.1.mlp.up_proj.weight"
        weights[name] = weights[name] * 1.5
        other = tiny.save(tmp_path / "tuned", tiny.TEXT_CONFIG, weights)
        assert g4.load(other).fingerprint != first


def test_types(tmp_path):
    folder = tiny.save(tmp_path, tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG))
    expected = np.array(tiny.logits(g4.load(folder, dtype="float32")))
    for dtype in ("bfloat16", mx.float16):
        model = g4.load(folder, dtype=dtype)
        assert model.dtype == (mx.bfloat16 if dtype == "bfloat16" else mx.float16)
        error = np.abs(np.array(tiny.logits(model)) - expected)
        assert error.mean() < 0.05 * np.abs(expected).max()
    with pytest.raises(g4.errors.CheckpointError, match="float64"):
        g4.load(folder, dtype="float64")


def test_the_users_random_numbers_stay_theirs(tmp_path):
    folder = tiny.save(tmp_path, tiny.TEXT_CONFIG, tiny.weights(tiny.TEXT_CONFIG))
    mx.random.seed(11)
    mx.random.normal((3,))
    want = mx.random.normal((3,)).tolist()
    mx.random.seed(11)
    mx.random.normal((3,))
    g4.load(folder)
    assert mx.random.normal((3,)).tolist() == want
