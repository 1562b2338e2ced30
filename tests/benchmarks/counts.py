# ruff: noqa: I001
"""What attention asks of a GPU at true sizes, counted without computing anything.

    python tests/benchmarks/counts.py
    python tests/benchmarks/counts.py 31B --context 131072

For one chunk of a prompt at the end of a context, in bfloat16, all layers that own keys and values
but the last, which is only filled:

- waits for a block of attention while the next is under way, and those that leave the device with
  nothing to do;
- the most bytes of scores begun and not waited for;
- masks asked for and built.

For one decoded token: bytes of keys and values that the full layers' products read, folded (one
product for the query heads of a KV head) and as one product a query head.
"""

import argparse
from unittest import mock

import gemma4_mlx  # noqa: F401  (loads OpenBLAS, so before MLX)
import mlx.core as mx

from gemma4_mlx.checkpoints.released import released
from gemma4_mlx.model import ops
from gemma4_mlx.model.attention import AttentionGeometry, attend

MODELS, CHUNK = ("e2b", "26b-a4b", "31b"), 2048


class Device:
    """Stands where MLX computes, and counts."""

    def __init__(self):
        self.waits = self.idle = self.held = self.asked = self.built = 0
        self._scores = {}  # id -> bytes of the scores behind a block of attention
        self._blocks = []  # so that no id is used twice
        self._begun = []  # ids, oldest first

    def attention(self, q, k, v, mask=None):
        block = mx.zeros(q.shape, q.dtype)
        self._blocks.append(block)
        self._scores[id(block)] = q.size // q.shape[3] * k.shape[2] * q.itemsize
        return block

    def async_eval(self, block):
        self._begun.append(id(block))
        self.held = max(self.held, sum(self._scores[each] for each in self._begun))

    def eval(self, block):
        """Of a block begun earlier, or of what the newest is computed from."""
        self.waits += 1
        known = id(block) in self._begun
        self._begun = self._begun[self._begun.index(id(block)) + 1 if known else -1 :]
        self.idle += not self._begun

    def mask(self, geometry, rows, cols, make=AttentionGeometry.mask):
        self.built += 1
        return make(geometry, rows, cols)

    def seen(self, geometry, rows, cols, make=AttentionGeometry.seen):
        found = make(geometry, rows, cols)
        self.asked += not isinstance(found, str)
        return found


def chunk(text, context: int) -> Device:
    """One chunk of a prompt at the end of a context."""
    device, n = Device(), min(CHUNK, context)
    start, window = context - n, text.sliding_window
    before = min(start, window - 1)
    geometries = {
        "full_attention": AttentionGeometry(start, n, 0, context),
        "sliding_attention": AttentionGeometry(start, n, start - before, n + before, window),
    }
    with (
        mock.patch.object(ops, "on_cpu", lambda: False),
        mock.patch.object(ops, "attention", device.attention),
        mock.patch.object(AttentionGeometry, "mask", lambda *each: device.mask(*each)),
        mock.patch.object(AttentionGeometry, "seen", lambda *each: device.seen(*each)),
        mock.patch.object(mx, "eval", device.eval),
        mock.patch.object(mx, "async_eval", device.async_eval),
    ):
        for layer in range(text.first_kv_shared_layer - 1):
            geometry, D = geometries[text.layer_types[layer]], text.head_dim_of(layer)
            q = mx.zeros((1, text.num_attention_heads, n, D), mx.bfloat16)
            k = mx.zeros((1, text.kv_heads_of(layer), geometry.m, D), mx.bfloat16)
            attend(q, k, k, geometry)
    return device


def read(text, context: int) -> tuple[int, int]:
    """Bytes of the full layers' keys and values in one decoded token's products: folded, and as a
    product for each query head."""
    full = [i for i in range(text.num_hidden_layers) if text.is_full(i)]
    one = [2 * 2 * context * text.head_dim_of(i) for i in full]  # keys and values of one KV head
    folded = sum(size * text.kv_heads_of(i) for size, i in zip(one, full))
    return folded, sum(one) * text.num_attention_heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, help=" ".join(MODELS))
    parser.add_argument("--context", type=int, nargs="+", default=[2_048, 30_720, 131_072, 262_144])
    options = parser.parse_args()
    print("a chunk of 2,048 tokens at the end of a context" + " " * 36 + "a decoded token reads")
    print(
        f"{'':8}{'context':>9}{'waits':>8}{'idle after':>12}{'scores held':>13}"
        f"{'masks asked for':>17}{'built':>7}{'folded':>11}{'by query head':>15}"
    )
    for name in options.models:
        text = released(name).config.text
        for context in options.context:
            if context > text.max_position_embeddings:
                continue
            device, (folded, each) = chunk(text, context), read(text, context)
            print(
                f"{name:8}{context:9,}{device.waits:8,}{device.idle:12,}"
                f"{device.held / 2**20:9.0f} MiB{device.asked:17}{device.built:7}"
                f"{folded / 1e9:8.2f} GB{each / 1e9:12.2f} GB"
            )


if __name__ == "__main__":
    main()
