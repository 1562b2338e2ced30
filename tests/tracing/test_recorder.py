"""A recorder watches any run, changes nothing in it, and agrees with what the model did."""

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.model.cache import rewind
from gemma4_mlx.tracing import (
    ActivationPlan,
    AttentionPlan,
    LensPlan,
    Recorder,
    RoutingPlan,
    TracePlan,
)
from gemma4_mlx.tracing.recording import routing as counting

NAMES = ["e2b", "e2b_noshare", "moe", "dense31", "everything", "textonly", "textonly_moe", "mm"]


def full_plan(model):
    experts = model.config.text.enable_moe_block
    return TracePlan(
        RoutingPlan(probabilities=True, norms=True) if experts else None,
        AttentionPlan(bins=16, retain="all"),
        LensPlan(top=3),
        ActivationPlan(taps=("layer_output", "attention_output")),
    )


def recorded(model, tokens, routing):
    """What a recorder of routing makes of one run."""
    recorder = Recorder(model, TracePlan(routing=routing))
    with model.observe(recorder):
        model(tokens)
    return recorder.trace()


@pytest.fixture(scope="module")
def everything(checkpoint):
    reference = checkpoint("everything")
    return g4.load(reference.folder), reference


@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_no_bit(name, checkpoint):
    """Whole prompt, chunks and single tokens, everything recorded at once."""
    reference = checkpoint(name)
    model = g4.load(reference.folder)
    tokens = mx.array(reference.ids)

    def run(pieces):
        cache, at, out = model.make_cache(), 0, []
        for size in pieces:
            out.append(np.array(model(tokens[:, at : at + size], cache=cache)))
            at += size
        return out

    for pieces in ((100,), (40, 57, 1, 1, 1)):
        plain = run(pieces)
        with model.observe(Recorder(model, full_plan(model))):
            observed = run(pieces)
        for a, b in zip(plain, observed):
            assert np.array_equal(a, b)


@pytest.mark.float32
def test_routing_is_what_the_router_chose(everything):
    model, reference = everything
    seen = {}

    def watch(name, layer, value, geometry):
        if name.startswith(("router_prob", "expert_indices", "expert_weights")):
            seen[name, layer] = np.array(value)[0]

    recorder = Recorder(model, TracePlan(routing=RoutingPlan(probabilities=True)))
    with model.observe(recorder, watch):
        model(mx.array(reference.ids))
    routing = recorder.trace().routing
    k = model.config.text.top_k_experts
    assert routing.experts.shape == (model.config.text.num_hidden_layers, 100, k)
    assert routing.experts.dtype == np.uint8
    for i, layer in enumerate(routing.layers):
        p = seen["router_probabilities", layer]
        assert np.array_equal(routing.probabilities[i], p)
        assert (np.sort(routing.experts[i]) == np.sort(np.argsort(-p, axis=-1)[:, :k])).all()
        assert (np.diff(routing.weights[i], axis=-1) <= 0).all()
        chosen, weights = seen["expert_indices", layer], seen["expert_weights", layer]
        for t in range(0, 100, 9):
            want = dict(zip(chosen[t].tolist(), weights[t].tolist()))
            got = dict(zip(routing.experts[i, t].tolist(), routing.weights[i, t].tolist()))
            assert want == got


@pytest.mark.float32
def test_router_agrees_with_transformers(checkpoint):
    reference = checkpoint("moe")
    model = g4.load(reference.folder)
    recorder = Recorder(model)
    with model.observe(recorder):
        model(mx.array(reference.ids))
    routing = recorder.trace().routing
    scores = reference.router.reshape(len(routing.layers), 100, -1)
    best = np.sort(np.argsort(-scores, axis=-1)[..., : routing.k])
    assert (np.sort(routing.experts) == best).mean() > 0.999


