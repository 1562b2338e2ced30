"""The audio tower: log-mel frames of one clip in, soft tokens out.

    frames (T, mel bins), one each 10 ms
      -> two strided convolutions: a quarter of the frames, one each 40 ms
      -> conformer layers: half a feed-forward, attention to the last 13 tokens, a causal
         convolution over the last 5, half a feed-forward
      -> output projection -> soft tokens (ceil(ceil(T / 2) / 2), output_proj_dims)

One clip at a time and without padding, so that no clip can shift another's tokens. Follows
``Gemma4AudioModel`` of transformers (``modeling_gemma4.py``) and ``audio/`` of
google-deepmind/gemma; the encoder is that of the Universal Speech Model (arXiv:2303.01037).

**How far a token sees.** The design has 13 keys: a token and the 12 before it. So says the
configuration (``attention_context_left`` 13), so do the 13 relative positions that the layer
computes, and so does DeepMind's code. transformers 5.24 masks with "distance < 12", which leaves
12 keys and never uses the thirteenth position. ``keys=12`` reproduces that, for comparing
numbers; everything else here uses 13.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from ..config import AudioConfig
from ..errors import ConfigError
from . import ops
from .layers import ClippedLinear, RMSNorm, clip

#: Tokens subsampled at once.
_TOKENS = 128


class AudioTower(nn.Module):
    """Call with ``mel`` (T, mel bins) float32, the valid frames of one clip, at least one;
    gives (n, output_proj_dims) with n = ceil(ceil(T / 2) / 2).

    ``keys``: how many tokens a token sees, itself included; None: the design's 13.

    Raises ConfigError for a configuration with other attention than the released models', and
    ValueError, when called, for ``keys`` below 1 or above the design's.
    """

    def __init__(self, config: AudioConfig):
        super().__init__()
        if config.attention_context_right:
            raise ConfigError("audio_config: attention_context_right other than 0 is unknown here")
        if config.attention_chunk_size != config.attention_context_left - 1:
            # transformers' relative shift is only meaningful when they are.
            raise ConfigError(
                "audio_config: attention_chunk_size must be attention_context_left - 1, found "
                f"{config.attention_chunk_size} and {config.attention_context_left}"
            )
        self.config = config
        self.subsample_conv_projection = Subsampling(config)
        self.layers = [ConformerLayer(config) for _ in range(config.num_hidden_layers)]
        self.output_proj = nn.Linear(config.hidden_size, config.output_proj_dims, bias=True)

    @ops.few_spare_buffers()
    def __call__(self, mel: mx.array, keys: int | None = None) -> mx.array:
        keys = self.config.attention_context_left if keys is None else keys
        if not 1 <= keys <= self.config.attention_context_left:
            raise ValueError(f"keys must be 1 to {self.config.attention_context_left}, got {keys}")
        x = self.subsample_conv_projection(mx.array(mel))  # (n, D)
        distances = sinusoids(self.config, x.dtype)
        for layer in self.layers:
            x = layer(x, distances, keys)
        return self.output_proj(x)


class Subsampling(nn.Module):
    """The clip as a one-channel picture, time down and frequency across, halved twice."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        first, second = config.subsampling_conv_channels
        self.layer0 = ConvLayer(1, first, config.rms_norm_eps)
        self.layer1 = ConvLayer(first, second, config.rms_norm_eps)
        # The number of mel bins equals the first layer's channels (128, as released): a quarter
        # of the bins is left here.
        self.input_proj_linear = nn.Linear((first // 4) * second, config.hidden_size, bias=False)

    def __call__(self, mel: mx.array) -> mx.array:
        x = mel.astype(self.layer0.conv.weight.dtype)[None, :, :, None]  # (1, T, bins, 1)
        n = -(-mel.shape[0] // 4)
        # Some tokens at a time, for the convolutions' memory. The token before them is computed as
        # well and dropped: the convolutions take its frames into account for the next token, and
        # it lacks those before it.
        tokens = []
        for first in range(0, n, _TOKENS):
            before = 1 if first else 0
            block = x[:, 4 * (first - before) : 4 * (first + _TOKENS)]
            block = self.layer1(self.layer0(block))[0, before:]  # (tokens, bins / 4, channels)
            block = self.input_proj_linear(block.reshape(block.shape[0], -1))
            tokens.append(ops.settled(block))
        return mx.concatenate(tokens)


class ConvLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, eps: float):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = RMSNorm(outputs, eps)

    def __call__(self, x: mx.array) -> mx.array:
        """(1, T, F, C) -> (1, ceil(T/2), ceil(F/2), C')."""
        y = self.conv(x).astype(mx.float32)
        # This is a layer norm: the root mean square of channels whose mean is 0 is their standard
        # deviation.
        y = self.norm(y - y.mean(axis=-1, keepdims=True))
        return nn.relu(y.astype(x.dtype))


def sinusoids(config: AudioConfig, dtype: mx.Dtype) -> mx.array:
    """(context, D): the encoding of distance ``context - 1`` down to 0, sines then cosines."""
    half = config.hidden_size // 2
    rates = mx.exp(-mx.arange(half, dtype=mx.float32) * (math.log(10_000.0) / max(half - 1, 1)))
    distance = mx.arange(config.attention_context_left - 1, -1, -1, dtype=mx.float32)
    angles = distance[:, None] * rates
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1).astype(dtype)


class ConformerLayer(nn.Module):
    def __init__(self, config: AudioConfig):
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.limit = config.gradient_clipping
        self.feed_forward1 = FeedForward(config)
        self.self_attn = Attention(config)
        self.lconv1d = LightConv(config)
        self.feed_forward2 = FeedForward(config)
        self.norm_pre_attn = RMSNorm(D, eps)
        self.norm_post_attn = RMSNorm(D, eps)
        self.norm_out = RMSNorm(D, eps)

    def __call__(self, x: mx.array, distances: mx.array, keys: int) -> mx.array:
        x = self.feed_forward1(x)
        y = self.self_attn(self.norm_pre_attn(limited(x, self.limit)), distances, keys)
        x = x + self.norm_post_attn(limited(y, self.limit))
        x = self.feed_forward2(self.lconv1d(x))
        return self.norm_out(limited(x, self.limit))


def limited(x: mx.array, limit: float) -> mx.array:
    """``x`` within +-``limit``, or within the range of its dtype where that is narrower."""
    if limit >= mx.finfo(x.dtype).max:
        limit = mx.finfo(x.dtype).max
    return clip(x, mx.array(-limit, x.dtype), mx.array(limit, x.dtype))


class FeedForward(nn.Module):
    """A residual block whose branch counts for ``residual_weight`` (a half)."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        D, clipped = config.hidden_size, config.use_clipped_linears
        self.limit, self.weight = config.gradient_clipping, config.residual_weight
        self.ffw_layer_1 = ClippedLinear(D, 4 * D, clipped)
        self.ffw_layer_2 = ClippedLinear(4 * D, D, clipped)
        self.pre_layer_norm = RMSNorm(D, config.rms_norm_eps)
        self.post_layer_norm = RMSNorm(D, config.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.pre_layer_norm(limited(x, self.limit))
        y = self.ffw_layer_2(ops.silu(self.ffw_layer_1(y)))
        return x + self.weight * self.post_layer_norm(limited(y, self.limit))


class Attention(nn.Module):
    """Attention to the last ``keys`` tokens, with a learned response to the distance.

    logit(i, j) = 50 tanh((q_i . k_j + q_i . r_{i-j}) / 50), in float32. The queries are cut into
    blocks of 12 whose keys lie in the block itself and the 12 tokens before it, so the scores
    are (heads, blocks, 12, 24) and no n x n matrix exists.
    """

    def __init__(self, config: AudioConfig):
        super().__init__()
        D, clipped = config.hidden_size, config.use_clipped_linears
        self.heads = config.num_attention_heads
        self.head_dim = D // self.heads
        self.block = config.attention_chunk_size
        self.cap = config.attention_logit_cap
        self.q_proj = ClippedLinear(D, D, clipped)
        self.k_proj = ClippedLinear(D, D, clipped)
        self.v_proj = ClippedLinear(D, D, clipped)
        self.post = ClippedLinear(D, D, clipped)
        self.relative_k_proj = nn.Linear(D, D, bias=False)
        self.per_dim_scale = mx.zeros((self.head_dim,))

    def __call__(self, x: mx.array, distances: mx.array, keys: int) -> mx.array:
        n, w = x.shape[0], self.block
        blocks = -(-n // w)
        q, k, v = (p(x).astype(mx.float32) for p in (self.q_proj, self.k_proj, self.v_proj))
        # One scale per dimension of the head; the constants make the initial one 1 / sqrt(d).
        scale = nn.softplus(self.per_dim_scale.astype(mx.float32))
        scale = scale * (self.head_dim**-0.5 / math.log(2))
        k = k * (math.log(1 + math.e) / math.log(2))
        q = q.reshape(n, self.heads, -1) * scale

        q = mx.pad(q, ((0, blocks * w - n), (0, 0), (0, 0))).swapaxes(0, 1)  # (H, blocks * w, d)
        k, v = self._contexts(k, blocks), self._contexts(v, blocks)  # (H, blocks, 2w, d)
        r = self.relative_k_proj(distances).astype(mx.float32)
        r = r.reshape(w + 1, self.heads, -1).transpose(1, 2, 0)  # (H, d, w + 1)

        # Context slot c of query i of a block is the token at distance i + w - c; r's column for
        # that distance is c - i.
        i, c = mx.arange(w)[:, None], mx.arange(2 * w)
        column, distance = c - i, i + w - c
        seen = (distance >= 0) & (distance < keys)  # (w, 2w)
        starts = mx.arange(blocks)[:, None, None] * w
        seen = seen & (starts + c - w >= 0)  # slots before the clip's first token
        by_distance = mx.take_along_axis(
            (q @ r).reshape(self.heads, blocks, w, w + 1),
            mx.broadcast_to(mx.clip(column, 0, w), (self.heads, blocks, w, 2 * w)),
            axis=-1,
        )
        q = q.reshape(self.heads, blocks, w, -1)
        logits = q @ k.swapaxes(-1, -2) + by_distance  # (H, blocks, w, 2w)
        weights = ops.capped_softmax(logits, self.cap, seen)
        out = (weights @ v).transpose(1, 2, 0, 3).reshape(blocks * w, -1)[:n]
        return self.post(out.astype(x.dtype))

    def _contexts(self, x: mx.array, blocks: int) -> mx.array:
        """(n, H*d) -> (H, blocks, 2w, d): each block of w tokens behind the w before it."""
        n, w = x.shape[0], self.block
        x = mx.pad(x, ((w, blocks * w - n), (0, 0))).reshape((blocks + 1) * w, self.heads, -1)
        x = x.swapaxes(0, 1).reshape(self.heads, blocks + 1, w, -1)
        return mx.concatenate([x[:, :-1], x[:, 1:]], axis=2)


class LightConv(nn.Module):
    """A gated causal convolution over the last ``conv_kernel_size`` tokens, each channel alone."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        D, clipped = config.hidden_size, config.use_clipped_linears
        self.limit = config.gradient_clipping
        self.pre_layer_norm = RMSNorm(D, config.rms_norm_eps)
        self.linear_start = ClippedLinear(D, 2 * D, clipped)
        self.depthwise_conv1d = DepthwiseConv(D, config.conv_kernel_size)
        self.conv_norm = RMSNorm(D, config.rms_norm_eps)
        self.linear_end = ClippedLinear(D, D, clipped)

    def __call__(self, x: mx.array) -> mx.array:
        values, gates = mx.split(self.linear_start(self.pre_layer_norm(x)), 2, axis=-1)
        y = self.depthwise_conv1d(ops.glu(values, gates))
        y = ops.silu(self.conv_norm(limited(y, self.limit)))
        return x + self.linear_end(y)


class DepthwiseConv(nn.Module):
    """``weight`` (D, kernel, 1), MLX's convolution layout. As a sum of shifted copies, which is
    faster than a grouped convolution of this size."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.weight = mx.zeros((channels, kernel, 1))

    def __call__(self, x: mx.array) -> mx.array:
        n, kernel = x.shape[0], self.weight.shape[1]
        padded = mx.pad(x, ((kernel - 1, 0), (0, 0)))
        weight = mx.contiguous(self.weight[..., 0].T)
        return _products([padded[i : i + n] for i in range(kernel)], weight)


@mx.compile
def _products(copies: list[mx.array], weight: mx.array) -> mx.array:
    return sum(x * w for x, w in zip(copies, weight))
