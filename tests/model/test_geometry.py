"""Who sees whom, and where rotary embeddings turn: checks that need no weights."""

import mlx.core as mx
import numpy as np
import pytest

from gemma4_mlx.config import Rope
from gemma4_mlx.model import attention, ops, sizes
from gemma4_mlx.model.attention import AttentionGeometry, attend, attend_vjp
from gemma4_mlx.model.cpu import attention as numpy_attention
from gemma4_mlx.model.cpu import small
from gemma4_mlx.model.decoder import image_blocks
from gemma4_mlx.model.layers import RotaryEmbedding


def seen(geometry, query):
    row = np.array(geometry.mask())[0, 0, query - geometry.query_start]
    return [int(j) + geometry.key_start for j in np.flatnonzero(row)]


def test_a_window_counts_the_token_itself():
    assert seen(AttentionGeometry(0, 20, 0, 20, window=4), 10) == [7, 8, 9, 10]


def test_image_blocks_look_ahead_but_not_past_the_window():
    """Window 4, picture at 8-12: position 9 sees 6-12 on sliding, 0-9 on full layers."""
    tokens = mx.array([[5] * 8 + [500] * 5 + [5] * 3])
    blocks = image_blocks(tokens, (500, 502))
    assert seen(AttentionGeometry(0, 16, 0, 16, window=4, blocks=blocks), 9) == list(range(6, 13))
    assert seen(AttentionGeometry(0, 16, 0, 16), 9) == list(range(10))


def test_neighbouring_pictures_are_separate_blocks():
    tokens = mx.array([[503, 500, 500, 504, 503, 500, 504, 7]])
    assert np.array(image_blocks(tokens, (500, 502))).tolist() == [[-1, 0, 0, -1, -1, 1, -1, -1]]
    assert image_blocks(mx.array([[1, 2, 3]]), (500, 502)) is None


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("with_blocks", [False, True])
@pytest.mark.parametrize("cached", [0, 13])
@pytest.mark.parametrize("by_hand", [None, 69.0, 0.0])
def test_query_blocks_equal_one_dense_softmax(window, with_blocks, cached, by_hand, monkeypatch):
    """Splitting queries and leaving out unseen keys changes nothing, nor does MLX's softmax; by
    hand, scores up to ``by_hand`` are exponentiated as they are. So it is with the derivatives."""
    monkeypatch.setattr(ops, "in_numpy", lambda q: by_hand is not None)
    monkeypatch.setattr(sizes, "SCORE_BYTES", 4 * 4 * 40 * 6)  # a few rows at a time
    monkeypatch.setattr(sizes, "CPU_MASK_BYTES", 150 * 20)
    monkeypatch.setattr(numpy_attention, "SAFE", by_hand)
    monkeypatch.setattr(numpy_attention, "_ROWS", 9)
    monkeypatch.setattr(numpy_attention, "_COLUMNS", 7)
    n, D = 150, 16
    first = cached - min(cached, (window or 99) - 1)
    m = n + cached - first
    mx.random.seed(3)
    q, k, v = (mx.random.normal((2, h, length, D)) for h, length in ((4, n), (2, m), (2, m)))
    blocks = None
    if with_blocks and window:
        tokens = np.full((2, n), 7)
        tokens[:, 20:50] = 500
        blocks = image_blocks(mx.array(tokens), (500,))
    geometry = AttentionGeometry(cached, n, first, m, window=window, blocks=blocks)

    def dense(q, k, v):
        scores = q @ mx.repeat(k, 2, axis=1).swapaxes(-1, -2)
        scores = mx.where(geometry.mask(), scores, -mx.inf)
        return mx.softmax(scores, axis=-1) @ mx.repeat(v, 2, axis=1)

    d_out = mx.random.normal(q.shape)
    (expected,), derivatives = mx.vjp(dense, [q, k, v], [d_out])
    assert np.abs(np.array(attend(q, k, v, geometry) - expected)).max() < 1e-5
    out, back = attend_vjp(q, k, v, geometry)
    assert np.abs(np.array(out - expected)).max() < 1e-5
    for got, wanted in zip(back(d_out), derivatives, strict=True):
        assert mx.abs(got - wanted).max().item() < 1e-5 * mx.abs(wanted).max().item()


