"""The vision tower against transformers, and what it does with memory and with wrong grids."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from media_reference import arrays

import gemma4_mlx as g4
from gemma4_mlx.config import VisionConfig
from gemma4_mlx.model import ops, sizes
from gemma4_mlx.model.cpu import activations, blocks
from gemma4_mlx.model.cpu import attention as numpy_attention
from gemma4_mlx.model.layers import ClippedLinear
from gemma4_mlx.model.values import evaluated
from gemma4_mlx.model.vision import VisionTower, grid_of

pytestmark = pytest.mark.float32


def relative(ours, theirs):
    return np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max()


def positions(rows, columns):
    n = np.arange(rows * columns)
    return np.stack([n % columns, n // columns], axis=-1).astype(np.int32)


@pytest.mark.parametrize("name", ["mm", "moe"])
@pytest.mark.parametrize("rows, columns", [(3, 3), (6, 9), (9, 6), (12, 30)])
def test_tower_equals_transformers(name, rows, columns, checkpoint):
    """mm: clipped linears whose bounds bite. moe: standardised, head size 24."""
    tower = g4.load(checkpoint(name).folder).vision_tower
    reference = arrays("towers")
    tag = f"{rows}x{columns}"
    ours = tower(mx.array(reference[f"{tag}_pixels"]), positions(rows, columns))
    assert relative(ours, reference[f"{name}_{tag}_features"]) < 1e-5


@pytest.mark.parametrize("name", ["mm", "dense31"])
def test_padding_patches_are_dropped(name, checkpoint):
    """transformers pads a batch of pictures to the same number of patches."""
    reference = checkpoint(name)
    model = g4.load(reference.folder)
    ours = [
        model.encode_image(mx.array(pixels), where)
        for pixels, where in zip(reference.img_pixels, reference.img_positions)
    ]
    assert relative(mx.concatenate(ours), reference.img_features) < 1e-5


def small(**changes):
    values = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 64,
    }
    return VisionConfig(**(values | changes))


@pytest.mark.parametrize("fused", [False, True])
def test_splitting_queries_and_rows_changes_nothing(monkeypatch, fused):
    """Also the path that a GPU takes."""
    mx.random.seed(0)
    tower = VisionTower(small())
    pixels, where = mx.random.uniform(shape=(54, 48)), positions(6, 9)
    whole = tower(pixels, where)
    if fused:
        monkeypatch.setattr(ops, "in_numpy", lambda x: False)
    monkeypatch.setattr(sizes, "SCORE_BYTES", 4 * 2 * 54 * 5)  # five queries at a time
    monkeypatch.setattr(numpy_attention, "_ROWS", 5)
    monkeypatch.setattr(numpy_attention, "_COLUMNS", 8)
    monkeypatch.setattr(blocks, "ROWS", 7)
    assert relative(tower(pixels, where), np.array(whole)) < 1e-5


def test_an_error_is_not_taken_for_a_transformation():
    """A block without values has them later; one that cannot be computed never has."""

    def failing(*arrays):
        raise RuntimeError("[malloc] Unable to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="Unable to allocate"):
        evaluated(mx.zeros(1), by=failing)


def test_the_exponential_is_exact_enough():
    x = np.linspace(-126, 127, 100_001, dtype=np.float32)
    ours = np.array(activations._compiled_exp2(mx.array(x)), np.float64)
    assert np.abs(ours / 2.0 ** x.astype(np.float64) - 1).max() < 3e-7


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_cpu_functions_equal_mlx_own(scale):
    """Also where the exponential would leave float32's range."""
    mx.random.seed(1)
    gate, up = (mx.random.normal((300, 70)) * scale for _ in range(2))  # more than a few
    pairs = (
        (ops.geglu, lambda gate, up: nn.gelu_approx(gate) * up),
        (lambda gate, up: ops.silu(gate) * up, lambda gate, up: nn.silu(gate) * up),
        (lambda gate, up: ops.glu(up, gate), lambda gate, up: up * mx.sigmoid(gate)),
    )
    for ours, theirs in pairs:
        expected = np.array(theirs(gate, up))
        for function in (ours, mx.compile(ours)):
            assert relative(function(gate, up), expected) < 1e-6
        slopes = (
            mx.grad(lambda *a: f(*a).sum(), (0, 1))(gate, up)  # noqa: B023
            for f in (ours, theirs)
        )
        for a, b in zip(*slopes):
            assert relative(a, np.array(b)) < 1e-6


