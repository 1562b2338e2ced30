"""Traced attention against transformers' eager attention, every layer and head, to 1e-5."""

from itertools import pairwise, product

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.tracing import AttentionPlan, Recorder, TracePlan
from gemma4_mlx.tracing.recording import strips_cpu, strips_gpu

pytestmark = pytest.mark.float32

NAMES = ["e2b", "e2b_noshare", "moe", "dense31", "everything", "textonly", "textonly_moe"]
EXACT = 1e-5


@pytest.fixture(scope="module")
def loaded(checkpoint):
    models = {}

    def get(name):
        if name not in models:
            models[name] = g4.load(checkpoint(name).folder)
        return models[name], checkpoint(name)

    return get


def record(model, ids, sizes=(1000,), plan=None, features=None, **known):
    """A trace of ``ids`` fed in pieces; the last size repeats."""
    recorder = Recorder(
        model, plan or TracePlan(attention=AttentionPlan(bins=16, retain="all")), **known
    )
    tokens, sizes, at = mx.array(np.array(ids).reshape(1, -1).astype(np.int32)), list(sizes), 0
    cache = model.make_cache()
    with model.observe(recorder):
        while at < tokens.shape[1]:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            model(tokens[:, at : at + size], cache=cache, features=features)
            at += size
    return recorder.trace()


def dense(reference, layers, prefix=""):
    """(layers, heads, n, n) float64."""
    return np.stack([getattr(reference, f"{prefix}attn_{i}") for i in range(layers)]).astype(float)


def pooled(weights, edges):
    """Sums and maxima over the cells of an (n, n) map."""
    total = np.add.reduceat(np.add.reduceat(weights, edges[:-1], 0), edges[:-1], 1)
    peak = np.maximum.reduceat(np.maximum.reduceat(weights, edges[:-1], 0), edges[:-1], 1)
    return total, peak


