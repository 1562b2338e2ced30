"""Grouped-query attention: sliding and full layers, shared keys and values, k = v.

What differs from the textbook, all after transformers' ``modeling_gemma4.py``:

- queries and keys are RMS-normed per head with a weight, values without one; the scale is 1;
- sliding layers see the last ``sliding_window`` keys, full layers all of them, each with its own
  head size, number of KV heads and rotary embedding;
- with ``attention_k_eq_v`` a full layer has no ``v_proj``: its values are the raw output of
  ``k_proj`` under the weightless norm, without rotary embedding;
- the last ``num_kv_shared_layers`` layers have queries only and use the keys and values of the
  last earlier layer of their type;
- one image's soft tokens see each other in both directions where the configuration asks for it,
  on sliding layers only, and still not further back than the window.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..config import TextConfig
from .exponential import attention, slow_exponential
from .layers import RMSNorm, RotaryEmbedding, rms_norm
from .rows import settled
from .sizes import block_rows
from .taps import Tap

#: From how many keys on the CPU backend's softmax for a single query is better done by hand.
CPU_KEYS = 1536


@dataclass(frozen=True)
class AttentionGeometry:
    """Where the queries and keys of one attention call stand, and who sees whom.

    Attributes:
        query_start, n: the queries are positions query_start ... query_start + n - 1.
        key_start, m: the keys are positions key_start ... key_start + m - 1.
        window: a query sees keys less than this far behind it; None on full layers.
        blocks: (B, n) int32 number of the image block each *query position* belongs to, -1 for
            none; None where attention is causal. A block never reaches back before query_start.
        left_padding: (B,) positions in front of each row that are no tokens; None without padding.
        turns: the rotary embedding's cosines and sines of the queries' positions; None where each
            layer computes its own.
    """

    query_start: int
    n: int
    key_start: int
    m: int
    window: int | None = None
    blocks: mx.array | None = None
    left_padding: mx.array | None = None
    turns: tuple[mx.array, mx.array] | None = None

    @property
    def offset(self) -> int | mx.array:
        """Position of the first query for the rotary embedding; one per row (B,) with padding,
        for each row's positions start at its first token."""
        return self.query_start - (0 if self.left_padding is None else self.left_padding)

    def mask(self, rows: slice = slice(None), cols: slice = slice(None)) -> mx.array:
        """Which of the chosen queries see which of the chosen keys: bool (1 or B, 1, r, c).

        Query i sees key j iff (j <= i or both are in one image block) and j > i - window.
        ``rows`` and ``cols`` index the n queries and m keys of this call.
        """
        rows, cols = range(self.n)[rows], range(self.m)[cols]
        i = mx.arange(rows.start, rows.stop)[:, None] + self.query_start
        j = mx.arange(cols.start, cols.stop)[None] + self.key_start
        seen = (j <= i)[None, None]
        if self.blocks is not None:
            # Keys before query_start belong to no block of this call.
            before = self.query_start - self.key_start
            blocks = mx.pad(self.blocks, [(0, 0), (before, 0)], constant_values=-1)
            own = self.blocks[:, rows.start : rows.stop, None]
            same = (own == blocks[:, None, cols.start : cols.stop]) & (own >= 0)
            seen = seen | same[:, None]
        if self.window is not None:
            seen = seen & (j > i - self.window)
        if self.left_padding is not None:
            # A padding query sees itself, so that its softmax has something to sum.
            real = j[None] >= self.left_padding[:, None, None]
            seen = seen & (real | (i == j)[None])[:, None]
        return seen


def attend(q: mx.array, k: mx.array, v: mx.array, geometry: AttentionGeometry) -> mx.array:
    """softmax(q k^T) v for the keys each query sees, softmax in float32.

    Args:
        q: (B, heads, n, D). k, v: (B, kv heads, m, D); head h uses kv head h // (heads / kv heads).

    Queries go in blocks with only the keys that some query of the block sees, so a sliding layer
    costs n * window whatever n is, and the scores held at once stay below SCORE_BYTES.
    """
    B, heads, n, _ = q.shape
    plain = geometry.blocks is None and geometry.left_padding is None
    by_hand = slow_exponential(q)
    if n == 1 and plain and (geometry.window is None or geometry.m <= geometry.window):
        if by_hand and geometry.m >= CPU_KEYS:
            return attention(q, k, v, None)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0)

    behind = geometry.query_start - geometry.key_start
    window = geometry.window or geometry.m
    row_bytes = B * heads * min(geometry.m, 2 * window) * q.itemsize
    rows = block_rows(min(geometry.m, 2 * window), row_bytes, by_hand)
    several = n > rows
    if geometry.window is not None:
        rows = min(rows, max(window, 128))
    outputs = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        first = max(0, start + behind - window + 1)
        last = stop + behind if geometry.blocks is None else geometry.m
        part = q[:, :, start:stop]
        keys, values = k[:, :, first:last], v[:, :, first:last]
        causal_alone = plain and (geometry.window is None or stop + behind <= window)
        if by_hand:
            own = slice(start + behind, stop + behind) if causal_alone else slice(first, last)
            mask = geometry.mask(slice(start, stop), own)
            outputs.append(attention(part, keys, values, mask))
        else:
            if causal_alone:
                mask = "causal" if stop - start > 1 else None
            else:
                mask = geometry.mask(slice(start, stop), slice(first, last))
            outputs.append(
                mx.fast.scaled_dot_product_attention(part, keys, values, scale=1.0, mask=mask)
            )
        if several:  # one block of scores at a time; left lazy they would be held all at once
            settled(outputs[-1], everywhere=True)
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def dequantized(cached: mx.array | tuple, cache, dtype: mx.Dtype) -> mx.array:
    """Keys or values as an array, also from a quantized cache's (packed, scales, biases)."""
    if isinstance(cached, mx.array):
        return cached
    return mx.dequantize(*cached, group_size=cache.group_size, bits=cache.bits).astype(dtype)


