"""Keys hidden from queries, and weighted anew: against transformers, a dense softmax, and the
ways in which a prompt is read."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weighting_reference import CHANGES, arrays

import gemma4_mlx as g4
from gemma4_mlx.errors import InterventionError, TraceError
from gemma4_mlx.model import scores, sizes
from gemma4_mlx.model.attention import AttentionGeometry
from gemma4_mlx.model.decoder import image_blocks
from gemma4_mlx.model.scores import ScoreChange, attend_changed

EXACT = 1e-5


def interventions(name):
    for layers, heads, queries, keys, factor in CHANGES[name]:
        if factor:
            yield g4.Attend(layers, heads, queries, keys, factor)
        else:
            yield g4.Knockout(layers, heads, queries, keys)


def run(model, ids, *changes, sizes=(1000,), features=None, cache=None):
    """Logits (n, V), and the head outputs of each layer (heads, n, D); read in pieces of
    ``sizes``, of which the last repeats."""
    seen, logits, at, sizes = {}, [], 0, list(sizes)

    def watch(name, layer, value, geometry):
        if name == "head_outputs":
            seen.setdefault(layer, []).append(np.array(value.astype(mx.float32))[0])

    ids, cache = mx.array(ids).reshape(1, -1), cache or model.make_cache()
    with model.intervene(*changes), model.observe(watch):
        while at < ids.shape[1]:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            logits.append(np.array(model(ids[:, at : at + size], cache, features=features))[0])
            at += size
    return np.concatenate(logits), {i: np.concatenate(parts, 1) for i, parts in seen.items()}


def pictures(model, reference):
    if "pixels" not in reference:
        return None
    return mx.concatenate(
        [
            model.encode_image(mx.array(patches), mx.array(places.astype(np.int32)))
            for patches, places in zip(reference["pixels"], reference["positions"])
        ]
    )


@pytest.mark.float32
@pytest.mark.parametrize("name", CHANGES)
def test_a_mask_that_is_added_in_transformers(name, loaded):
    """Sliding and full layers, k = v, shared keys and values, pictures; one head, some and all."""
    model, reference = loaded(name), arrays(name)
    features = pictures(model, reference)
    logits, outputs = run(model, reference["ids"], *interventions(name), features=features)
    plain, before = run(model, reference["ids"], features=features)
    for layers, *_ in CHANGES[name]:
        for layer in layers:
            expected = reference[f"outputs_{layer}"]
            assert np.abs(outputs[layer] - expected).max() < EXACT * np.abs(expected).max()
            assert np.abs(before[layer] - expected).max() > 1e-2
    assert np.abs(logits - reference["logits"][0]).max() < 2e-4
    assert np.abs(plain - logits).max() > 1e-2


@pytest.mark.float32
@pytest.mark.parametrize("name", ["everything", "e2b"])
@pytest.mark.parametrize("sizes", [(7,), (31, 1), (16, 17, 1, 1, 35)], ids=str)
def test_chunks_caches_and_decoded_tokens(name, sizes, loaded):
    model, reference = loaded(name), arrays(name)
    logits, _ = run(model, reference["ids"], *interventions(name), sizes=sizes)
    assert np.abs(logits - reference["logits"][0]).max() < 1e-3
    with model.intervene(*interventions(name)):
        alone = np.array(model(mx.array(reference["ids"])))[0]
    assert np.abs(alone - reference["logits"][0]).max() < 2e-4  # without a cache


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_what_is_not_named_keeps_its_bits(bits, loaded):
    """Other heads and queries of the layer; also behind packed keys. A factor of 1 is computed in
    another way and gives the same."""
    model = loaded("everything")
    ids = np.random.default_rng(0).integers(3, 490, 40)

    def outputs(*changes):
        cache = model.make_cache(kv_bits=bits)
        return run(model, ids, *changes, sizes=(30, 1), cache=cache)[1][2]

    plain = outputs()
    hidden = outputs(g4.Knockout(2, 1, [20, 35], (3, 9)))
    other = np.ones(plain.shape[:2], bool)
    other[1, [20, 35]] = False
    assert (
        np.array_equal(hidden[other], plain[other]) and not (hidden == plain).all(-1)[~other].any()
    )
    same = outputs(g4.Attend(2, None, None, (3, 9), 1.0))
    exact = plain.dtype == np.float32 and model.dtype == mx.float32
    assert np.abs(same - plain).max() < (EXACT if exact else 0.05) * np.abs(plain).max()


def test_generation_and_its_cache():
    """Hidden from the whole answer, and a prompt cache does not mix the two."""
    model = g4.load()
    prompt = [2, *model.tokenizer.encode("Note: key 208. Note: drum 471. The note for key")]
    needle = range(4, 8)
    options = {"temperature": 0, "max_tokens": 4, "stop": ()}

    def generate(cache=None):
        events = g4.stream(model, prompt, options=options, cache=cache)
        return [e.id for e in events if type(e).__name__ == "Token"]

    cache = g4.PromptCache(model)
    plain = generate(cache)
    assert model.tokenizer.decode(plain).startswith(" 208")
    with model.intervene(g4.Knockout(None, None, (len(prompt) - 1, None), needle)):
        without = generate(cache)
        assert without == generate() != plain
    assert generate(cache) == plain


@pytest.mark.parametrize("layer", [1, 2, 6, 7])
def test_a_query_that_would_see_nothing_reads_nothing(layer, loaded):
    """Its head outputs zero; the first token, which sees itself alone, and a whole head too."""
    model = loaded("everything")
    ids = np.random.default_rng(1).integers(3, 490, 30)
    for pieces in ((30,), (12, 1)):
        _, outputs = run(model, ids, g4.Knockout(layer, 2, [0, 9, 29]), sizes=pieces)
        silent = (outputs[layer] == 0).all(-1)
        assert {*zip(*np.nonzero(silent))} == {(2, 0), (2, 9), (2, 29)}
        assert np.isfinite(outputs[layer]).all()
    logits, _ = run(model, ids, g4.Knockout(layer, 2))
    scaled, _ = run(model, ids, g4.ScaleHeads(layer, 2, 0.0))
    assert np.array_equal(logits, scaled)


def test_rows_of_a_batch(loaded):
    """Positions are the cache's, as of the other interventions: behind padding they stand later."""
    model = loaded("everything")
    long, short = np.random.default_rng(2).integers(3, 490, (2, 20))
    short = short[:15]
    batch = mx.array(np.stack([long, np.pad(short, (5, 0))]))
    with model.intervene(g4.Knockout((0, 2, 7), None, (9, None), (6, 9))):
        both = np.array(model(batch, model.make_cache(left_padding=[0, 5])))
        first = np.array(model(mx.array(long)[None]))[0]
    with model.intervene(g4.Knockout((0, 2, 7), None, (4, None), (1, 4))):
        second = np.array(model(mx.array(short)[None]))[0]
    bound = 1e-3 if model.dtype == mx.float32 else 1.0
    assert np.abs(both[0] - first).max() < bound and np.abs(both[1, 5:] - second).max() < bound


