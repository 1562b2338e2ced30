"""Towers, heads and files that are not where config.json says, or that it says nothing of."""

import json
import logging

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny

import gemma4_mlx as g4
from gemma4_mlx.checkpoints.files import read_folder
from gemma4_mlx.errors import CheckpointError, GenerationError, MediaError
from gemma4_mlx.processing.settings import MediaSettings


def is_tower(name):
    return not name.startswith(tiny.TEXT)


@pytest.fixture(scope="module")
def weights():
    return tiny.weights(tiny.CONFIG)


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory):
    """Logits of the text, and soft tokens of a picture."""
    model = g4.load(tiny.save(tmp_path_factory.mktemp("whole"), tiny.CONFIG, weights))
    return np.array(tiny.logits(model)), picture(model)


def picture(model):
    positions = mx.array([[x, y] for y in range(3) for x in range(3)])
    pixels = mx.random.uniform(shape=(9, 768), key=mx.random.key(3))
    return np.array(model.encode_image(pixels, positions))


def assert_text(model, expected):
    np.testing.assert_array_equal(np.array(tiny.logits(model)), expected[0])


class TestSideFiles:
    @pytest.mark.parametrize("side", ["optiq/optiq_vision.safetensors", "optiq_vision.safetensors"])
    @pytest.mark.parametrize("indexed", [True, False])
    def test_towers_in_a_file_of_their_own(self, side, indexed, weights, expected, tmp_path):
        """As mlx-optiq writes them: with an index that names the file, and with none."""
        towers = {n: v for n, v in weights.items() if is_tower(n)}
        text = {n: v for n, v in weights.items() if not is_tower(n)}
        folder = tiny.save(tmp_path, tiny.CONFIG, text)
        (folder / side).parent.mkdir(exist_ok=True)
        mx.save_safetensors(str(folder / side), towers)
        if indexed:
            index = dict.fromkeys(text, "model.safetensors") | dict.fromkeys(towers, side)
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        model = g4.load(folder)
        assert model.config.vision is not None and model.config.audio is not None
        assert_text(model, expected)
        np.testing.assert_array_equal(picture(model), expected[1])

    def test_other_files_are_left_alone(self, weights, expected, tmp_path):
        """Adapters and original weights beside the model."""
        text = {n: v for n, v in weights.items() if not is_tower(n)}
        folder = tiny.save(tmp_path, tiny.CONFIG, text)
        mx.save_safetensors(str(folder / "adapters.safetensors"), {"a.lora_a": mx.zeros(3)})
        mx.save_safetensors(str(folder / "consolidated.safetensors"), weights)
        model = g4.load(folder)
        assert model.config.vision is None
        assert_text(model, expected)

    def test_a_side_file_that_leads_elsewhere(self, weights, tmp_path):
        text = {n: v for n, v in weights.items() if not is_tower(n)}
        folder = tiny.save(tmp_path / "model", tiny.CONFIG, text)
        other = tmp_path / "other.safetensors"
        mx.save_safetensors(str(other), {n: v for n, v in weights.items() if is_tower(n)})
        (folder / "vision.safetensors").symlink_to(other)
        with pytest.raises(CheckpointError, match="is a link to"):
            g4.load(folder)


