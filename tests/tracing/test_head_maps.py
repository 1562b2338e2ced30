"""Heat maps of all heads, and sliding heads by offset, against dense weights."""

from itertools import pairwise

import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import TraceError
from gemma4_mlx.tracing import AttentionData
from gemma4_mlx.tracing.data import offsets
from gemma4_mlx.tracing.recording import attention as attention_recorder
from gemma4_mlx.tracing.recording import strips_cpu, strips_gpu

N, LAYERS, HEADS = 300, 8, 4


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("everything").folder)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(4).integers(3, 490, N).tolist()


def traced(model, ids, **plan):
    plan = {"retain": "none", "bins": 20} | plan
    return g4.trace(model, ids, attention=g4.AttentionPlan(**plan), routing=None).attention


@pytest.fixture(scope="module")
def dense(model, ids):
    """(layers, heads, n, n) of every head."""
    kept = traced(model, ids, retain="all")
    tile = {"shape": (N, N), "statistic": "max"}
    return np.array([[kept.tile(i, h, **tile).values for h in range(HEADS)] for i in range(LAYERS)])


def by_offset(weights, window, edges):
    """(n, cells) by the definition."""
    offset = np.arange(N)[:, None] - np.arange(N)[None]
    cells = [(offset >= a) & (offset < b) for a, b in pairwise(edges)]
    return np.stack([(weights * cell).sum(1) for cell in cells], axis=1)


def test_summaries_as_a_map(model, ids):
    part = traced(model, ids, layers=(1, 4), heads=(0, 2))
    first = part.summary_map("first")
    assert first.shape == (2, HEADS) and first.dtype == np.float32
    assert np.isnan(first[:, [1, 3]]).all()
    assert first[1, 2] == np.float32(part.summary("first", 4, 2))
    with pytest.raises(TraceError, match=r"no summary 'image'.*induction"):
        part.summary_map("image")
    whole = traced(model, ids)
    for name in ("first", "previous", "same", "induction", "entropy", "distance"):
        assert np.isfinite(whole.summary_map(name)).all()


@pytest.mark.parametrize("source", [None, (200, 250), (150, 225), (7, 300)])
@pytest.mark.parametrize("target", [(30, 60), (33, 41), (0, 300)])
def test_mass_on_a_span(model, ids, dense, source, target):
    """Exact from column sums or whole bins; else for the spans that the result names."""
    attention = traced(model, ids)
    found = attention.span_mass(target, source)
    rows, columns = source or (0, N), target
    aligned = all(edge in attention.edges for edge in (*rows, *columns))
    assert found.exact.all() == (source is None or aligned) and found.values.shape == (8, 4)
    if not found.exact.all():
        assert not found.exact.any()
        rows, columns = ((s.start, s.stop) for s in (found.source, found.target))
        assert rows[0] <= source[0] < rows[0] + 15 and rows[1] - 15 < source[1] <= rows[1]
    expected = dense[:, :, slice(*rows), slice(*columns)].sum(-1).mean(-1)
    assert np.abs(found.values - expected).max() < 1e-5
    exact = traced(model, ids, retain="full").span_mass(target, source or (1, 299), exact=True)
    full = [i for i in range(LAYERS) if model.config.text.is_full(i)]
    expected = dense[:, :, slice(*(source or (1, 299))), slice(*target)].sum(-1).mean(-1)
    assert exact.exact[full].all() and np.abs(exact.values - expected)[full].max() < 1e-5


def test_heads_of_which_nothing_is_known(model, ids):
    nothing = traced(model, ids, overview=False, columns=False)
    found = nothing.span_mass((3, 9))
    assert np.isnan(found.values).all() and not found.exact.any()