chosen = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(61, 90))),
    st.lists(st.integers(0, 80), min_size=1, max_size=9),
)


@settings(max_examples=60)
@given(
    window=st.sampled_from([None, 5, 16]),
    picture=st.booleans(),
    cached=st.sampled_from([0, 13, 40]),
    n=st.sampled_from([1, 7, 40]),
    changes=st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
            chosen,
            chosen,
            st.sampled_from([0.0, 0.3, 1.0, 7.0]),
        ),
        min_size=1,
        max_size=3,
    ),
    small=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_change_is_a_dense_softmax(window, picture, cached, n, changes, small, seed):
    """Also in blocks of a few rows; where everything is hidden, zero."""
    first = cached - min(cached, (window or 99) - 1)
    m, D = n + cached - first, 8
    shapes = ((2, 6, n, D), (2, 2, m, D), (2, 2, m, D))
    q, k, v = (mx.random.normal(s, key=mx.random.key(seed + i)) for i, s in enumerate(shapes))
    blocks = None
    if picture and window and n > 1:
        tokens = np.full((2, n), 7)
        tokens[:, 2:6] = 500
        blocks = image_blocks(mx.array(tokens), (500,))
    geometry = AttentionGeometry(cached, n, first, m, window=window, blocks=blocks)
    weights = mx.exp(q @ mx.repeat(k, 3, axis=1).swapaxes(-1, -2)) * geometry.mask()
    scale = np.ones((6, n, m))
    for heads, queries, keys, factor in changes:
        given = g4.Attend(0, heads, queries, keys, factor)
        rows, cols = (place(p)[start : start + size] for p, start, size in
                      ((given.queries, cached, n), (given.keys, first, m)))  # fmt: skip
        scale[np.ix_(sorted(heads), np.flatnonzero(rows), np.flatnonzero(cols))] *= factor
        geometry.changes.append(
            ScoreChange(
                tuple(heads),
                lambda a, b, p=place(given.queries): p[a:b],
                lambda a, b, p=place(given.keys): p[a:b],
                np.log(factor) if factor else -np.inf,
            )
        )
    weights = weights * mx.array(scale)
    total = weights.sum(-1, keepdims=True)
    expected = mx.where(total == 0, 0, weights / total) @ mx.repeat(v, 3, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(scores, "LEAST_ROWS", 3)
            patch.setattr(sizes, "SCORE_BYTES", 2 * 2 * 6 * m * 4 * 4)
        got = attend_changed(mx.zeros(q.shape), q, k, v, geometry)
    touched = np.zeros((6, n), bool)
    for heads, queries, *_ in changes:
        given = g4.Knockout(0, heads, queries)
        touched[sorted(heads)] |= place(given.queries)[cached : cached + n]
    assert np.abs(np.array(got - expected))[:, touched].max(initial=0) < EXACT
    assert (np.array(got)[:, ~touched] == 0).all()


def place(positions):
    """As :func:`weighting_reference.within`, of what an intervention keeps."""
    found = np.zeros(100, bool)
    found[
        slice(*(positions or (0, None))) if not isinstance(positions, np.ndarray) else positions
    ] = 1
    return found


def test_gradients_pass_it(loaded):
    """Also those of a query that sees nothing."""
    model = loaded("everything")
    layer, x = model.layers[2], mx.random.normal((1, 12, 128), key=mx.random.key(0))
    changes = g4.Knockout(2, (0, 1), [0, 5], (0, 6)), g4.Attend(2, 3, None, 2, 3.0)

    def loss(x):
        geometry = AttentionGeometry(0, 12, 0, 12)
        with model.intervene(*changes):
            tap = model._taps.at(2)
        return (layer.self_attn(x, None, None, geometry, tap)[0].astype(mx.float32) ** 2).sum()

    x = x.astype(model.dtype)
    gradient = np.array(mx.grad(loss)(x).astype(mx.float32))
    assert np.isfinite(gradient).all()
    if model.dtype != mx.float32:
        return  # differences of 16 bits are mostly rounding
    step = mx.random.normal(x.shape, key=mx.random.key(1)) * 1e-2
    measured = (loss(x + step) - loss(x - step)).item() / 2
    expected = (gradient * np.array(step)).sum()
    assert abs(measured - expected) < 0.01 * abs(expected)


def test_changes_of_one_layer_multiply_and_end(loaded):
    model = loaded("everything")
    ids = np.random.default_rng(3).integers(3, 490, 25)
    plain, _ = run(model, ids)
    both, _ = run(model, ids, g4.Attend(2, 1, None, 3, 2.0), g4.Attend(2, 1, None, 3, 4.0))
    one, _ = run(model, ids, g4.Attend(2, 1, None, 3, 8.0))
    assert np.abs(both - one).max() < 1e-3 * np.abs(one).max() and np.abs(one - plain).max() > 0
    hidden, _ = run(model, ids, g4.Knockout(2, 1, None, 3))
    nested, _ = run(model, ids, g4.Attend(2, 1, None, 3, 5.0), g4.Knockout(2, 1, None, 3))
    assert np.array_equal(hidden, nested)
    assert np.array_equal(run(model, ids)[0], plain)
    # Before what changes outputs, whichever is given first.
    silent = g4.ScaleHeads(2, 1, 0.0)
    a, _ = run(model, ids, silent, g4.Knockout(2, 1, None, 3))
    b, _ = run(model, ids, silent)
    assert np.array_equal(a, b)


def test_several_layers_are_several_knockouts(loaded):
    model = loaded("e2b")
    ids = np.random.default_rng(4).integers(3, 490, 25)
    several, _ = run(model, ids, g4.Knockout((1, 4, 14), (0, 3), slice(9, None), [2, 3]))
    single = [g4.Knockout(i, [3, 0], (9, None), np.array([3, 2, 2])) for i in (1, 4, 14)]
    assert np.array_equal(several, run(model, ids, *single)[0])
    every, _ = run(model, ids, g4.Knockout(None, None, 20, 2))
    assert np.array_equal(every, run(model, ids, g4.Knockout(range(15), range(4), [20], [2]))[0])
    assert g4.Knockout(1, 0, 5, 3).key == g4.Knockout([1], [0], [5], [3]).key
    assert (
        g4.Knockout(1, 0, 5, 3).key != g4.Attend(1, 0, 5, 3, 0.0).key != g4.Attend(1, 0, 5, 3).key
    )


def test_attention_that_is_changed_is_not_traced_as_if_it_were_not(loaded):
    model, ids = loaded("everything"), [5, 6, 7, 8, 9, 10]
    with model.intervene(g4.Knockout(2, 0, 5, 3)):
        with pytest.raises(
            TraceError, match="attention of layer 2 cannot be traced while Knockout"
        ):
            g4.trace(model, ids)
        trace = g4.trace(model, ids, attention=g4.AttentionPlan(layers=(1, 3)))
    assert trace.attention.layers == (1, 3) and "Knockout" in trace.interventions[0]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: g4.Knockout(8), "layer 8: this model has layers 0 to 7"),
        (lambda: g4.Knockout((0, -1)), "layer -1: this model has layers 0 to 7"),
        (lambda: g4.Knockout(()), "layer none at all"),
        (lambda: g4.Knockout("all"), "layer='all': give an index or several"),
        (lambda: g4.Knockout(0, 4), "head 4: this model has heads 0 to 3"),
        (lambda: g4.Knockout(0, 0, -1), "queries: position -1; positions count from 0"),
        (lambda: g4.Knockout(0, 0, []), "queries: no position at all"),
        (lambda: g4.Knockout(0, 0, None, [3, 1 << 70]), "keys=.*give a span"),
        (lambda: g4.Knockout(0, 0, None, "key"), "keys='key': give a span"),
        (lambda: g4.Knockout(0, 0, None, 2.5), "keys=2.5: give a span"),
        (lambda: g4.Knockout(0, 0, (5, 5)), "queries 5:5 is no span"),
        (lambda: g4.Knockout(0, 0, (5, 6, 7)), r"queries \(5, 6, 7\): give a slice"),
        (lambda: g4.Knockout(0, 0, slice(0, 9, 2)), "queries: a span has no step"),
        (lambda: g4.Knockout(0, 0, 4096), "queries up to position 4096: .* 4,096 positions"),
        (lambda: g4.Knockout(0, 0, 1, (0, 5000)), "keys up to position 4999"),
        (lambda: g4.Knockout(0, 0, 1, 2, 0.5), "Knockout takes layer, "),
        (lambda: g4.Attend(0, 0, 1, 2, -1), "a factor of -1"),
        (lambda: g4.Attend(0, 0, 1, 2, float("nan")), "a factor of nan"),
        (lambda: g4.Attend(0, 0, 1, 2, "2"), "a factor of '2'"),
    ],
)
def test_what_does_not_exist(make, words, loaded):
    with pytest.raises(InterventionError, match=words):  # noqa: SIM117
        with loaded("everything").intervene(make()):
            pass