@pytest.mark.float32
def test_decode_steps_are_appended_and_timed(everything):
    model, reference = everything
    tokens, cache = mx.array(reference.ids), model.make_cache()
    recorder = Recorder(model, TracePlan(routing=RoutingPlan()))
    with model.observe(recorder):
        model(tokens[:, :60], cache=cache)
        for i in range(60, 100):  # more steps than wait unconverted at once
            mx.async_eval(model(tokens[:, i : i + 1], cache=cache))
        part = recorder.trace()
    assert len(part) == 100 and len(part.timings.decode) == 40
    assert part.timings.chunks[0][:2] == (0, 60) and min(part.timings.decode) > 0
    whole = recorded(model, tokens, RoutingPlan())
    assert np.array_equal(part.tokens.ids, whole.tokens.ids)
    assert np.array_equal(part.routing.experts, whole.routing.experts)
    assert np.abs(part.routing.weights - whole.routing.weights).max() < 1e-5


def test_a_recorder_of_routing_follows_a_cache_that_steps_back(everything):
    model, reference = everything
    tokens, cache = mx.array(reference.ids), model.make_cache()
    recorder = Recorder(model, TracePlan(routing=RoutingPlan(probabilities=True)))
    with model.observe(recorder):
        model(tokens[:, 50:70], cache=cache)  # to be replaced, with all its decoded tokens
        for i in range(5):
            mx.async_eval(model(tokens[:, i : i + 1], cache=cache))
        assert rewind(cache, 10)
        model(tokens[:, 60:100], cache=cache)
        assert rewind(cache, 40)
        model(tokens[:, :1], cache=cache)
        model(tokens[:, 1:12], cache=cache)
    part = recorder.trace()
    fresh = mx.concatenate([tokens[:, 50:60], tokens[:, 60:90], tokens[:, :12]], axis=1)
    whole = recorded(model, fresh, RoutingPlan(probabilities=True))
    assert np.array_equal(part.tokens.ids, whole.tokens.ids)
    assert np.array_equal(part.routing.experts, whole.routing.experts)
    assert np.abs(part.routing.probabilities - whole.routing.probabilities).max() < 1e-5
    assert [c[:2] for c in part.timings.chunks] == [(0, 10), (10, 40), (41, 52)]
    assert len(part.timings.decode) == 1 and min(part.timings.decode) > 0


@pytest.mark.parametrize("parts", [{"attention": AttentionPlan(bins=8)}, {"lens": LensPlan()}])
def test_other_recorders_say_that_they_cannot_step_back(everything, parts):
    model, reference = everything
    tokens, cache = mx.array(reference.ids), model.make_cache()
    with model.observe(Recorder(model, TracePlan(**parts))):
        model(tokens[:, :20], cache=cache)
        assert rewind(cache, 10)
        with pytest.raises(g4.errors.TraceError, match=r"goes on at 10.*chat\.trace"):
            model(tokens[:, 10:14], cache=cache)


@pytest.mark.float32
def test_lens_is_the_models_own_prediction_at_the_last_layer(everything):
    model, reference = everything
    tokens, cache = mx.array(reference.ids), model.make_cache()
    recorder = Recorder(model, TracePlan(lens=LensPlan(top=4)))
    with model.observe(recorder):
        for a, b in ((0, 33), (33, 34), (34, 100)):
            model(tokens[:, a:b], cache=cache)
    lens = recorder.trace().lens
    logits = reference.logits[0].astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert lens.ids.shape == (8, 100, 4) and lens.positions.tolist() == list(range(100))
    order = np.argsort(-p, axis=-1)[:, :4]
    assert (lens.ids[-1] == order).mean() > 0.99
    assert np.abs(lens.probabilities[-1] - np.take_along_axis(p, order, -1)).max() < 1e-4
    after = p[np.arange(99), reference.ids[0, 1:]]
    assert np.abs(lens.next_probability[-1, :99] - after).max() < 1e-4
    assert np.isnan(lens.next_probability[:, 99]).all()
    # Another layer, by hand.
    hidden = mx.array(reference.hidden[3 + 1][None])
    by_hand = np.array(model.language_model.head(model.language_model.model.norm(hidden)))[0]
    assert (lens.ids[3, :, 0] == by_hand.argmax(-1)).mean() > 0.99
    assert [g["layer"] for g in lens.guesses(7)] == list(range(8))
    assert recorder.trace().lens.ids.shape == (8, 100, 4)  # asking twice changes nothing


