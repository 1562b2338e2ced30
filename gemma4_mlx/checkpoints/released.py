"""The five released models, as data: what ``g4.fit`` knows without a download.

The numbers are those of each repository's ``config.json`` on the Hugging Face hub.
"""

import re
from dataclasses import dataclass

from ..config import (
    FULL,
    SLIDING,
    AudioConfig,
    Gemma4Config,
    Rope,
    TextConfig,
    UnifiedAudioConfig,
    UnifiedVisionConfig,
    VisionConfig,
)
from ..errors import ConfigError


@dataclass(frozen=True)
class Released:
    """A released model: its short name, its hub id and its configuration."""

    name: str
    repo: str
    config: Gemma4Config


def _layer_types(sliding: int, groups: int) -> tuple[str, ...]:
    """``groups`` times: ``sliding`` sliding layers, then a full one."""
    return ((SLIDING,) * sliding + (FULL,)) * groups


def _text(sliding: int, groups: int, **values) -> TextConfig:
    """What all five share, and ``values``."""
    layer_types = _layer_types(sliding, groups)
    return TextConfig(
        num_hidden_layers=len(layer_types),
        layer_types=layer_types,
        final_logit_softcapping=30.0,
        rope={SLIDING: Rope(), FULL: Rope(theta=1e6, partial_rotary_factor=0.25)},
        **values,
    )


_LARGE = dict(
    attention_k_eq_v=True,
    sliding_window=1024,
    max_position_embeddings=262_144,
    use_bidirectional_attention="vision",
)
_SMALL_VISION = VisionConfig(use_clipped_linears=True)
_LARGE_VISION = VisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=72,
    standardize=True,
)

RELEASED = (
    Released(
        "e2b",
        "google/gemma-4-E2B-it",
        Gemma4Config(
            "gemma4",
            _text(
                4,
                7,
                hidden_size=1536,
                intermediate_size=6144,
                num_key_value_heads=1,
                num_kv_shared_layers=20,
                use_double_wide_mlp=True,
                hidden_size_per_layer_input=256,
            ),
            _SMALL_VISION,
            AudioConfig(),
        ),
    ),
    Released(
        "e4b",
        "google/gemma-4-E4B-it",
        Gemma4Config(
            "gemma4",
            _text(
                5,
                7,
                hidden_size=2560,
                intermediate_size=10_240,
                num_key_value_heads=2,
                num_kv_shared_layers=18,
                hidden_size_per_layer_input=256,
            ),
            _SMALL_VISION,
            AudioConfig(),
        ),
    ),
    Released(
        "12b",
        "google/gemma-4-12B-it",
        Gemma4Config(
            "gemma4_unified",
            _text(
                5,
                8,
                hidden_size=3840,
                intermediate_size=15_360,
                num_attention_heads=16,
                num_key_value_heads=8,
                num_global_key_value_heads=1,
                **_LARGE,
            ),
            UnifiedVisionConfig(),
            UnifiedAudioConfig(),
        ),
    ),
    Released(
        "26b-a4b",
        "google/gemma-4-26B-A4B-it",
        Gemma4Config(
            "gemma4",
            _text(
                5,
                5,
                hidden_size=2816,
                intermediate_size=2112,
                num_attention_heads=16,
                num_key_value_heads=8,
                num_global_key_value_heads=2,
                enable_moe_block=True,
                num_experts=128,
                top_k_experts=8,
                moe_intermediate_size=704,
                **_LARGE,
            ),
            _LARGE_VISION,
        ),
    ),
    Released(
        "31b",
        "google/gemma-4-31B-it",
        Gemma4Config(
            "gemma4",
            _text(
                5,
                10,
                hidden_size=5376,
                intermediate_size=21_504,
                num_attention_heads=32,
                num_key_value_heads=16,
                num_global_key_value_heads=4,
                **_LARGE,
            ),
            _LARGE_VISION,
        ),
    ),
)


def released(name: str) -> Released:
    """The released model called ``name``.

    Short names (``"26b-a4b"``, ``"26b"``) and repository names of the models and of their
    conversions (``"mlx-community/gemma-4-26b-a4b-it-4bit"``) are understood.

    Raises:
        ConfigError: no released model is called that.
    """
    if not isinstance(name, str):
        raise ConfigError(f"a released model goes by its name, not by a {type(name).__name__}")
    words = re.split(r"[^a-z0-9]+", name.lower().rsplit("/", 1)[-1])
    for model in RELEASED:
        if model.name.split("-")[0] in words:
            return model
    known = ", ".join(model.name for model in RELEASED)
    raise ConfigError(f"no released Gemma 4 model is called {name!r}; known: {known}")
