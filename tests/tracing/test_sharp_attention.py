"""Attention as sharp as trained models have it: scores far apart, hidden ones the largest too."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gemma4_mlx as g4
from gemma4_mlx.model import ops
from gemma4_mlx.model.attention import AttentionGeometry, attend
from gemma4_mlx.tracing import AttentionPlan, Recorder, TracePlan
from gemma4_mlx.tracing.data.visibility import visible
from gemma4_mlx.tracing.recording import strips_cpu, strips_gpu

pytestmark = pytest.mark.float32

DEVIATIONS = st.sampled_from([0.1, 2.0, 8.0, 32.0])
#: A score's rounding in float32, of which a weight's relative error is made: of 32 deviations
#: times 5, about 2^-17 for each of a few operations.
EXACT = 1e-4


def dense(q, k, seen):
    """softmax(q k^T) in float64; q (H, n, D), k (kv heads, n, D), seen (n, n)."""
    k = np.repeat(k, len(q) // len(k), axis=0).astype(float)
    scores = np.where(seen, q.astype(float) @ k.swapaxes(1, 2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    deviation=DEVIATIONS,
    n=st.integers(1, 70),
    cached=st.integers(0, 40),
    window=st.sampled_from([None, 5, 16]),
    by_hand=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_model_attends_as_float64_does(deviation, n, cached, window, by_hand, seed):
    rng, D = np.random.default_rng(seed), 32
    m = n + cached
    q, k, v = (rng.normal(size=(h, length, D)) for h, length in ((4, n), (2, m), (2, m)))
    q, k, v = (x.astype(np.float32) for x in (q * deviation / D**0.5, k, v))
    seen = visible(np.arange(cached, m), np.arange(m), window)
    expected = dense(q, k, seen) @ np.repeat(v, 2, axis=0)
    geometry = AttentionGeometry(cached, n, 0, m, window=window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "in_numpy", lambda q: by_hand)
        got = np.array(attend(*(mx.array(x)[None] for x in (q, k, v)), geometry))[0]
    assert np.abs(got - expected).max() < EXACT * np.abs(expected).max()


@pytest.fixture(scope="module")
def measured(checkpoint):
    """A model, and the standard deviation of each layer's scores as it has them."""
    reference = checkpoint("everything")
    model = g4.load(reference.folder)
    seen = {}

    def watch(name, layer, value, geometry):
        seen[name, layer] = np.array(value)[0]

    with model.observe(watch):
        model(mx.array(reference.ids))
    scores = []
    for i in range(len(model.layers)):
        q, k = seen["queries", i], seen["keys", i]
        scores.append(q @ np.repeat(k, len(q) // len(k), axis=0).swapaxes(1, 2))
    return model, [float(each.std()) for each in scores]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    deviation=DEVIATIONS,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    on_cpu=st.booleans(),
)
# The sharpest, of which hypothesis tries none: hidden keys further above a row's normaliser than
# a float32's exponential can tell from infinity.
@example(deviation=32.0, sizes=[40], seed=0, on_cpu=True)
@example(deviation=32.0, sizes=[7, 40], seed=1, on_cpu=False)
def test_a_trace_knows_sharp_attention(measured, deviation, sizes, seed, on_cpu):
    """Tiles, rows, ``find``, overviews and sums, against float64 on the retained vectors."""
    n, rng = 60, np.random.default_rng(seed)
    tokens = mx.array(rng.integers(3, 490, (1, n)))
    model, own = measured
    scale = [deviation / each for each in own]
    recorder = Recorder(model, TracePlan(attention=AttentionPlan(bins=12, retain="all")))
    recorder.attention.device = strips_cpu if on_cpu else strips_gpu

    def sharpen(name, layer, value, geometry):
        return value * scale[layer] if name == "queries" else None

    cache, at = model.make_cache(), 0
    with model.observe(sharpen), model.observe(recorder):
        for size in [*sizes, n]:
            model(tokens[:, at : at + size], cache=cache)
            at = min(at + size, n)
            if at == n:
                break
    trace = recorder.trace().attention
    for layer in range(len(model.layers)):
        part = trace.layer(layer)
        keys = part.keys if part.keys is not None else trace.layer(part.donor).keys
        seen = visible(np.arange(n), np.arange(n), part.window)
        weights = dense(part.queries, keys, seen)
        masses = {f.head: f.mass for f in trace.find((20, 50), (5, 55)) if f.layer == layer}
        for head, w in enumerate(weights):
            tile = trace.tile(layer, head, shape=(n, n), statistic="max")
            assert np.abs(tile.values - w).max() < EXACT
            for query in (0, 31, n - 1):
                assert np.abs(trace.row(layer, head, query) - w[query]).max() < EXACT
            pooled = trace.tile(layer, head, (3, 59), (1, 58), shape=(1, 1)).values[0, 0]
            assert abs(pooled - w[3:59, 1:58].sum() / 56) < EXACT
            assert abs(masses[head] - w[20:50, 5:55].sum(-1).mean()) < EXACT
            assert np.abs(trace.column_sums(layer, head) - w.sum(0)).max() < EXACT * n
            assert np.abs(trace.overview(layer, head).sum(-1) - 1).max() < EXACT
            entropy = -(w * np.log(np.where(w > 0, w, 1))).sum(-1).mean()
            assert abs(trace.summary("entropy", layer, head) - entropy) < 1e-3