def test_lens_of_chosen_positions(everything):
    model, reference = everything
    plan = TracePlan(lens=LensPlan(layers=(2, 7), positions=(3, 50, 99)))
    recorder = Recorder(model, plan)
    with model.observe(recorder):
        model(mx.array(reference.ids))
    lens = recorder.trace().lens
    assert lens.ids.shape == (2, 3, 5) and lens.positions.tolist() == [3, 50, 99]
    with pytest.raises(g4.errors.TraceError, match="did not look at position 4"):
        lens.guesses(4)
    recorder = Recorder(model, TracePlan(lens=LensPlan(positions=100)))
    with model.observe(recorder):
        model(mx.array(reference.ids))
    with pytest.raises(g4.errors.TraceError, match="had 100 tokens"):
        recorder.trace()


@pytest.mark.float32
def test_activations_are_the_taps(everything):
    model, reference = everything
    recorder = Recorder(model, TracePlan(activations=ActivationPlan(layers=(1, 6))))
    tokens, cache = mx.array(reference.ids), model.make_cache()
    with model.observe(recorder):
        model(tokens[:, :70], cache=cache)
        model(tokens[:, 70:], cache=cache)
    kept = recorder.trace().activations
    for layer in (1, 6):
        error = np.abs(kept.at("layer_output", layer) - reference.hidden[layer + 1]).max()
        assert error < 1e-3
    for wrong in (("layer_output", 2), ("layer_input", 1)):
        with pytest.raises(g4.errors.TraceError, match="were kept"):
            kept.at(*wrong)


def test_sixteen_bit_models_keep_their_own_bits(checkpoint):
    """Retained bfloat16 queries and keys give rows that sum to 1 exactly as the overview does."""
    model = g4.load(checkpoint("e2b").folder)
    model.set_dtype(mx.bfloat16)
    plan = TracePlan(attention=AttentionPlan(retain="all", bins=10))
    recorder = Recorder(model, plan, expected=100)
    with model.observe(recorder):
        model(mx.array(checkpoint("e2b").ids))
    attention = recorder.trace().attention
    stored = attention.layer(0).queries  # (heads, n, D) as bits: NumPy has no bfloat16
    assert stored.dtype == np.uint16
    for head in range(2):
        values = attention.queries(0, head)
        assert values.dtype == np.float32
        assert np.array_equal(values, (stored[head].astype(np.uint32) << 16).view(np.float32))
    for layer in (0, 4, 14):
        tile = attention.tile(layer, 1, shape=(10, 10))
        assert np.abs(tile.values - attention.overview(layer, 1)).max() < 1e-5
        assert np.abs(attention.tile(layer, 1, shape=(100, 1)).values - 1).max() < 1e-5


def test_quantized_caches(everything):
    """What is traced is attention to the keys as the cache gives them back."""
    model, reference = everything
    plan = TracePlan(attention=AttentionPlan(retain="all", bins=10))
    recorder, cache = Recorder(model, plan, expected=100), model.make_cache(kv_bits=8)
    tokens = mx.array(reference.ids)
    with model.observe(recorder):
        for a, b in ((0, 50), (50, 99), (99, 100)):
            model(tokens[:, a:b], cache=cache)
    attention = recorder.trace().attention
    for layer in (1, 2, 7):
        tile = attention.tile(layer, 1, shape=(10, 10))
        assert np.abs(tile.values - attention.overview(layer, 1)).max() < 1e-5
    exact = reference.attn_2[1]
    assert 1e-5 < np.abs(attention.tile(2, 1, shape=(100, 100)) - exact).max() < 0.1