def reads_packed(n: int) -> bool:
    """Whether n queries multiply a quantized cache as it is. On a GPU that saves unpacking the
    whole cache for every decoded token; the CPU backend's quantized product is slower than
    unpacking."""
    return n <= 8 and mx.default_device() != mx.cpu


def attend_packed(q: mx.array, kv: tuple, cache, geometry: AttentionGeometry) -> mx.array:
    """:func:`attend` for a few queries on a quantized cache's packed keys and values."""
    from mlx_lm.models.base import quantized_scaled_dot_product_attention

    mask = geometry.mask() if geometry.n > 1 else None
    return quantized_scaled_dot_product_attention(
        q, *kv, scale=1.0, mask=mask, group_size=cache.group_size, bits=cache.bits
    )


class Attention(nn.Module):
    """One layer's attention. KV-shared layers own queries only."""

    def __init__(self, config: TextConfig, layer: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.kv_heads = config.kv_heads_of(layer)
        self.head_dim = config.head_dim_of(layer)
        self.eps = config.rms_norm_eps
        self.owns_kv = layer < config.first_kv_shared_layer
        self.k_eq_v = config.k_eq_v(layer)
        self.rope = RotaryEmbedding(self.head_dim, config.rope[config.layer_types[layer]])

        H = config.hidden_size
        self.q_proj = nn.Linear(H, self.heads * self.head_dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps=self.eps)
        if self.owns_kv:
            self.k_proj = nn.Linear(H, self.kv_heads * self.head_dim, bias=False)
            self.k_norm = RMSNorm(self.head_dim, eps=self.eps)
            if not self.k_eq_v:
                self.v_proj = nn.Linear(H, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, H, bias=False)

    def queries(self, x: mx.array, geometry: AttentionGeometry) -> mx.array:
        """x (B, n, H) -> normed, rotated queries (B, heads, n, D)."""
        B, n, _ = x.shape
        q = self.q_norm(self.q_proj(x).reshape(B, n, self.heads, self.head_dim))
        return self.rope(q.transpose(0, 2, 1, 3), geometry.offset, geometry.turns)

    def keys_values(self, x: mx.array, geometry: AttentionGeometry) -> tuple[mx.array, mx.array]:
        """x (B, n, H) -> normed, rotated keys and normed values, each (B, kv heads, n, D)."""
        B, n, _ = x.shape
        k = self.k_proj(x).reshape(B, n, self.kv_heads, self.head_dim)
        v = k if self.k_eq_v else self.v_proj(x).reshape(B, n, self.kv_heads, self.head_dim)
        k = self.k_norm(k).transpose(0, 2, 1, 3)
        k = self.rope(k, geometry.offset, geometry.turns)
        v = rms_norm(v, self.eps).transpose(0, 2, 1, 3)
        return k, v

    def fill(self, x: mx.array, cache, geometry: AttentionGeometry) -> None:
        """Put the keys and values of x (B, n, H) into the cache, and attend to nothing."""
        cache.update_and_fetch(*self.keys_values(x, geometry))

    def __call__(
        self,
        x: mx.array,  # (B, n, H)
        shared: tuple,  # the donor's (keys, values) for a KV-shared layer, else ignored
        cache,
        geometry: AttentionGeometry,
        tap: Tap,
    ) -> tuple[mx.array, tuple]:
        """Returns the output (B, n, H) and the keys and values used, for layers that share them."""
        B, n, _ = x.shape
        q = tap("queries", self.queries(x, geometry), geometry)
        if self.owns_kv:
            kv = self.keys_values(x, geometry)
            if cache is not None:
                kv = cache.update_and_fetch(*kv)
        else:
            kv = shared
        k, v = (dequantized(part, cache, q.dtype) for part in kv)
        k = tap("keys", k, geometry)
        v = tap("values", v, geometry)
        if isinstance(kv[0], tuple) and reads_packed(n):
            out = attend_packed(q, kv, cache, geometry)  # k and v are then never unpacked
        else:
            out = attend(q, k, v, geometry)
        out = tap("head_outputs", out, geometry)  # (B, heads, n, D)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, n, -1)), kv