class TestLeftOut:
    def test_is_said(self, weights, expected, tmp_path, caplog):
        text = {n: v for n, v in weights.items() if not is_tower(n)}
        with caplog.at_level(logging.WARNING):
            model = g4.load(tiny.save(tmp_path, tiny.CONFIG, text))
        assert_text(model, expected)
        assert "cannot see" in caplog.text and "cannot hear" in caplog.text
        with pytest.raises(MediaError, match="mlx-vlm"):
            MediaSettings.of(model).need_image()

    def test_projectors_without_their_towers(self, weights, expected, tmp_path):
        """Text-only exports that keep embed_vision, with the configuration and without."""
        kept = {n: v for n, v in weights.items() if "_tower." not in n}
        assert "embed_vision.embedding_projection.weight" in kept
        bare = {k: v for k, v in tiny.CONFIG.items() if k not in ("vision_config", "audio_config")}
        for i, config in enumerate((tiny.CONFIG, bare, tiny.TEXT_CONFIG)):
            model = g4.load(tiny.save(tmp_path / str(i), config, kept))
            assert model.config.vision is None and model.config.audio is None
            assert_text(model, expected)

    def test_towers_without_configuration(self, weights, expected, tmp_path, caplog):
        """transformers leaves them out, too."""
        with caplog.at_level(logging.WARNING):
            model = g4.load(tiny.save(tmp_path, tiny.CONFIG | {"vision_config": None}, weights))
        assert "vision tensors are left out" in caplog.text
        assert model.config.vision is None and model.config.audio is not None
        assert_text(model, expected)

    def test_part_of_a_tower_is_one_line(self, weights, tmp_path):
        part = {n: v for n, v in weights.items() if "vision_tower.encoder.layers.1" not in n}
        with pytest.raises(CheckpointError) as caught:
            g4.load(tiny.save(tmp_path, tiny.CONFIG, part))
        assert "more missing tensors of vision_tower" in str(caught.value)
        assert str(caught.value).count("\n") == 1

    def test_a_model_of_other_names_is_no_flood(self, weights, tmp_path):
        folder = tiny.save(tmp_path, tiny.CONFIG, {"x." + n: v for n, v in weights.items()})
        with pytest.raises(CheckpointError) as caught:
            g4.load(folder)
        assert str(caught.value).count("\n") < 60


class TestHeads:
    """``tie_word_embeddings``: what of ``lm_head`` counts."""

    @pytest.fixture(scope="class")
    def head(self):
        mx.random.seed(5)
        return (mx.random.normal((320, 128)) * 0.1).astype(mx.bfloat16)

    def test_head_of_its_own(self, weights, expected, head, tmp_path):
        for i, name in enumerate(("lm_head.weight", "language_model.lm_head.weight")):
            config = tiny.CONFIG | {"tie_word_embeddings": False}
            model = g4.load(tiny.save(tmp_path / str(i), config, weights | {name: head}))
            hidden = np.array(model.hidden(mx.arange(3, 43)[None]))
            wanted = hidden @ np.array(head.astype(mx.float32)).T
            wanted = 30 * np.tanh(wanted / 30)
            np.testing.assert_allclose(np.array(tiny.logits(model)), wanted, atol=1e-4)
        packed = g4.load(tmp_path / "0", bits=4)
        assert isinstance(packed.language_model.lm_head, nn.QuantizedLinear)

    def test_packed_head_of_its_own(self, weights, head, tmp_path):
        names = [f"language_model.lm_head.{part}" for part in ("weight", "scales", "biases")]
        parts = dict(zip(names, mx.quantize(head, group_size=64, bits=4)))
        config = tiny.CONFIG | {"tie_word_embeddings": False}
        model = g4.load(tiny.save(tmp_path, config, weights | parts))
        assert model.language_model.lm_head.bits == 4
        decoded = mx.dequantize(*(p for p in parts.values()), group_size=64, bits=4)
        same = g4.load(tiny.save(tmp_path / "b", config, weights | {"lm_head.weight": decoded}))
        a, b = np.array(tiny.logits(model)), np.array(tiny.logits(same))
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()  # decoded in bfloat16

    def test_tied_heads_do_not_count(self, weights, expected, head, tmp_path):
        """transformers takes the table, whatever is stored beside it; packed or not."""
        names = [f"lm_head.{part}" for part in ("weight", "scales", "biases")]
        parts = dict(zip(names, mx.quantize(head, group_size=64, bits=8)))
        for i, more in enumerate(({"lm_head.weight": head}, parts)):
            assert_text(
                g4.load(tiny.save(tmp_path / str(i), tiny.CONFIG, weights | more)), expected
            )

    def test_the_outermost_configuration_decides(self, weights, expected, head, tmp_path):
        text = tiny.TEXT_CONFIG | {"tie_word_embeddings": False}
        config = tiny.CONFIG | {"text_config": text}
        more = {"lm_head.weight": head}
        assert_text(g4.load(tiny.save(tmp_path, config, weights | more)), expected)

    def test_untied_without_a_head(self, weights, tmp_path):
        config = tiny.CONFIG | {"tie_word_embeddings": False}
        with pytest.raises(CheckpointError, match=r"missing: language_model\.lm_head\.weight"):
            g4.load(tiny.save(tmp_path, config, weights))