def test_a_watcher_sees_interventions_whichever_block_came_first(everything):
    model, reference = everything
    recorder = Recorder(model, TracePlan(routing=RoutingPlan()))
    with model.observe(recorder), model.intervene(g4.Ablate(2, [1, 5], mode="route_around")):
        model(mx.array(reference.ids))
    trace = recorder.trace()
    assert trace.routing.load(2)[[1, 5]].tolist() == [0, 0]
    assert trace.interventions == (
        "Ablate(layer=2, experts=(1, 5), mode='route_around', tokens=None)",
    )


def test_bad_runs(everything, checkpoint):
    model, reference = everything
    with pytest.raises(g4.errors.TraceError, match="nothing ran"):
        Recorder(model).trace()
    with model.observe(Recorder(model)), pytest.raises(g4.errors.TraceError, match="one sequence"):
        model(mx.zeros((2, 5), dtype=mx.int32))
    padded = model.make_cache(left_padding=[2])
    with model.observe(Recorder(model)), pytest.raises(g4.errors.TraceError, match="padding"):
        model(mx.array(reference.ids[:, :20]), cache=padded)
    cache = model.make_cache()
    model(mx.array(reference.ids[:, :20]), cache=cache)
    recorder = Recorder(model, TracePlan(attention=AttentionPlan()))
    with model.observe(recorder), pytest.raises(g4.errors.TraceError, match="empty cache"):
        model(mx.array(reference.ids[:, 20:30]), cache=cache)
    dense = g4.load(checkpoint("e2b").folder)
    with pytest.raises(g4.errors.TraceError, match="no experts"):
        Recorder(dense)
    with pytest.raises(g4.errors.TraceError, match="no experts"):
        Recorder(dense, TracePlan(routing=RoutingPlan()))
    with pytest.raises(g4.errors.TraceError, match="give a TracePlan"):
        Recorder(model, RoutingPlan())
    for plan in (AttentionPlan(layers=(99,)), AttentionPlan(heads=(4,)), AttentionPlan(layers=())):
        with pytest.raises(g4.errors.TraceError, match="this model has"):
            Recorder(model, TracePlan(attention=plan))


@pytest.mark.float32  # in 16 bits pieces and the whole round apart
@pytest.mark.parametrize("held", [counting.HELD, 0])
@pytest.mark.parametrize("name", ["moe", "everything"])
def test_norms_are_those_of_each_chosen_experts_output(
    name, held, checkpoint, tmp_path, monkeypatch
):
    """Whole and in pieces; begun at once, as a long prompt's are, and later; beside the expert
    that put it out, whatever the order."""
    monkeypatch.setattr(counting, "HELD", held)
    reference = checkpoint(name)
    model, outputs, chosen = g4.load(reference.folder), {}, {}
    ids = np.array(reference.ids)[0].tolist()

    def look(tap, layer, value, geometry):
        if tap in ("expert_outputs", "expert_indices"):
            (outputs if tap == "expert_outputs" else chosen)[layer] = np.array(
                value[0].astype(mx.float32 if tap == "expert_outputs" else mx.uint32)
            )

    with model.observe(look):
        model(mx.array(ids)[None])
    plan = RoutingPlan(norms=True)
    trace = g4.trace(model, ids, attention=None, routing=plan, chunk=7)
    kept = trace.routing
    assert kept.norms.shape == kept.experts.shape and kept.norms.dtype == np.float32
    for i, layer in enumerate(kept.layers):
        expected = np.zeros((len(ids), kept.num_experts))
        np.put_along_axis(
            expected, chosen[layer].astype(int), np.linalg.norm(outputs[layer], axis=-1), axis=1
        )
        found = np.take_along_axis(expected, kept.experts[i].astype(int), axis=1)
        np.testing.assert_allclose(kept.norms[i], found, rtol=2e-3)
    cost, bare = (p.cost(model, len(ids)).memory for p in (plan, RoutingPlan()))
    assert cost - bare == kept.norms.nbytes
    opened = g4.open_trace(trace.save(tmp_path / "t.g4trace"))
    np.testing.assert_array_equal(opened.routing.norms, kept.norms)
    assert g4.trace(model, ids, attention=None).routing.norms is None
