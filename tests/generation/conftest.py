"""Tiny random models in the shapes of the family, with the teaching model's tokenizer."""

from pathlib import Path

import mlx.core as mx
import pytest

import gemma4_mlx
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.model.gemma4 import Model

CHECKPOINT = Path(gemma4_mlx.__file__).parent / "teaching" / "checkpoint"
SLIDING, FULL = "sliding_attention", "full_attention"
WINDOW = 16
VARIANTS = {
    "shared": {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8},
    "moe": {
        "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 16,
    },
    "k_eq_v": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "small": {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]},
    "vision": {"use_bidirectional_attention": "vision"},
}  # fmt: skip


def make_tiny(variant: str = "shared", **changes) -> Model:
    """Six layers (S S F S S F), window 16, 2,048 entries, random weights that give varied text."""
    text = {
        "model_type": "gemma4_text", "vocab_size": 2048, "vocab_size_per_layer_input": 2048,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 64,
        "layer_types": [SLIDING, SLIDING, FULL] * 2, "sliding_window": WINDOW,
        "max_position_embeddings": 4096, "final_logit_softcapping": 30.0,
        **VARIANTS[variant], **changes,
    }  # fmt: skip
    media = {
        "image_token_id": 110, "audio_token_id": 111, "video_token_id": 114, "boi_token_id": 108,
        "boa_token_id": 109, "eoi_token_id": 112, "eoa_token_id": 113,
    }  # fmt: skip
    config = {"model_type": "gemma4", "text_config": text, "eos_token_id": [1, 106], **media}
    model = Model(Gemma4Config.from_dict(config))
    from mlx.utils import tree_map

    key = iter(mx.random.split(mx.random.key(5), 1000))
    model.update(
        tree_map(
            lambda w: (
                1 + 0.1 * mx.random.normal(w.shape, key=next(key))
                if w.ndim == 1
                else mx.random.normal(w.shape, key=next(key)) * w.shape[-1] ** -0.5
            ),
            model.parameters(),
        )
    )
    mx.eval(model.parameters())
    model.generation_config = {"do_sample": False, "eos_token_id": [1, 106, 50]}
    model.fingerprint = f"tiny-{variant}"
    return model


@pytest.fixture(scope="session")
def tokenizer():
    from gemma4_mlx.processing.tokenizer import Tokenizer

    if not (CHECKPOINT / "tokenizer.json").exists():
        pytest.skip("the teaching model's tokenizer is not in this checkout")
    return Tokenizer.from_folder(CHECKPOINT)


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """``tiny(variant)``: a model, made once."""
    made = {}

    def get(variant="shared"):
        if variant not in made:
            made[variant] = make_tiny(variant)
            made[variant].tokenizer = tokenizer
        return made[variant]

    return get


@pytest.fixture
def new_tiny():
    """The same, made anew: for tests that change the model."""
    return make_tiny


@pytest.fixture(scope="session")
def teaching():
    """The teaching model as it is embedded in the package."""
    if not (CHECKPOINT / "model.safetensors").exists():
        pytest.skip("the teaching model's weights are not in this checkout")
    return gemma4_mlx.load()