def check_against(attention, weights, tokens):
    """Everything a trace knows, against dense weights (layers, heads, n, n)."""
    soft = tokens.of_kind("image") | tokens.of_kind("audio")
    ids = np.where(soft, -1 - np.arange(len(tokens)), tokens.ids)  # no copies of each other
    layers, heads, n, _ = weights.shape
    edges = attention.edges
    position = np.arange(n)
    earlier = position[None] < position[:, None]
    same = (ids[:, None] == ids[None]) & earlier
    after_same = np.zeros((n, n), bool)
    after_same[:, 1:] = ((ids[:, None] == ids[None]) & earlier)[:, :-1]
    masks = {
        "first": position[None] == np.zeros((n, 1)),
        "previous": position[None] == position[:, None] - 1,
        "same": same,
        "induction": after_same,
    }
    for layer in range(layers):
        for head in range(heads):
            w = weights[layer, head]
            total, peak = pooled(w, edges)
            per_query = total / np.diff(edges)[:, None]
            assert np.abs(attention.overview(layer, head) - per_query).max() < EXACT
            assert np.abs(attention.overview(layer, head, "max") - peak).max() < EXACT
            assert np.abs(attention.column_sums(layer, head) - w.sum(0)).max() < 1e-5 * n
            tile = attention.tile(layer, head, shape=(n, n), statistic="max")
            assert np.abs(tile.values - w).max() < EXACT and tile.source == "recomputed"
            for query in (0, n // 3, n - 1):
                assert np.abs(attention.row(layer, head, query) - w[query]).max() < EXACT
            for name, mask in masks.items():
                expected = (w * mask).sum(-1).mean()
                assert abs(attention.summary(name, layer, head) - expected) < EXACT, name
            p = np.where(w > 0, w, 1)
            entropy = -(w * np.log(p)).sum(-1).mean()
            assert abs(attention.summary("entropy", layer, head) - entropy) < 1e-4
            distance = (w * (position[:, None] - position[None])).sum(-1).mean()
            assert abs(attention.summary("distance", layer, head) - distance) < 1e-3
            linkable = w * (position[None] != position[:, None]) * (position[None] > 0)
            strongest = np.sort(linkable.max(-1))[::-1][:16]
            links = attention.links(layer, head)
            got = np.array([link.weight for link in links])
            assert np.abs(got - strongest[: len(got)]).max() < EXACT
            for link in links:
                assert abs(linkable[link.query, link.key] - link.weight) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_whole_prompt(name, loaded):
    model, reference = loaded(name)
    trace = record(model, reference.ids, expected=100)
    weights = dense(reference, model.config.text.num_hidden_layers)
    check_against(trace.attention, weights, trace.tokens)


@pytest.mark.parametrize("name", ["e2b", "everything"])
@pytest.mark.parametrize("sizes", [(7,), (40, 1), (16, 17, 64, 1)], ids=str)
def test_pieces_of_a_run_whose_length_is_unknown(name, sizes, loaded):
    """Bins start one token wide and double, queries and keys are kept across calls."""
    model, reference = loaded(name)
    trace = record(model, reference.ids, sizes)
    assert trace.attention.width == 8 and len(trace) == 100
    weights = dense(reference, model.config.text.num_hidden_layers)
    check_against(trace.attention, weights, trace.tokens)


@pytest.mark.parametrize("plain", [40.0, 0.0])
@pytest.mark.parametrize("expected", [0, 100])
def test_tiles_of_a_few_bins(plain, expected, loaded, monkeypatch):
    """Long strips are reduced tile by tile: scores as they are, or against a tile's largest."""
    monkeypatch.setattr(strips_cpu, "PLAIN", plain)
    monkeypatch.setattr(strips_cpu, "TILE", 1600)
    model, reference = loaded("everything")
    trace = record(model, reference.ids, (64, 36), expected=expected)
    weights = dense(reference, model.config.text.num_hidden_layers)
    check_against(trace.attention, weights, trace.tokens)


@pytest.mark.parametrize("name", ["moe", "dense31"])
@pytest.mark.parametrize("picture", ["img", "long"])
def test_pictures_that_see_themselves(name, picture, loaded):
    """Bidirectional blocks on sliding layers, one of them longer than the window."""
    model, reference = loaded(name)
    pixels = getattr(reference, f"{picture}_pixels")
    positions = getattr(reference, f"{picture}_positions").astype(np.int32)
    features = []
    for patches, place in zip(pixels, positions):
        real = place[:, 0] >= 0
        features.append(model.encode_image(mx.array(patches[real]), mx.array(place[real])))
    ids = getattr(reference, f"{picture}_ids")
    trace = record(model, ids, features=mx.concatenate(features), expected=ids.size)
    text = model.config.text
    weights = dense(reference, text.num_hidden_layers, f"{picture}_")
    check_against(trace.attention, weights, trace.tokens)
    image = trace.tokens.of_kind("image")
    upper = np.triu(np.ones(weights.shape[-2:]), 1)
    for layer in range(text.num_hidden_layers):
        ahead = (weights[layer] * upper).sum()
        assert (ahead > 0) == (not text.is_full(layer))
        expected = weights[layer, 0][:, image].sum(-1).mean()
        assert abs(trace.attention.summary("image", layer, 0) - expected) < EXACT


def test_the_mlx_path_agrees(loaded, monkeypatch):
    """On a GPU the same arithmetic runs in MLX instead of numpy."""
    from gemma4_mlx.tracing.recording.attention import AttentionRecorder

    made = AttentionRecorder.__init__

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.device = strips_gpu

    monkeypatch.setattr(AttentionRecorder, "__init__", init)
    model, reference = loaded("everything")
    trace = record(model, reference.ids, (30,), expected=100)
    weights = dense(reference, model.config.text.num_hidden_layers)
    check_against(trace.attention, weights, trace.tokens)


def test_a_strip_is_waited_for_once_and_while_the_next_one_is_computed(loaded, monkeypatch):
    happened = []
    at_once = strips_gpu.at_once

    def noted(*strip):
        happened.append("begun")
        collected = at_once(*strip)
        return lambda: (happened.append("collected"), collected())[1]

    def evaluated(*arrays, wait=mx.eval):
        happened.append("wait")
        return wait(*arrays)

    monkeypatch.setattr(strips_gpu, "ready", lambda q, k: (q, k.swapaxes(1, 2), noted))
    monkeypatch.setattr(strips_gpu, "SCORES", 4 * 25 * 100)
    monkeypatch.setattr("gemma4_mlx.tracing.recording.attention.strips_cpu", strips_gpu)
    model, reference = loaded("everything")
    full = model.config.text.layer_types.index("full_attention")
    plan = TracePlan(attention=AttentionPlan(layers=(full,), retain="none"))
    recorder = Recorder(model, plan, expected=100)
    tokens = mx.array(np.array(reference.ids).reshape(1, -1))
    mx.eval(model.parameters())
    with model.observe(recorder):
        monkeypatch.setattr(mx, "eval", evaluated)
        model(tokens)
        monkeypatch.undo()
    first = ["wait", "begun"]  # queries and keys
    strips = ["begun", "collected", "wait"] * 3 + ["collected", "wait"]
    assert happened == first + strips


def test_chosen_layers_and_heads(loaded):
    """A KV-shared layer whose donor is not traced keeps the donor's keys itself."""
    model, reference = loaded("e2b")
    shared = model.config.text.num_hidden_layers - 1
    plan = TracePlan(attention=AttentionPlan(layers=(2, shared), heads=(1, 3), retain="all"))
    trace = record(model, reference.ids, plan=plan, expected=100)
    assert trace.attention.layers == (2, shared) and trace.attention.heads(2) == (1, 3)
    for layer in (2, shared):
        for head in (1, 3):
            expected = getattr(reference, f"attn_{layer}")[head]
            assert (
                np.abs(trace.attention.tile(layer, head, shape=(100, 100)) - expected).max() < EXACT
            )
            for query in (5, 99):
                row = trace.attention.row(layer, head, query)
                assert np.abs(row - expected[query]).max() < EXACT


@pytest.mark.parametrize("heads", [(0, 3), (1,), (2, 3)], ids=str)
def test_chosen_heads_meet_the_keys_of_their_group(heads, loaded):
    """Two query heads share a KV head; alone, each still has its own."""
    model, reference = loaded("everything")
    assert 1 < model.config.text.kv_heads_of(0) < model.config.text.num_attention_heads
    plan = TracePlan(attention=AttentionPlan(heads=heads, retain="all", bins=16))
    attention = record(model, reference.ids, plan=plan, expected=100).attention
    for layer in attention.layers:
        for head in heads:
            w = getattr(reference, f"attn_{layer}")[head]
            per_query = pooled(w, attention.edges)[0] / np.diff(attention.edges)[:, None]
            assert np.abs(attention.overview(layer, head) - per_query).max() < EXACT
            assert np.abs(attention.tile(layer, head, shape=(100, 100)) - w).max() < EXACT


def test_two_rows_on_the_diagonal(loaded):
    """The smallest tile that holds a key which one of its queries does not see."""
    model, reference = loaded("e2b")
    trace = record(model, reference.ids, expected=100)
    for layer in (0, 4):
        for first in (0, 1, 50, 98):
            for rows in (1, 2, 3):
                span = slice(first, min(first + rows, 100))
                tile = trace.attention.tile(layer, 2, span, span, shape=(3, 3), statistic="max")
                expected = getattr(reference, f"attn_{layer}")[2][span, span]
                assert np.abs(tile.values - expected).max() < EXACT


def test_pictures_of_several_calls_are_apart(loaded):
    """Each call numbers its pictures from 0; a later one does not see an earlier one's end."""
    model, reference = loaded("moe")
    ids = np.array(reference.img_ids).ravel()
    image = model.config.image_token_id
    runs = np.flatnonzero(np.diff(np.r_[False, ids == image, False].astype(int))).reshape(-1, 2)
    assert len(runs) > 1
    rng = np.random.default_rng(0)
    features = {
        a: mx.array(rng.normal(size=(b - a, model.config.text.hidden_size)).astype(np.float32))
        for a, b in runs.tolist()
    }

    def trace(cuts):
        plan = TracePlan(attention=AttentionPlan(bins=16, retain="all"))
        recorder, cache = Recorder(model, plan, expected=len(ids)), model.make_cache()
        with model.observe(recorder):
            for a, b in zip([0, *cuts], [*cuts, len(ids)]):
                here = [x for at, x in features.items() if a <= at < b]
                model(
                    mx.array(ids[None, a:b]),
                    cache=cache,
                    features=mx.concatenate(here) if here else None,
                )
        return recorder.trace().attention

    whole, parted = trace([]), trace([int(a) for a, _ in runs[1:]])
    numbers = np.unique(parted.blocks)
    assert np.array_equal(parted.blocks, whole.blocks) and len(numbers) == len(runs) + 1
    for layer in whole.layers:
        full = (len(ids), len(ids))
        error = parted.tile(layer, 1, shape=full) - np.array(whole.tile(layer, 1, shape=full))
        assert np.abs(error).max() < EXACT


@pytest.mark.parametrize("sizes", [(100,), (7,)], ids=str)
def test_induction_to_the_first_key_that_is_seen(sizes, loaded):
    """A sliding layer's strip begins with the token after a copy that is no longer inside."""
    model, _ = loaded("e2b")
    window = model.config.text.sliding_window
    ids = np.resize(np.arange(40, 40 + window), 100)  # the copy is the last key that has left
    plan = TracePlan(attention=AttentionPlan(bins=100, retain="all"))  # strips begin anywhere
    trace = record(model, ids, sizes, plan, expected=100)
    n, position = len(ids), np.arange(len(ids))
    earlier = position[None] < position[:, None]
    after_same = np.zeros((n, n), bool)
    after_same[:, 1:] = ((ids[:, None] == ids[None]) & earlier)[:, :-1]
    for layer in trace.attention.layers:
        for head in range(4):
            w = np.array(trace.attention.tile(layer, head, shape=(n, n), statistic="max"))
            expected = (w * after_same).sum(-1).mean()
            assert abs(trace.attention.summary("induction", layer, head) - expected) < EXACT


def test_what_is_not_kept_is_absent_not_wrong(loaded):
    model, reference = loaded("e2b")
    plan = AttentionPlan(overview=False, columns=False, summaries=False, links=0, retain="none")
    trace = record(model, reference.ids, plan=TracePlan(attention=plan))
    attention = trace.attention
    assert attention.normaliser(0, 0).shape == (100,)
    calls = (
        lambda: attention.overview(0, 0),
        lambda: attention.column_sums(0, 0),
        lambda: attention.summary("entropy", 0, 0),
        lambda: attention.links(0, 0),
        lambda: attention.row(0, 0, 5),
        lambda: attention.find((0, 2), (3, 4)),
    )
    for call in calls:
        with pytest.raises(g4.errors.TraceError, match="AttentionPlan"):
            call()


def test_find_ranks_heads_by_the_mass_between_spans(loaded):
    model, reference = loaded("everything")
    trace = record(model, reference.ids, expected=100)
    weights = dense(reference, model.config.text.num_hidden_layers)
    mass = weights[:, :, 80:90, 30:33].sum(-1).mean(-1)  # (layers, heads)
    found = trace.attention.find((80, 90), slice(30, 33))
    assert len(found) == mass.size
    assert [f.mass for f in found] == sorted((f.mass for f in found), reverse=True)
    for each in found:
        assert abs(each.mass - mass[each.layer, each.head]) < EXACT
        link = each.strongest
        assert abs(weights[each.layer, each.head, link.query, link.key] - link.weight) < EXACT
    best = np.unravel_index(mass.argmax(), mass.shape)
    assert (found[0].layer, found[0].head) == best


@pytest.mark.parametrize("shape", [(7, 5), (100, 13), (1, 1)], ids=str)
@pytest.mark.parametrize("span", [(0, 100, 0, 100), (20, 91, 3, 64), (60, 80, 70, 100)], ids=str)
def test_pooled_tiles(shape, span, loaded):
    model, reference = loaded("moe")
    trace = record(model, reference.ids, expected=100)
    a, b, c, d = span
    for layer in (0, 5):
        w = getattr(reference, f"attn_{layer}")[2][a:b, c:d].astype(float)
        for statistic in ("mass", "mean", "max"):
            tile = trace.attention.tile(layer, 2, slice(a, b), slice(c, d), shape, statistic)
            rows, cols = tile.query_edges - a, tile.key_edges - c
            assert (rows[0], rows[-1], cols[0], cols[-1]) == (0, b - a, 0, d - c)
            assert tile.shape == (min(shape[0], b - a), min(shape[1], d - c))
            for i in range(tile.shape[0]):
                for j in range(tile.shape[1]):
                    cell = w[rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
                    expected = {"mass": cell.sum(1).mean(), "mean": cell.mean(), "max": cell.max()}
                    assert abs(tile.values[i, j] - expected[statistic]) < EXACT


def test_tiles_of_unretained_layers_come_from_the_overview(loaded):
    model, reference = loaded("e2b")
    plan = TracePlan(attention=AttentionPlan(bins=20, retain="full"))
    trace = record(model, reference.ids, plan=plan, expected=100)
    assert trace.attention.retained == (4, 9, 14)
    w = reference.attn_0[1]
    tile = trace.attention.tile(0, 1, (31, 79), (12, 58), shape=(4, 64), statistic="mass")
    assert tile.source == "overview" and tile.pooled
    assert tile.query_edges.tolist() == [30, 45, 60, 75, 80]
    assert tile.key_edges.tolist() == list(range(10, 61, 5))
    for i in range(4):
        rows = slice(*tile.query_edges[i : i + 2])
        for j in range(10):
            cell = w[rows, slice(*tile.key_edges[j : j + 2])]
            assert abs(tile.values[i, j] - cell.sum(1).mean()) < EXACT
    with pytest.raises(g4.errors.TraceError, match="were not kept"):
        trace.attention.tile(0, 1, (31, 35), (12, 58))


@pytest.mark.parametrize("layer, queries, keys", [(4, (24, 100), (0, 36)), (0, (24, 48), (12, 24))])
def test_tiles_on_the_grid_of_the_whole_map(layer, queries, keys, loaded):
    """Cells at multiples of their size; recomputed if they are finer than bins of 5 tokens."""
    model, reference = loaded("e2b")
    plan = TracePlan(attention=AttentionPlan(bins=20, retain="full"))
    attention = record(model, reference.ids, plan=plan, expected=100).attention
    w = getattr(reference, f"attn_{layer}")[1].astype(float)
    for cell, statistic in product([1, 3, 4, 5, 12], ["mass", "mean", "max"]):
        exact = layer == 4 and cell < 5
        size = cell if exact else max(1, cell // 5) * 5
        how = {"cell": cell, "compute": False}
        tile = attention.tile(layer, 1, queries, keys, statistic=statistic, **how)
        assert tile.source == ("recomputed" if exact else "overview")
        assert tile.source == attention.tile_source(layer, 1, queries, keys, **how)
        for edges, (start, stop) in ((tile.query_edges, queries), (tile.key_edges, keys)):
            assert edges[0] == start // size * size
            assert edges[-1] == min(-(-stop // size) * size, 100)
            assert (edges[:-1] % size == 0).all() and (np.diff(edges)[:-1] == size).all()
        for i, rows in enumerate(pairwise(tile.query_edges)):
            for j, columns in enumerate(pairwise(tile.key_edges)):
                part = w[slice(*rows), slice(*columns)]
                expected = {"mass": part.sum(1).mean(), "mean": part.mean(), "max": part.max()}
                assert abs(tile.values[i, j] - expected[statistic]) < EXACT


def test_what_is_more_work_than_allowed_comes_from_the_overview(loaded):
    model, reference = loaded("e2b")
    plan = TracePlan(attention=AttentionPlan(bins=20, retain="all"))
    attention = record(model, reference.ids, plan=plan, expected=100).attention
    below, diagonal = ((60, 100), (0, 40)), ((60, 100), (60, 100))
    D = max(64, attention.head_dim(4))
    assert attention.tile_source(4, 0, *below, limit=D * 40 * 40) == "recomputed"
    assert attention.tile_source(4, 0, *below, limit=D * 40 * 40 - 1) == "overview"
    assert attention.tile_source(4, 0, *diagonal, limit=D * 850) == "recomputed"
    assert attention.tile_source(4, 0, *diagonal, limit=D * 750) == "overview"
    with pytest.raises(g4.errors.TraceError, match="no cells"):
        attention.tile(4, 0, cell=0)
