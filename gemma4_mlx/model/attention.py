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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import TextConfig
from . import ops
from .layers import RMSNorm, RotaryEmbedding
from .scores import ScoreChange, attend_changed
from .sizes import LEAST_ROWS
from .taps import Tap

#: Up to so many queries read a quantized cache as it is.
PACKED_QUERIES = 8
#: Bytes of masks kept for the next layer where each block has another (pictures, padding).
KEPT = 16 * 2**20


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
        shared: what the layers that are called with this geometry work out once.
        changes: what interventions change in the scores of the layer that is computed now: put in
            at its tap "queries", and taken out by the layer.
    """

    query_start: int
    n: int
    key_start: int
    m: int
    window: int | None = None
    blocks: mx.array | None = None
    left_padding: mx.array | None = None
    shared: dict = field(default_factory=dict, init=False, repr=False, compare=False)
    changes: list[ScoreChange] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def offset(self) -> int | mx.array:
        """Position of the first query for the rotary embedding; one per row (B,) with padding,
        for each row's positions start at its first token."""
        return self.query_start - (0 if self.left_padding is None else self.left_padding)

    @property
    def plain(self) -> bool:
        """Whether a query sees the keys up to its own position, or those of them in a window."""
        return self.blocks is None and self.left_padding is None

    @cached_property
    def sees_all(self) -> bool:
        """Whether there is one query, and it sees every key: a decoded token."""
        return self.n == 1 and self.plain and (self.window is None or self.m <= self.window)

    @property
    def reach(self) -> int:
        """The most keys that a block of queries is computed against, in :meth:`parts`."""
        return self.m if self.window is None else min(self.m, 2 * self.window)

    def parts(self, rows: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of at most ``rows`` queries, each with the keys that some query of it sees."""
        if self.window is not None:
            rows = min(rows, max(self.window, LEAST_ROWS))
        for start in range(0, self.n, rows):
            stop = min(start + rows, self.n)
            yield slice(start, stop), self.reached(start, stop)

    def reached(self, start: int, stop: int) -> slice:
        """The keys that some of the queries start ... stop - 1 of this call sees."""
        behind = self.query_start - self.key_start
        first = max(0, start + behind - (self.window or self.m) + 1)
        return slice(first, stop + behind if self.blocks is None else self.m)

    def seen(self, rows: slice, cols: slice) -> mx.array | str:
        """:meth:`mask` of one of the :meth:`parts`, made once for all layers; "causal" where that
        says it."""
        behind = self.query_start - self.key_start
        if self.plain and (self.window is None or rows.stop + behind <= self.window):
            return "causal"
        # Along a plain window only the distance between a block's queries and keys counts.
        at = (rows.start + behind - cols.start,) if self.plain else (rows.start, cols.start)
        key = "mask", *at, rows.stop - rows.start, cols.stop - cols.start
        if key in self.shared:
            return self.shared[key]
        mask = self.mask(rows, cols)
        if self.plain or self.n * self.m * (1 if self.blocks is None else len(self.blocks)) <= KEPT:
            self.shared[key] = mask
        return mask

    def mask(self, rows: slice | np.ndarray = slice(None), cols: slice = slice(None)) -> mx.array:
        """Which of the chosen queries see which of the chosen keys: bool (1 or B, 1, r, c).

        Query i sees key j iff (j <= i or both are in one image block) and j > i - window.
        ``rows`` and ``cols`` index the n queries and m keys of this call.
        """
        rows, cols = mx.array(np.arange(self.n, dtype=np.int32)[rows]), range(self.m)[cols]
        i = rows[:, None] + self.query_start
        j = mx.arange(cols.start, cols.stop)[None] + self.key_start
        seen = (j <= i)[None, None]
        if self.blocks is not None:
            # Keys before query_start belong to no block of this call.
            before = self.query_start - self.key_start
            blocks = mx.pad(self.blocks, [(0, 0), (before, 0)], constant_values=-1)
            own = self.blocks[:, rows, None]
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
    costs n * window whatever n is, and the scores of the two blocks that are held at once stay
    below SCORE_BYTES.
    """
    if geometry.sees_all:
        return ops.attention(q, k, v)
    outputs, rows = [], ops.rows_at_once(q, geometry.reach)
    for queries, keys in geometry.parts(rows):
        seen = geometry.seen(queries, keys)
        outputs.append(ops.attention(q[:, :, queries], k[:, :, keys], v[:, :, keys], seen))
        if geometry.n > 2 * rows:  # left lazy, all blocks' scores would be held at once
            ops.begin(outputs[-1], after=outputs[-2] if len(outputs) > 1 else q)
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def attend_vjp(
    q: mx.array, k: mx.array, v: mx.array, geometry: AttentionGeometry
) -> tuple[mx.array, Callable]:
    """:func:`attend`, and a function that makes of a derivative by its output those by q, k and v,
    in float32, in the same blocks of queries. One block's weights are held at a time."""
    rows = ops.rows_at_once(q, geometry.reach)
    parts = list(geometry.parts(rows))
    outputs, backs = [], []
    for queries, keys in parts:
        seen = geometry.seen(queries, keys)
        block = q[:, :, queries], k[:, :, keys], v[:, :, keys]
        output, back = ops.attention_vjp(*block, seen)
        outputs.append(output)
        backs.append(back)

    def derivatives(d_out: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        dq, dk, dv = [], mx.zeros(k.shape), mx.zeros(v.shape)
        for (queries, keys), back in zip(parts, backs):
            one, *others = back(d_out[:, :, queries])
            dq.append(one)
            dk[:, :, keys] += others[0]
            dv[:, :, keys] += others[1]
            mx.eval(one, dk, dv)
        return mx.concatenate(dq, axis=2), dk, dv

    return mx.concatenate(outputs, axis=2), derivatives


def dequantized(cached: mx.array | tuple, cache, dtype: mx.Dtype) -> mx.array:
    """Keys or values as an array, also from a quantized cache's (packed, scales, biases)."""
    if isinstance(cached, mx.array):
        return cached
    return mx.dequantize(*cached, group_size=cache.group_size, bits=cache.bits).astype(dtype)


def by_head(x: mx.array, heads: int, norm: Callable[[mx.array], mx.array]) -> mx.array:
    """Normed per head: (B, n, heads * D) -> (B, heads, n, D)."""
    B, n, _ = x.shape
    if n == 1:  # the same without transposing
        return norm(x.reshape(B, heads, 1, -1))
    return norm(x.reshape(B, n, heads, -1)).swapaxes(1, 2)


def side_by_side(x: mx.array) -> mx.array:
    """The heads' numbers in one row: (B, heads, n, D) -> (B, n, heads * D)."""
    B, _, n, _ = x.shape
    return (x if n == 1 else x.swapaxes(1, 2)).reshape(B, n, -1)


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
        q = by_head(self.q_proj(x), self.heads, self.q_norm)
        return self.rope(q, geometry.offset, geometry.shared)

    def keys_values(self, x: mx.array, geometry: AttentionGeometry) -> tuple[mx.array, mx.array]:
        """x (B, n, H) -> normed, rotated keys and normed values, each (B, kv heads, n, D)."""
        k = self.k_proj(x)
        v = k if self.k_eq_v else self.v_proj(x)
        k = by_head(k, self.kv_heads, self.k_norm)
        k = self.rope(k, geometry.offset, geometry.shared)
        return k, by_head(v, self.kv_heads, lambda v: ops.rms_norm(v, self.eps))

    def output(self, heads: mx.array) -> mx.array:
        """Outputs of the heads (B, heads, n, D) -> (B, n, H)."""
        return self.o_proj(side_by_side(heads))

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
        q = tap("queries", self.queries(x, geometry), geometry)
        if self.owns_kv:
            kv = self.keys_values(x, geometry)
            if cache is not None:
                kv = cache.update_and_fetch(*kv)
        else:
            kv = shared
        unpacked = [dequantized(part, cache, q.dtype) for part in kv]
        k = tap("keys", unpacked[0], geometry)
        v = tap("values", unpacked[1], geometry)
        untouched = k is unpacked[0] and v is unpacked[1]
        if isinstance(kv[0], tuple) and untouched and geometry.n <= PACKED_QUERIES:
            everything = slice(0, geometry.n), slice(0, geometry.m)
            seen = None if geometry.sees_all else geometry.seen(*everything)
            out = ops.packed_attention(q, k, v, kv, cache, seen)
        else:
            out = attend(q, k, v, geometry)
        if geometry.changes:
            out = attend_changed(out, q, k, v, geometry)
            geometry.changes.clear()
        return self.output(tap("head_outputs", out, geometry)), kv
