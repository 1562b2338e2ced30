"""The audio tower against transformers with 12 keys, and as designed with 13."""

import mlx.core as mx
import numpy as np
import pytest
from media_reference import arrays

import gemma4_mlx as g4
from gemma4_mlx.config import AudioConfig
from gemma4_mlx.errors import ConfigError
from gemma4_mlx.model import audio
from gemma4_mlx.model.audio import AudioTower

pytestmark = pytest.mark.float32


def relative(ours, theirs):
    return np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def tower(checkpoint):
    return g4.load(checkpoint("mm").folder).audio_tower


@pytest.mark.parametrize("frames", [1, 4, 5, 47, 48, 49, 200])
@pytest.mark.parametrize("keys", [12, 13])
def test_tower_equals_transformers(tower, frames, keys):
    """13: transformers with its mask opened by the one key that it leaves out."""
    reference = arrays("towers")
    ours = tower(mx.array(reference[f"{frames}_mel"]), keys=keys)
    assert relative(ours, reference[f"{frames}_features_{keys}"]) < 1e-5


def test_the_design_is_the_default(tower):
    mel = mx.array(arrays("towers")["200_mel"])
    assert mx.array_equal(tower(mel), tower(mel, keys=13))
    assert not mx.allclose(tower(mel), tower(mel, keys=12), atol=1e-3)


@pytest.mark.parametrize("keys", [1, 5, 12, 13])
def test_blocks_equal_plain_attention(tower, keys):
    """One attention layer against a loop over queries and the keys each sees."""
    attention = tower.layers[0].self_attn
    config, n = tower.config, 31
    mx.random.seed(4)
    x = mx.random.normal((n, config.hidden_size))
    from gemma4_mlx.model.audio import sinusoids

    distances = sinusoids(config, x.dtype)
    ours = np.array(attention(x, distances, keys))

    heads, d = attention.heads, attention.head_dim
    q, k, v = (
        np.array(p(x)).reshape(n, heads, d)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    softplus = np.logaddexp(0, np.array(attention.per_dim_scale))
    q = q * softplus * d**-0.5 / np.log(2)
    k = k * np.log1p(np.e) / np.log(2)
    r = np.array(attention.relative_k_proj(distances)).reshape(-1, heads, d)[::-1]  # by distance
    out = np.zeros((n, heads, d))
    for i in range(n):
        near = np.arange(max(0, i - keys + 1), i + 1)
        logits = np.einsum("hd,jhd->hj", q[i], k[near]) + np.einsum("hd,jhd->hj", q[i], r[i - near])
        weights = np.exp(50 * np.tanh(logits / 50))
        weights /= weights.sum(-1, keepdims=True)
        out[i] = np.einsum("hj,jhd->hd", weights, v[near])
    expected = np.array(attention.post(mx.array(out.reshape(n, -1).astype(np.float32))))
    assert relative(ours, expected) < 1e-5


def test_subsampling_in_blocks_changes_nothing(tower, monkeypatch):
    mel = mx.array(arrays("towers")["200_mel"])
    for frames in (200, 197, 41, 9):
        whole = tower(mel[:frames])
        with monkeypatch.context() as patch:
            patch.setattr(audio, "_TOKENS", 3)
            assert relative(tower(mel[:frames]), np.array(whole)) < 1e-5


def test_clips_do_not_depend_on_what_follows(tower):
    """Everything is causal: the beginning of a clip makes the beginning of its tokens."""
    mel = mx.array(arrays("towers")["200_mel"])
    whole, half = tower(mel), tower(mel[:100])
    assert relative(half[:24], np.array(whole[:24])) < 1e-5


def test_unknown_layouts_are_refused(tower):
    with pytest.raises(ConfigError, match="context_right"):
        AudioTower(AudioConfig(attention_context_right=1))
    with pytest.raises(ConfigError, match="chunk_size"):
        AudioTower(AudioConfig(attention_chunk_size=10))
    with pytest.raises(ValueError, match="keys"):
        tower(mx.zeros((8, 128)), keys=14)


def test_half_precision_stays_finite(tower):
    config = AudioConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
        subsampling_conv_channels=(16, 8), output_proj_dims=32,
    )  # fmt: skip
    small = AudioTower(config)
    small.set_dtype(mx.float16)
    out = small(mx.random.normal((40, 16)))
    assert out.dtype == mx.float16 and out.shape == (10, 32) and mx.isfinite(out).all().item()
