"""The vision tower: patches of one picture in, soft tokens out.

    patches (P, 3*p*p) -> linear + two position embeddings, one by column and one by row
      -> encoder layers: every patch sees every patch; rotary embedding by column and row
      -> mean over k x k neighbouring patches -> sqrt(D) -> standardize (large models)
      -> soft tokens (P / k^2, D)

Worked example (patch 16, pooling 3): 1024 x 1024 px is resized to 768 x 768, which makes
48 x 48 = 2304 patches, hence 16 x 16 = 256 soft tokens.

One picture at a time and without padding: pictures differ in size, and padding them to one size
would cost time and memory for nothing. Follows ``Gemma4VisionModel`` of transformers
(``modeling_gemma4.py``) and ``vision/`` of google-deepmind/gemma.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import VisionConfig
from . import ops
from .layers import ClippedLinear, RMSNorm


class VisionTower(nn.Module):
    """Call with ``patches`` (P, 3*p*p), pixel values in [0, 1] and the channel last within a
    patch, and ``positions`` (P, 2), the (column, row) of each; gives (P / k^2, D).

    The patches are a whole grid in row order, its sides multiples of ``pooling_kernel_size``.
    Padding rows with position (-1, -1), as transformers' image processor makes, are dropped.

    The call raises ValueError for positions that are no such grid, or one larger than the model's.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedder = PatchEmbedder(config)
        self.encoder = Encoder(config)
        if config.standardize:
            self.std_bias = mx.zeros((config.hidden_size,))
            self.std_scale = mx.ones((config.hidden_size,))

    @ops.few_spare_buffers()
    def __call__(self, patches: mx.array, positions: np.ndarray | mx.array) -> mx.array:
        positions = np.asarray(positions)
        real = (positions >= 0).all(axis=-1)  # (P,)
        if not real.all():
            keep = np.flatnonzero(real)
            patches, positions = mx.array(patches)[mx.array(keep)], positions[keep]
        columns, rows = grid_of(positions, self.config)

        x = self.patch_embedder(patches, mx.array(positions))  # (P, D)
        dtype = x.dtype
        x = self.encoder(x, mx.array(positions))

        # In float32 to the end: sqrt(D) times the activations can pass float16's range, and
        # std_bias cancels large values.
        k = self.config.pooling_kernel_size
        x = x.astype(mx.float32).reshape(rows // k, k, columns // k, k, -1)
        x = x.mean(axis=(1, 3)).reshape(-1, x.shape[-1])  # (P / k^2, D)
        x = x * self.config.hidden_size**0.5
        if self.config.standardize:
            x = (x - self.std_bias.astype(mx.float32)) * self.std_scale.astype(mx.float32)
        return x.astype(dtype)


def grid_of(positions: np.ndarray, config: VisionConfig) -> tuple[int, int]:
    """(columns, rows) of a patch grid from its ``positions`` (P, 2).

    Raises ValueError if they are not a whole grid in row order that pools evenly, or if it is
    larger than the table of position embeddings.
    """
    if positions.ndim != 2 or positions.shape[-1] != 2 or not len(positions):
        raise ValueError(f"positions must have shape (P, 2), got {positions.shape}")
    columns, rows = (int(n) + 1 for n in positions.max(axis=0))
    n = np.arange(columns * rows)
    if len(positions) != len(n) or not np.array_equal(
        positions, np.stack([n % columns, n // columns], axis=-1)
    ):
        raise ValueError("positions must be the (column, row) of a whole patch grid in row order")
    k = config.pooling_kernel_size
    if columns % k or rows % k:
        raise ValueError(f"a grid of {columns} x {rows} patches cannot be pooled {k} x {k}")
    if max(columns, rows) > config.position_embedding_size:
        raise ValueError(
            f"a grid of {columns} x {rows} patches is larger than the model's "
            f"{config.position_embedding_size} positions"
        )
    return columns, rows


class PatchEmbedder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.input_proj = nn.Linear(3 * config.patch_size**2, config.hidden_size, bias=False)
        # [0] is looked up by column, [1] by row.
        self.position_embedding_table = mx.zeros(
            (2, config.position_embedding_size, config.hidden_size)
        )

    def __call__(self, patches: mx.array, positions: mx.array) -> mx.array:
        table = self.position_embedding_table
        x = (2 * (mx.array(patches) - 0.5)).astype(table.dtype)  # [0, 1] -> [-1, 1]
        return self.input_proj(x) + table[0, positions[:, 0]] + table[1, positions[:, 1]]


class Encoder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, positions: mx.array) -> mx.array:
        rotation = axial_rotation(positions, self.config, x.dtype)
        for layer in self.layers:
            x = layer(x, rotation)
        return x


class EncoderLayer(nn.Module):
    """A norm before and after each half, as in the text decoder."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(D, eps)
        self.post_attention_layernorm = RMSNorm(D, eps)
        self.pre_feedforward_layernorm = RMSNorm(D, eps)
        self.post_feedforward_layernorm = RMSNorm(D, eps)

    def __call__(self, x: mx.array, rotation: tuple[mx.array, mx.array]) -> mx.array:
        heads = self.self_attn.attend(*ops.by_rows(self.queries_keys_values, x, *rotation, axis=1))
        x = ops.by_rows(self.add_heads, x, heads)
        del heads  # so that the feed-forward half can take its memory
        return ops.by_rows(self.feed_forward, x)

    def queries_keys_values(self, x: mx.array, *rotation: mx.array) -> tuple[mx.array, ...]:
        return self.self_attn.project(self.input_layernorm(x), rotation)

    def add_heads(self, x: mx.array, heads: mx.array) -> mx.array:
        """x (P, D) plus what attention adds, given its heads' outputs (P, H*d)."""
        return x + self.post_attention_layernorm(self.self_attn.o_proj(heads))

    def feed_forward(self, x: mx.array) -> mx.array:
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Attention(nn.Module):
    """Every patch attends to every patch; the scale is 1 because queries and keys are normed."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        D, head = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps = config.rms_norm_eps
        clipped = config.use_clipped_linears
        self.q_proj = ClippedLinear(D, self.heads * head, clipped)
        self.k_proj = ClippedLinear(D, self.kv_heads * head, clipped)
        self.v_proj = ClippedLinear(D, self.kv_heads * head, clipped)
        self.o_proj = ClippedLinear(self.heads * head, D, clipped)
        self.q_norm = RMSNorm(head, self.eps)
        self.k_norm = RMSNorm(head, self.eps)

    def project(self, x: mx.array, rotation: tuple[mx.array, mx.array]) -> tuple[mx.array, ...]:
        """x (P, D) -> rotated queries and keys and the values, (heads, P, d) each."""
        P = x.shape[0]
        queries = self.q_norm(self.q_proj(x).reshape(P, self.heads, -1))
        keys = self.k_norm(self.k_proj(x).reshape(P, self.kv_heads, -1))
        values = ops.rms_norm(self.v_proj(x).reshape(P, self.kv_heads, -1), self.eps)
        qkv = rotate(queries, rotation), rotate(keys, rotation), values
        return tuple(y.swapaxes(0, 1) for y in qkv)

    @staticmethod
    def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """softmax(q k^T) v for queries (H, P, d) -> (P, H*d), never all scores at once.

        The largest picture has 10,080 patches: all scores of a 12-head layer would take 4.9 GB
        where no fused kernel makes them. Metal has those for the released head sizes.
        """
        q, k, v = queries[None], keys[None], values[None]
        P = q.shape[2]
        rows = ops.rows_at_once(q, P, masked=False)
        out = []
        for i in range(0, P, rows):
            part = q[:, :, i : i + rows]
            if out:  # a dependency, so that MLX computes one block after another
                part = mx.depends([part], [out[-1]])[0]
            out.append(ops.attention(part, k, v))
        return mx.concatenate(out, axis=2)[0].swapaxes(0, 1).reshape(P, -1)


def axial_rotation(
    positions: mx.array, config: VisionConfig, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Cosines and sines (P, 1, 2, d/4) of the rotary embedding over columns and rows.

    The first half of a head turns by the column, the second by the row, each as a head of d/2
    would: angle j at position x is x * theta^(-2j / (d/2)).
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-mx.arange(0, half, 2, dtype=mx.float32) / half)
    angles = positions.astype(mx.float32)[:, None, :, None] * frequencies
    return mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)


def rotate(x: mx.array, rotation: tuple[mx.array, mx.array]) -> mx.array:
    """Turn ``x`` (P, H, d); within each axis' half, element j pairs with j + d/4."""
    cos, sin = rotation
    P, H, d = x.shape
    x = x.reshape(P, H, 2, 2, d // 4)  # (patch, head, axis, member of the pair, angle)
    a, b = x[..., 0, :], x[..., 1, :]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(P, H, d)


class MLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        D, width, clipped = config.hidden_size, config.intermediate_size, config.use_clipped_linears
        self.gate_proj = ClippedLinear(D, width, clipped)
        self.up_proj = ClippedLinear(D, width, clipped)
        self.down_proj = ClippedLinear(width, D, clipped)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(ops.geglu(self.gate_proj(x), self.up_proj(x)))