@pytest.mark.parametrize("m", [numpy_attention.KEYS - 1, numpy_attention.KEYS])
def test_one_query_over_many_keys_is_mlxs_own_attention(m):
    """Decoding: from KEYS on the CPU backend's softmax is done by hand."""
    mx.random.seed(4)
    q, k, v = (mx.random.normal((2, h, length, 16)) for h, length in ((4, 1), (2, m), (2, m)))
    ours = attend(q, k, v, AttentionGeometry(m - 1, 1, 0, m))
    theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0)
    assert np.abs(np.array(ours - theirs)).max() < 1e-5


def test_the_softmax_by_hand_has_the_gradient_of_mlxs():
    mx.random.seed(4)
    q, k, v = (mx.random.normal((2, h, n, 16)) for h, n in ((4, 10), (2, 25), (2, 25)))
    mask = AttentionGeometry(15, 10, 0, 25).mask(slice(0, 10), slice(15, 25))

    def by_hand(*x):
        return (numpy_attention.attention(*x, mask) ** 2).sum()

    def fused(*x):
        return (mx.fast.scaled_dot_product_attention(*x, scale=1.0, mask="causal") ** 2).sum()

    got, expected = (mx.grad(f, argnums=(0, 1, 2))(q, k, v) for f in (by_hand, fused))
    for a, b in zip(got, expected):
        assert mx.abs(a - b).max().item() < 1e-5 * mx.abs(b).max().item()


def heads_of_512(B, heads, kv_heads, n, m, dtype=mx.float32):
    mx.random.seed(5)
    shapes = ((heads, n, 0.05), (kv_heads, m, 1), (kv_heads, m, 1))
    return [(mx.random.normal((B, h, length, 512)) * s).astype(dtype) for h, length, s in shapes]


