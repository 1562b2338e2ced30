"""config.json: what is read, and what is refused with which words."""

import copy
import json
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma4_mlx.config import FULL, SLIDING, Gemma4Config, Rope
from gemma4_mlx.errors import ConfigError

TEXT = {
    "model_type": "gemma4_text",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "layer_types": [SLIDING, SLIDING, FULL] * 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_kv_shared_layers": 3,
    "vocab_size": 256,
}
NESTED = reduce(lambda inner, _: [inner], range(3000), 0)


def test_a_text_section_with_an_odd_model_type_is_read():
    """Its place in the multimodal configuration says what it is."""
    config = Gemma4Config.from_dict(
        {"model_type": "gemma4", "text_config": {**TEXT, "model_type": 3}}
    )
    assert config.text.hidden_size == 64


def test_an_untold_or_tied_head():
    assert Gemma4Config.from_dict(TEXT).text.tie_word_embeddings
    untied = {"tie_word_embeddings": False}
    assert not Gemma4Config.from_dict(TEXT | untied).text.tie_word_embeddings
    nested = {"model_type": "gemma4", "text_config": TEXT | untied}
    assert Gemma4Config.from_dict(nested).text.tie_word_embeddings  # the outermost decides
    assert not Gemma4Config.from_dict(nested | untied).text.tie_word_embeddings


def test_as_transformers_reads_it():
    """The last layer is a full one, and the default kind of rope has neither factor nor part."""
    rope = {"rope_type": "default", "rope_theta": 5e3, "factor": 8.0, "partial_rotary_factor": 0.5}
    odd = {"layer_types": [SLIDING, FULL, FULL, SLIDING, FULL, SLIDING]}
    text = Gemma4Config.from_dict(TEXT | odd | {"rope_parameters": {SLIDING: rope}}).text
    assert text.layer_types[-1] == FULL
    assert text.rope[SLIDING] == Rope(theta=5e3)
    scaled = rope | {"rope_type": "proportional"}
    text = Gemma4Config.from_dict(TEXT | {"rope_parameters": {SLIDING: scaled}}).text
    assert text.rope[SLIDING] == Rope(5e3, 0.5, 8.0)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("text_config", "hidden_activation", "relu"),
        ("vision_config", "hidden_activation", "silu"),
        ("audio_config", "hidden_act", "gelu"),
    ],
)
def test_other_activations_are_refused(section, key, value):
    config = {"model_type": "gemma4", "text_config": TEXT, "vision_config": {}, "audio_config": {}}
    Gemma4Config.from_dict(config)
    config[section] = {**config[section], key: value}
    with pytest.raises(ConfigError, match=f"{key} is '{value}'"):
        Gemma4Config.from_dict(config)


def test_shared_layers_have_donors_of_their_own_type():
    text = Gemma4Config.from_dict(TEXT).text
    assert [text.kv_donor(i) for i in range(6)] == [0, 1, 2, 1, 1, 2]
    assert text.first_kv_shared_layer == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"layer_types": [SLIDING] * 5}, "lists 5 layers"),
        ({"layer_types": ["linear_attention"] * 6}, "linear_attention"),
        ({"num_kv_shared_layers": 6}, "at least one must own"),
        ({"num_kv_shared_layers": 5}, "no earlier layer to share with"),
        ({"num_attention_heads": 3}, "cannot share 2 KV heads"),
        ({"enable_moe_block": True}, "num_experts is not given"),
        (
            {
                "enable_moe_block": True,
                "num_experts": 2,
                "top_k_experts": 4,
                "moe_intermediate_size": 8,
            },
            "top_k_experts is 4 of only 2",
        ),
        ({"head_dim": 15}, "odd"),
        ({"per_layer_config": {"9": {"head_dim": 8}}}, "no layer '9'"),
        ({"rope_parameters": {FULL: {"rope_type": "yarn"}}}, "yarn"),
        ({"use_bidirectional_attention": "all"}, "'all'"),
        ({"quantization": {"quant_method": "gptq"}}, "gptq"),
        ({"model_type": ["gemma4"]}, "model_type is"),
        ({"hidden_size": NESTED}, "nested too deep"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_impossible_values_are_named(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Gemma4Config.from_dict({**TEXT, **change}, source="folder/config.json")
    assert "folder/config.json" in str(caught.value)


UNIFIED = {"model_type": "gemma4_unified", "text_config": TEXT}


@pytest.mark.parametrize(
    "name", ["audio_embed_dim", "hidden_size", "output_proj_dims", "audio_samples_per_token"]
)
def test_samples_of_a_soft_token_under_any_name(name):
    read = Gemma4Config.from_dict(UNIFIED | {"audio_config": {name: 320}})
    assert read.audio.audio_embed_dim == 320
    assert Gemma4Config.from_dict(UNIFIED | {"audio_config": {}}).audio.audio_embed_dim == 640


def test_samples_of_a_soft_token_that_disagree():
    both = {"audio_embed_dim": 40, "audio_samples_per_token": 640}
    with pytest.raises(ConfigError, match="audio_embed_dim 40, audio_samples_per_token 640: a"):
        Gemma4Config.from_dict(UNIFIED | {"audio_config": both})


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Gemma4Config.from_file(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        Gemma4Config.from_file(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        Gemma4Config.from_file(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([*TEXT, "rope_parameters", "per_layer_config", "num_experts"]),
    json_values
    | st.dictionaries(
        st.sampled_from([FULL, "3"]),
        json_values
        | st.dictionaries(st.sampled_from(["rope_theta", "head_dim", "rope_type"]), json_values),
    ),
)
def test_any_value_anywhere_is_read_or_refused(key, value):
    try:
        Gemma4Config.from_dict({**copy.deepcopy(TEXT), key: value})
    except ConfigError:
        pass


def test_released_configurations_are_read(reference_dir):
    for path in sorted(reference_dir.glob("config_gemma-4-*-it.json")):
        config = Gemma4Config.from_file(path)
        text = json.loads(path.read_text())["text_config"]
        assert list(config.text.layer_types) == text["layer_types"]
        assert config.text.is_full(config.text.num_hidden_layers - 1)
        assert (config.audio is None) == (json.loads(path.read_text())["audio_config"] is None)