@pytest.mark.parametrize("device", ["numpy", "mlx"])
def test_offsets_are_recorded_where_bins_are_wider(model, ids, dense, device, monkeypatch):
    """Chunks, strips and query bins cut at different places."""
    monkeypatch.setattr(offsets, "OFFSET_BINS", 5)
    monkeypatch.setattr(attention_recorder, "ROWS", 20)
    device = {"numpy": strips_cpu, "mlx": strips_gpu}[device]
    monkeypatch.setattr(device, "SCORES", 4 * 33 * 100)
    made = attention_recorder.AttentionRecorder.__init__

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.device = device

    monkeypatch.setattr(attention_recorder.AttentionRecorder, "__init__", init)
    plan = g4.AttentionPlan(bins=20, retain="none")
    trace = g4.trace(model, ids, attention=plan, routing=None, chunk=112)
    window = model.config.text.sliding_window
    edges = offsets.offset_edges(window)
    for layer in (0, 3):
        for head in (0, 3):
            found = trace.attention.offsets(layer, head, shape=(20, 5))
            assert found.source == "recorded" and found.exact
            assert np.array_equal(found.offset_edges, edges)
            exact = by_offset(dense[layer, head], window, edges)
            exact = np.add.reduceat(exact, np.arange(0, N, 15), axis=0) / 15
            assert np.abs(found.values - exact).max() < 1e-3
            assert np.abs(found.values.sum(1) - 1).max() < 3e-3
            coarse = trace.attention.offsets(layer, head, (30, 150), shape=(4, 3))
            assert coarse.query_edges.tolist() == [30, 60, 90, 120, 150]
            expected = exact[2:10].reshape(4, 2, -1).mean(1)
            expected = np.add.reduceat(expected, np.arange(0, len(edges) - 1, 2), axis=1)
            assert np.abs(coarse.values - expected).max() < 1e-3
    cost = plan.cost(model, N).parts["offsets"]
    assert cost == sum(part.offset_mass.nbytes for part in trace.attention.parts if part.window)
    arrays, meta = trace.attention.to_arrays()
    back = AttentionData.from_arrays(arrays, meta)
    assert np.array_equal(back.offsets(layer, head).values, found.values)


def test_offsets_from_queries_and_keys_and_from_bands(model, ids, dense, monkeypatch):
    monkeypatch.setattr(attention_recorder, "records_offsets", lambda window, width: False)
    kept, bands = traced(model, ids, retain="all"), traced(model, ids)
    window = model.config.text.sliding_window
    for layer, head in ((0, 1), (6, 3)):
        fine = kept.offsets(layer, head, (40, 140), (50, window))
        assert fine.source == "recomputed"
        exact = by_offset(dense[layer, head], window, np.arange(window + 1))[40:140]
        assert np.abs(fine.values - exact.reshape(50, 2, -1).mean(1)).max() < 1e-5
        band = bands.offsets(layer, head, shape=(20, 64))
        assert band.source == "overview" and not band.exact
        assert np.abs(band.values.sum(1) - 1).max() < 1e-5
        assert band.offset_edges[0] == 0 and band.offset_edges[-1] == window
        zoomed = bands.offsets(layer, head, (40, 60), (20, window))  # the model runs again
        assert np.abs(zoomed.values - exact[:20]).max() < 1e-5
    with pytest.raises(TraceError, match="whole context"):
        kept.offsets(2, 0)


@pytest.mark.parametrize("seed", range(20))
def test_adding_up_by_offset(seed):
    rng = np.random.default_rng(seed)
    r, ahead = rng.integers(1, 9), rng.integers(0, 20)
    edges = np.append(0, np.cumsum(rng.integers(1, 6, rng.integers(1, 6))))
    weights = rng.random((2, r, ahead + r), np.float32)
    weights *= np.arange(ahead + r) <= np.arange(r)[:, None] + ahead
    out = np.zeros((2, len(edges) - 1))
    for t in range(r):
        for c in range(ahead + t + 1):
            if (offset := ahead + t - c) < edges[-1]:
                out[:, np.searchsorted(edges, offset, "right") - 1] += weights[:, t, c]
    assert np.abs(offsets.by_offset(weights, ahead, edges) - out).max() < 1e-5