@pytest.mark.parametrize("n, m", [(1, 300), (5, 40), (40, 40)])
@pytest.mark.parametrize("mask", [None, "causal", "array"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_query_heads_as_rows_of_one_product(n, m, mask, dtype, monkeypatch):
    """Head size 512 on a GPU: in 16 bits the same to the bit as a product for each query head; in
    float32 BLAS may add in another order."""
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    q, k, v = heads_of_512(2, 6, 2, n, m, dtype)
    if mask == "array":
        mask = mx.random.uniform(shape=(2, 1, n, m)) < 0.5
        mask[..., 0] = True
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", None)
    got = ops.attention(q, k, v, mask)
    assert got.dtype == dtype and got.shape == q.shape
    if dtype == mx.bfloat16:
        assert mx.array_equal(got, expected)
    assert mx.abs(got - expected).max().item() < 1e-5


def test_two_blocks_of_scores_are_held_and_the_device_has_one_to_compute(monkeypatch):
    """On a GPU; MLX's CPU backend allocates what is begun at once, so its count of bytes shows it:
    16 MiB of scores in blocks of 2, and a softmax of each."""
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    monkeypatch.setattr(sizes, "SCORE_BYTES", 4 * 2**20)
    q, k, v = heads_of_512(1, 8, 2, 256, 2048)
    mx.eval(q, k, v)
    events, begin, wait = [], mx.async_eval, mx.eval
    monkeypatch.setattr(mx, "async_eval", lambda x: events.append(("begin", x)) or begin(x))
    monkeypatch.setattr(mx, "eval", lambda x: events.append(("wait", x)) or wait(x))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    wait(attend(q, k, v, AttentionGeometry(2048 - 256, 256, 0, 2048)))
    outputs = 2 * q.nbytes  # the blocks' and, joined, the whole
    assert mx.get_peak_memory() - before < outputs + 2 * sizes.SCORE_BYTES + 2**20
    assert [kind for kind, _ in events] == ["begin", "wait"] * 8
    blocks = [q, *(x for kind, x in events if kind == "begin")]
    assert all(waited is blocks[i] for i, (_, waited) in enumerate(events[1::2]))


@pytest.mark.parametrize("transform", ["compile", "vjp"])
def test_blocks_within_transformations(transform, monkeypatch):
    q, k, v = heads_of_512(1, 4, 2, 30, 50)
    geometry = AttentionGeometry(20, 30, 0, 50)
    expected = attend(q, k, v, geometry)
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    monkeypatch.setattr(sizes, "SCORE_BYTES", 4 * 4 * 50 * 2 * 7)

    def function(*x):
        return attend(*x, geometry)

    if transform == "compile":
        got = mx.compile(function)(q, k, v)
    else:
        got = mx.vjp(function, [q, k, v], [q])[0][0]
    assert mx.abs(got - expected).max().item() < 1e-5


def test_a_mask_is_made_once_for_all_layers(monkeypatch):
    """Along a window once for all its blocks, too; where each block has another, within a limit."""
    made, mask = [], AttentionGeometry.mask
    monkeypatch.setattr(
        AttentionGeometry, "mask", lambda *where: made.append(where) or mask(*where)
    )

    def layer(geometry, rows):
        parts = list(geometry.parts(rows))
        for queries, keys in parts:
            found = geometry.seen(queries, keys)
            dense = np.array(mask(geometry, queries, keys))
            if isinstance(found, str):
                found = np.tril(np.ones(dense.shape[2:], bool), dense.shape[3] - dense.shape[2])
            assert np.array_equal(np.array(found).reshape(dense.shape), dense)
        return len(parts)

    window = AttentionGeometry(50, 700, 34, 716, window=17)
    assert [layer(window, 128) for _ in range(3)] == [6, 6, 6]
    assert len(made) == 2  # the blocks of 128 queries, and the last
    full = AttentionGeometry(50, 700, 0, 750)
    assert layer(full, 128) == 6 and len(made) == 2 and not full.shared
    tokens = np.full((2, 700), 7)
    tokens[:, 120:300] = 500
    pictures = image_blocks(mx.array(tokens), (500,))
    for limit, times in ((2 * 700 * 716, 1), (2 * 700 * 716 - 1, 3)):
        monkeypatch.setattr(attention, "KEPT", limit)
        made.clear()
        geometry = AttentionGeometry(50, 700, 34, 716, window=17, blocks=pictures)
        assert [layer(geometry, 128) for _ in range(3)] == [6, 6, 6]
        assert len(made) == 6 * times


def test_full_layers_turn_a_quarter_of_the_angles():
    """Head size 512: dims 0-63 and 256-319 turn, f_1 = 1e6^(-2/512) = 0.9475 a position."""
    rope = RotaryEmbedding(512, Rope(theta=1e6, partial_rotary_factor=0.25))
    x = mx.random.normal((1, 1, 1, 512))
    turned = np.array(rope(x, 1000)) != np.array(x)
    still = [*range(64, 256), *range(320, 512)]
    assert not turned[..., still].any() and turned[..., [0, 63, 256, 319]].all()
    unit = mx.zeros((1, 1, 1, 512))
    unit[..., 1] = 1.0
    assert np.isclose(np.array(rope(unit, 1))[0, 0, 0, 1], np.cos(1e6 ** (-2 / 512)), atol=1e-6)


def test_a_factor_slows_every_angle_as_in_transformers():
    from transformers import Gemma4TextConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    rope["factor"] = 8.0
    config = Gemma4TextConfig(global_head_dim=512, head_dim=512, rope_parameters={
        "full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    })  # fmt: skip
    expected, _ = ROPE_INIT_FUNCTIONS["proportional"](config, layer_type="full_attention")
    own = RotaryEmbedding(512, Rope(theta=1e6, partial_rotary_factor=0.25, factor=8.0))
    assert np.allclose(1 / np.array(own.periods), expected.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size, theta, part", [(256, 1e4, 1.0), (512, 1e6, 0.25)])
def test_angles_are_the_same_however_many_tokens_are_computed(size, theta, part, monkeypatch):
    """A long prompt turns its keys by MLX's kernel and a token its query by hand: were an angle
    rounded differently there, they would be 1e-2 apart behind 100,000 tokens."""
    rope, offset, n = RotaryEmbedding(size, Rope(theta, part)), 100_000, 40
    x = mx.random.normal((1, 2, n, size), key=mx.random.key(4))
    got = [np.array(small.rope(x, rope, offset, {}))]
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    got.append(np.array(rope(x, offset)))
    turning = int(part * size / 2)
    period = (theta ** (2 * np.arange(turning) / size)).astype(np.float32)
    angle = np.arange(offset, offset + n, dtype=np.float32)[:, None] * (1 / period)  # transformers'
    angle = np.pad(angle.astype(float), [(0, 0), (0, size // 2 - turning)])
    first, second = np.split(np.array(x), 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    expected = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    for each in got:
        assert np.abs(each - expected).max() < 2e-6 * np.abs(expected).max()