@pytest.mark.parametrize("cap", [5.0, 50.0, 500.0])
def test_a_capped_softmax_equals_mlx_own(cap):
    """Also where the cap lets the exponential leave float32's range; hidden scores weigh 0."""
    mx.random.seed(3)
    scores = mx.random.normal((4, 9, 24)) * 200
    seen = mx.random.uniform(shape=(9, 24)) < 0.3
    seen[:, 0] = True
    expected = mx.softmax(mx.where(seen, cap * mx.tanh(scores / cap), -mx.inf), axis=-1)
    got = np.array(ops.capped_softmax(scores, cap, seen))
    assert relative(mx.array(got), np.array(expected)) < 1e-4
    assert (got[:, ~np.array(seen)] == 0).all()


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_attention_on_the_cpu_equals_mlx_own(monkeypatch, scale):
    """Four heads that share two heads' keys; scores up to 50 and beyond what exp can take; with
    values, compiled, and its derivatives."""
    mx.random.seed(2)
    shapes = ((1, 4, 33, 16), (1, 2, 20, 16), (1, 2, 20, 16), (16,))
    q, k, v, weights = (mx.random.normal(shape) for shape in shapes)
    q = q * scale
    monkeypatch.setattr(numpy_attention, "_ROWS", 7)
    monkeypatch.setattr(numpy_attention, "_COLUMNS", 6)

    def fused(q, k, v):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0)

    expected = np.array(fused(q, k, v))
    for function in (numpy_attention.attention, mx.compile(numpy_attention.attention)):
        # Scores in the thousands are themselves rounded to 1e-4.
        assert relative(function(q, k, v), expected) < max(1e-5, 3e-7 * scale)
    if scale > 100:
        return  # derivatives of such a softmax are rounding errors
    ours, theirs = (
        mx.grad(lambda *a: ((f(*a) @ weights) ** 2).sum(), (0, 1, 2))(q, k, v)  # noqa: B023
        for f in (numpy_attention.attention, fused)
    )
    for a, b in zip(ours, theirs):
        assert relative(a, np.array(b)) < 1e-4


def test_a_tower_leaves_the_limit_of_spare_buffers_as_it_was():
    before = mx.set_cache_limit(123_456_789)
    try:
        mx.eval(VisionTower(small())(mx.zeros((54, 48)), positions(6, 9)))
    finally:
        assert mx.set_cache_limit(before) == 123_456_789


@pytest.mark.cpu  # a GPU's fused kernels make no scores, and the CPU backend's claim all at once
def test_scores_stay_bounded():
    """Memory grows with the patches, not with their square."""
    tower = VisionTower(small(num_hidden_layers=1, position_embedding_size=512))
    mx.eval(tower.parameters())
    side = 96  # 9,216 patches: all scores would take 680 MB
    pixels = mx.zeros((side * side, 48))
    mx.eval(pixels)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(tower(pixels, positions(side, side)))
    assert mx.get_peak_memory() - before < 100e6


@pytest.mark.parametrize(
    "where, message",
    [
        (positions(6, 9)[::-1], "whole patch grid"),
        (positions(6, 9)[:-1], "whole patch grid"),
        (positions(4, 9), "cannot be pooled"),
        (positions(3, 66), "larger than the model"),
        (np.zeros((0, 2), np.int32), "shape"),
        (np.zeros(4, np.int32), "shape"),
    ],
)
def test_wrong_grids_are_refused(where, message):
    with pytest.raises(ValueError, match=message):
        grid_of(where, small())


def test_linears_without_bounds_have_no_scalars():
    assert set(ClippedLinear(4, 4, clipped=False).parameters()) == {"linear"}
    layer = ClippedLinear(4, 4, clipped=True)
    layer.linear.weight = mx.eye(4)
    x = mx.array([[-9.0, -0.5, 0.5, 9.0]])
    assert mx.array_equal(layer(x), x)  # infinite until a checkpoint says otherwise
    layer.input_max, layer.output_min = mx.array(2.0), mx.array(-1.0)
    assert layer(x).tolist() == [[-1.0, -0.5, 0.5, 2.0]]


def test_half_precision_stays_finite():
    """The large models' standardisation passes float16's range on the way."""
    tower = VisionTower(small(standardize=True))
    tower.set_dtype(mx.bfloat16)
    tower.std_bias = mx.full((32,), 5.0e4, dtype=mx.bfloat16)
    out = tower(mx.random.uniform(shape=(9, 48)), positions(3, 3))
    assert out.dtype == mx.bfloat16 and mx.isfinite(out).all().item()