def test_flat_configuration(weights, expected, tmp_path):
    config = {k: v for k, v in tiny.CONFIG.items() if k != "text_config"} | tiny.TEXT_CONFIG
    model = g4.load(tiny.save(tmp_path, config | {"model_type": "gemma4"}, weights))
    assert_text(model, expected)
    assert model.config.vision is not None


def test_experts_without_switch_glu(weights, expected, tmp_path):
    stored = {}
    for name, value in weights.items():
        stored[name.replace(".switch_glu.", ".")] = value
    assert_text(g4.load(tiny.save(tmp_path, tiny.CONFIG, stored)), expected)


def test_experts_one_by_one_in_sixteen_bits(weights, expected, tmp_path):
    stored = {}
    for name, value in weights.items():
        base, found, part = name.partition(".switch_glu.")
        if found:
            stored |= {f"{base}.{i}.{part}": matrix for i, matrix in enumerate(value)}
        else:
            stored[name] = value
    folder = tiny.save(tmp_path, tiny.CONFIG, stored)
    assert_text(g4.load(folder), expected)
    packed = g4.load(folder, bits=4).layers[0].experts.switch_glu.up_proj
    name = tiny.TEXT + "layers.0.experts.switch_glu.up_proj.weight"
    assert mx.array_equal(packed.weight, mx.quantize(weights[name], bits=4)[0]).item()


def test_stored_constants(weights, expected, tmp_path):
    more = {
        tiny.TEXT + "embed_tokens.embed_scale": mx.array(11.3),
        tiny.TEXT + "rotary_emb.full_attention_inv_freq": mx.zeros((16,)),
        tiny.TEXT + "sliding_attention_original_inv_freq": mx.zeros((16,)),
        tiny.TEXT + "per_layer_input_scale": mx.array(0.7),
        "audio_tower.layers.0.self_attn.softcap": mx.array(50.0),
        "vision_tower.embeddings.position_ids": mx.zeros((16,), dtype=mx.int64),
    }
    assert_text(g4.load(tiny.save(tmp_path, tiny.CONFIG, weights | more)), expected)


def test_tokens_without_per_layer_embeddings(weights, expected, tmp_path):
    """Embeddings resized for new tokens, per-layer embeddings not: the reference's IndexError."""
    table = tiny.TEXT + "embed_tokens.weight"
    more = {table: mx.concatenate([weights[table], weights[table][:8]])}
    config = tiny.CONFIG | {"text_config": tiny.TEXT_CONFIG | {"vocab_size": 328}}
    model = g4.load(tiny.save(tmp_path, config, weights | more))
    np.testing.assert_allclose(np.array(tiny.logits(model))[..., :320], expected[0], atol=1e-5)
    model(mx.array([[5, 319, tiny.CONFIG["image_token_id"]]]))
    cache = model.make_cache()
    model(mx.array([[5, 6]]), cache=cache)
    for call in (
        lambda: model(mx.array([[5, 320]])),
        lambda: model(mx.array([[327]]), cache=cache),
        lambda: model.read(mx.array([[320]]), cache),
    ):
        with pytest.raises(GenerationError, match="no per-layer embedding"):
            call()


def test_headers_alone_are_read_for_towers(weights, tmp_path):
    folder = tiny.save(tmp_path, tiny.CONFIG, weights)
    (folder / "broken.safetensors").write_bytes(b"not a file of tensors")
    assert len(read_folder(folder)) == len(weights)  # towers are here: nobody looks further
    g4.load(folder)
