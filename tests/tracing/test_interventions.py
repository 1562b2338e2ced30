"""Interventions do what they say, where they say, and nothing once they are over."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gemma4_mlx as g4
from gemma4_mlx.errors import InterventionError
from gemma4_mlx.tracing import ActivationPlan
from gemma4_mlx.tracing.recording.plans import KEEPABLE
from gemma4_mlx.tracing.recording.scale import SCALABLE, WHOLE

pytestmark = pytest.mark.float32

LAYER = 3


@pytest.fixture(scope="module")
def model(checkpoint):
    return g4.load(checkpoint("everything").folder)


@pytest.fixture(scope="module")
def ids(checkpoint):
    return mx.array(checkpoint("everything").ids[:, :40])


def run(model, ids, *interventions):
    """Logits, and what each tap held in the end."""
    seen = {}

    def watch(name, layer, value, geometry):
        seen[name, layer] = np.array(value.astype(mx.float32))

    with model.intervene(*interventions), model.observe(watch):
        logits = np.array(model(ids))
    return logits, seen


def routes(seen, layer=LAYER):
    return seen["expert_indices", layer][0], seen["expert_weights", layer][0]


def test_ablate_contribution(model, ids):
    """The chosen experts stay, the named ones weigh nothing, the others as before."""
    _, plain = run(model, ids)
    experts, weights = routes(plain)
    busiest = int(np.bincount(experts.astype(int).ravel()).argmax())
    _, seen = run(model, ids, g4.Ablate(LAYER, busiest))
    now_experts, now_weights = routes(seen)
    assert np.array_equal(now_experts, experts)
    assert (now_weights[experts == busiest] == 0).all()
    assert np.array_equal(now_weights[experts != busiest], weights[experts != busiest])
    # The sum of what the experts say, by hand.
    outputs = plain["expert_outputs", LAYER][0]
    by_hand = (outputs * now_weights[..., None]).sum(-2)
    x = by_hand / np.sqrt((by_hand**2).mean(-1, keepdims=True) + 1e-6)
    norm = np.array(model.layers[LAYER].post_feedforward_layernorm_2.weight)
    assert np.abs(seen["moe_output", LAYER][0] - x * norm).max() < 1e-4


def test_ablate_route_around(model, ids):
    _, plain = run(model, ids)
    _, seen = run(model, ids, g4.Ablate(LAYER, (0, 7), mode="route_around"))
    p = plain["router_probabilities", LAYER][0].copy()
    p[:, [0, 7]] = 0
    experts, weights = routes(seen)
    assert np.array_equal(np.sort(experts), np.sort(np.argsort(-p)[:, : experts.shape[1]]))
    scale = np.array(model.layers[LAYER].router.per_expert_scale)
    chosen = np.take_along_axis(p, experts.astype(int), -1)
    expected = chosen / chosen.sum(-1, keepdims=True) * scale[experts.astype(int)]
    assert np.abs(weights - expected).max() < 1e-5


def test_force(model, ids):
    _, plain = run(model, ids)
    _, seen = run(model, ids, g4.Force(LAYER, (2, 9)))
    p = plain["router_probabilities", LAYER][0].copy()
    assert np.array_equal(seen["router_probabilities", LAYER][0], p)
    p[:, [2, 9]] += 2
    experts, _ = routes(seen)
    assert np.array_equal(np.sort(experts), np.sort(np.argsort(-p)[:, : experts.shape[1]]))
    _, seen = run(model, ids, g4.Force(LAYER, (2, 9), share=0.25))
    experts, weights = routes(seen)
    share = weights / weights.sum(-1, keepdims=True)
    assert np.abs(share[(experts == 2) | (experts == 9)] - 0.25).max() < 1e-5


def test_a_forced_expert_needs_no_chance(model, ids):
    """Also where others have all the probability, or one of them has."""
    others = (1, 3, 4, 5, 6)
    for boost in (g4.Boost(LAYER, others, 40.0), g4.Boost(LAYER, others[:1], 1e4)):
        _, seen = run(model, ids, boost, g4.Force(LAYER, (2, 9)))
        assert seen["router_probabilities", LAYER][..., [2, 9]].max() < 1e-6
        experts, _ = routes(seen)
        assert (experts == 2).any(-1).all() and (experts == 9).any(-1).all()


def test_boost_and_swap_change_the_scores(model, ids):
    _, plain = run(model, ids)
    _, boosted = run(model, ids, g4.Boost(LAYER, [4], 3.0))
    change = boosted["router_logits", LAYER] - plain["router_logits", LAYER]
    expected = np.zeros(16)
    expected[4] = 3
    assert np.abs(change - expected).max() < 1e-5
    _, swapped = run(model, ids, g4.Swap(LAYER, 1, 6))
    order = np.arange(16)
    order[[1, 6]] = [6, 1]
    before, after = routes(plain)[0].astype(int), routes(swapped)[0].astype(int)
    assert np.array_equal(np.sort(order[before]), np.sort(after))


def test_scale_heads(model, ids):
    _, plain = run(model, ids)
    _, seen = run(model, ids, g4.ScaleHeads(LAYER, (1, 2), factor=0.5))
    ratio = np.array([1, 0.5, 0.5, 1])[None, :, None, None]
    error = seen["head_outputs", LAYER] - plain["head_outputs", LAYER] * ratio
    assert np.abs(error).max() < 1e-6


@pytest.mark.parametrize("tap", SCALABLE)
def test_scale(tap, model, ids):
    """The tap's value is multiplied, that of other layers is not; 0 takes the part out."""
    layer = None if tap in WHOLE else LAYER
    _, plain = run(model, ids)
    for factor in (0.0, -1.5):
        logits, seen = run(model, ids, g4.Scale(layer, tap, factor, tokens=(10, 30)))
        expected = plain[tap, layer].copy()
        expected[:, 10:30] *= factor
        assert np.abs(seen[tap, layer] - expected).max() < 1e-6 * np.abs(expected).max()
        before = {tap for tap in plain if tap[1] is not None and layer and tap[1] < layer}
        assert all(np.array_equal(seen[at], plain[at]) for at in before)
        assert np.abs(logits - plain["logits", None]).max() > 1e-3


def test_scaling_what_a_part_adds_by_hand(model, ids):
    """Without its dense MLP a layer's feed-forward part is the norm of what its experts say; and
    embeddings that are scaled give other per-layer inputs, for half of these is made of them."""
    _, plain = run(model, ids)
    _, seen = run(model, ids, g4.Scale(LAYER, "mlp_output"))
    x = plain["moe_output", LAYER][0]
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    norm = np.array(model.layers[LAYER].post_feedforward_layernorm.weight)
    assert np.abs(seen["feedforward_output", LAYER][0] - x * norm).max() < 1e-4
    _, seen = run(model, ids, g4.Scale(None, "embeddings"))
    decoder, tokens = model.language_model.model, model.per_layer_tokens(ids)
    alone = decoder.per_layer_inputs(tokens, mx.zeros(seen["embeddings", None].shape))
    assert np.abs(seen["per_layer_inputs", None] - np.array(alone)).max() < 1e-6
    assert (seen["layer_input", 0] == 0).all()


def test_steer_in_a_span(model, ids):
    vector = np.random.default_rng(0).normal(size=128)
    _, plain = run(model, ids)
    _, seen = run(model, ids, g4.Steer(LAYER, vector, scale=2.0, tokens=(10, 20)))
    change = (seen["layer_output", LAYER] - plain["layer_output", LAYER])[0]
    assert np.abs(change[10:20] - 2 * vector).max() < 1e-4
    assert (change[:10] == 0).all() and (change[20:] == 0).all()


@pytest.mark.parametrize(
    "intervention",
    [
        g4.Ablate(LAYER, (1, 2, 3), tokens=slice(25, 33)),
        g4.Ablate(LAYER, (1, 2, 3), mode="route_around", tokens=(25, 33)),
        g4.Force(LAYER, 3, share=0.5, tokens=(25, 33)),
        g4.Boost(LAYER, 3, 2.0, tokens=(25, None)),
        g4.Swap(LAYER, 0, 5, tokens=(25, 33)),
        g4.ScaleHeads(LAYER, (0, 3), tokens=(25, 33)),
        g4.Scale(LAYER, "mlp_output", tokens=(25, 33)),
        g4.Scale(LAYER, "per_layer_input", -1.0, tokens=(25, None)),
        g4.Scale(None, "embeddings", 0.5, tokens=(25, 33)),
        g4.Scale(None, "per_layer_inputs", tokens=(25, 33)),
        g4.Steer(LAYER, np.ones(128), tokens=(25, 33)),
        g4.Patch(LAYER, np.ones((8, 128)), tokens=(25, 33)),
    ],
    ids=lambda i: f"{type(i).__name__} {getattr(i, 'tap', '')}",
)
def test_spans_are_positions_in_the_context(intervention, model, ids):
    """Prefill in pieces and decode give what the whole prompt gives; earlier tokens are as ever."""
    plain, _ = run(model, ids)
    whole, _ = run(model, ids, intervention)
    assert np.array_equal(whole[:, :25], plain[:, :25])
    assert np.abs(whole[:, 25:] - plain[:, 25:]).max() > 1e-3
    cache, at, parts = model.make_cache(), 0, []
    with model.intervene(intervention):
        for size in (7, 20, 5, 1, 1, 1, 5):
            parts.append(np.array(model(ids[:, at : at + size], cache=cache)))
            at += size
    assert np.abs(np.concatenate(parts, 1) - whole).max() < 1e-3


def test_patching_a_layer_makes_the_rest_of_the_run_the_other_one(model, ids):
    other = mx.array(np.random.default_rng(3).integers(3, 490, (1, 40)))
    source = g4.trace(
        model,
        np.array(other)[0].tolist(),
        attention=None,
        routing=None,
        activations=ActivationPlan(layers=(0, LAYER)),
    )
    wanted, _ = run(model, other)
    last = model.config.text.num_hidden_layers - 1
    final = g4.trace(
        model,
        np.array(other)[0].tolist(),
        attention=None,
        routing=None,
        activations=ActivationPlan(layers=(last,)),
    )
    logits, seen = run(model, ids, g4.Patch(last, final))
    assert np.abs(logits - wanted).max() < 1e-4
    _, seen = run(model, ids, g4.Patch(LAYER, source, tokens=(30, 35), source_tokens=(5, 10)))
    got = seen["layer_output", LAYER][0, 30:35]
    assert np.array_equal(got, source.activations.at("layer_output", LAYER, slice(5, 10)))


@pytest.mark.parametrize("tap", KEEPABLE)
@pytest.mark.parametrize("layer", [0, LAYER])
def test_patches_stand_where_they_are_told_behind_a_cache(layer, tap, model, ids):
    """At every tap, the first of a call too; also when one call ends and the next begins inside."""
    shape = (4, 9, model.config.text.head_dim_of(layer)) if tap == "head_outputs" else (9, 128)
    source = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    patch = g4.Patch(layer, source, tokens=(22, 31), tap=tap)
    whole, _ = run(model, ids, patch)
    cache, at, parts, put = model.make_cache(), 0, [], []

    def watch(name, i, value, geometry):
        if (name, i) == (tap, layer):
            put.append(np.array(value))

    with model.intervene(patch), model.observe(watch):
        for size in (20, 5, 1, 1, 13):
            parts.append(np.array(model(ids[:, at : at + size], cache=cache)))
            at += size
    here = np.concatenate(put, axis=-2)[0]
    there = source[..., np.clip(np.arange(40) - 22, 0, 8), :]
    same = (here == there).all(axis=tuple(i for i in range(here.ndim) if i != here.ndim - 2))
    assert np.flatnonzero(same).tolist() == [*range(22, 31)]
    assert np.abs(np.concatenate(parts, 1) - whole).max() < 1e-3


@pytest.mark.parametrize("layer", [0, 2, 7])
def test_heads_are_patched_one_by_one(layer, model, ids):
    """From a trace, its activations or an array; the other heads keep their bits, and all heads
    together are the other run's attention."""
    other = np.random.default_rng(3).integers(3, 490, 40).tolist()
    plan = ActivationPlan(taps=("head_outputs", "attention_output"))
    trace = g4.trace(model, other, attention=None, routing=None, activations=plan, chunk=17)
    _, wanted = run(model, mx.array([other]))
    kept = trace.activations.at("head_outputs", layer)
    assert kept.shape == (4, 40, model.config.text.head_dim_of(layer))
    assert np.abs(kept - wanted["head_outputs", layer][0]).max() < 1e-4
    one = trace.activations.at("head_outputs", layer, slice(5, 9))
    assert np.array_equal(one, kept[:, 5:9])
    _, plain = run(model, ids)
    named = dict(tap="head_outputs", heads=(3, 1), tokens=(10, 20))
    for source in (trace, trace.activations, kept[[3, 1]]):
        _, seen = run(model, ids, g4.Patch(layer, source, source_tokens=(10, 20), **named))
        expected = plain["head_outputs", layer][0].copy()
        expected[[3, 1], 10:20] = kept[[3, 1], 10:20]
        assert np.array_equal(seen["head_outputs", layer][0], expected)
    _, seen = run(model, ids, g4.Patch(layer, trace, tap="head_outputs"))
    error = seen["attention_output", layer] - wanted["attention_output", layer]
    assert np.abs(error).max() < 1e-4


@pytest.mark.parametrize("name", ["everything", "e2b"])
def test_a_run_that_is_patched_with_itself_changes_no_bit(name, checkpoint):
    """At every tap that can be kept, where the model has it, in all layers at once."""
    model, ids = g4.load(checkpoint(name).folder), checkpoint(name).ids[:, :30]
    plain, seen = run(model, mx.array(ids))
    last = model.config.text.num_hidden_layers - 1
    for tap in KEEPABLE:
        if (tap, last) in seen:
            patches = [g4.Patch(i, seen[tap, i][0], tap=tap) for i in range(last + 1)]
            assert np.array_equal(run(model, mx.array(ids), *patches)[0], plain), tap


some_experts = st.lists(st.integers(0, 15), min_size=1, max_size=12, unique=True)
a_few_experts = st.lists(st.integers(0, 15), min_size=1, max_size=4, unique=True)
amounts = st.sampled_from([-1e39, -1e5, -150, -3, 2, 150, 1e4, 1e30, 1e39])
router_changes = st.one_of(
    st.builds(g4.Ablate, st.just(LAYER), some_experts, st.just("route_around")),
    st.builds(g4.Ablate, st.just(LAYER), some_experts),
    st.builds(g4.Boost, st.just(LAYER), some_experts, amounts),
    st.builds(g4.Force, st.just(LAYER), a_few_experts, st.sampled_from([None, 0.0, 0.1, 0.25])),
    st.builds(g4.Swap, st.just(LAYER), st.integers(0, 15), st.integers(0, 15)),
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(router_changes, min_size=1, max_size=4))
def test_any_changes_to_a_router_leave_numbers_that_mean_what_they_say(model, ids, changes):
    changes = [
        c for i, c in enumerate(changes) if not (_around(c) and any(map(_around, changes[:i])))
    ]
    forces = [c for c in changes if isinstance(c, g4.Force)]
    silent = {e for c in changes if isinstance(c, g4.Ablate) and c.late for e in c.experts}
    logits, seen = run(model, ids, *changes)
    experts, weights = routes(seen)
    assert np.isfinite(logits).all() and np.isfinite(weights).all()
    assert (np.diff(np.sort(experts), axis=-1) > 0).all(), "k different ones"
    forced = set(forces[-1].experts) if forces else set()
    for expert in forced:
        assert (experts == expert).any(-1).all()
    if not any(isinstance(c, g4.Swap) for c in changes):
        around = {e for c in changes if _around(c) for e in c.experts}
        assert not np.isin(experts, [*(around - forced)]).any()
    assert (weights[np.isin(experts, [*silent])] == 0).all()
    if len(forces) == 1 and forces[0].share is not None and not silent:
        as_it_is = g4.Force(LAYER, forces[0].experts)
        _, free = run(model, ids, *(as_it_is if c is forces[0] else c for c in changes))
        share = weights / routes(free)[1].sum(-1, keepdims=True)
        assert np.abs(share[np.isin(experts, [*forced])] - forces[0].share).max() < 1e-5


def _around(change) -> bool:
    return isinstance(change, g4.Ablate) and not change.late


def test_a_boost_out_of_all_proportion_leaves_the_boosted_as_they_were_to_each_other(model, ids):
    for amount in (150, 1e39):
        _, up = run(model, ids, g4.Boost(LAYER, (1, 2, 3, 4), amount))
        _, down = run(
            model, ids, g4.Force(LAYER, (1, 2, 3, 4)), g4.Boost(LAYER, (1, 2, 3, 4), -amount)
        )
        _, forced = run(model, ids, g4.Force(LAYER, (1, 2, 3, 4)))
        for seen in (up, down):
            expected, got = np.zeros((2, 40, 16))
            np.put_along_axis(expected, routes(forced)[0].astype(int), routes(forced)[1], axis=-1)
            np.put_along_axis(got, routes(seen)[0].astype(int), routes(seen)[1], axis=-1)
            assert np.abs(got - expected).max() < 2e-3


def test_they_combine_in_order_and_end(model, ids):
    plain, _ = run(model, ids)
    a, b = g4.Force(LAYER, 5, share=0.5), g4.Ablate(LAYER, 5)
    _, seen = run(model, ids, a, b)
    experts, weights = routes(seen)
    assert (weights[experts == 5] == 0).all() and (experts == 5).any(-1).all()
    assert np.array_equal(run(model, ids)[0], plain)
    with pytest.raises(RuntimeError), model.intervene(a):
        with model.intervene(b):
            assert model.interventions == (a.key, b.key)
        assert model.interventions == (a.key,)
        raise RuntimeError("inside")
    assert model.interventions == () and not model._taps.active
    assert np.array_equal(run(model, ids)[0], plain)


FORCE, HALF, SILENCE = g4.Force(LAYER, 5), g4.Force(LAYER, 5, share=0.5), g4.Ablate(LAYER, 5)
AROUND = g4.Ablate(LAYER, 5, mode="route_around")


@pytest.mark.parametrize(
    "first, second", [(FORCE, SILENCE), (HALF, SILENCE), (HALF, AROUND), (FORCE, AROUND)]
)
def test_choice_comes_before_weight_whichever_is_given_first(model, ids, first, second):
    logits, seen = run(model, ids, first, second)
    experts, weights = routes(seen)
    assert (experts == 5).any(-1).all(), "forced, so chosen"
    if first is HALF and second is AROUND:
        share = weights / weights.sum(-1, keepdims=True)
        assert np.abs(share[experts == 5] - 0.5).max() < 1e-5
    else:
        assert (weights[experts == 5] == 0).all() and (weights[experts != 5] > 0).all()
    assert np.array_equal(run(model, ids, second, first)[0], logits)
    with model.intervene(second):  # nested, the other way round
        assert np.array_equal(run(model, ids, first)[0], logits)


def test_what_an_earlier_intervention_saw_is_what_the_model_uses(model, ids):
    """Without the forced expert in place, Ablate would silence the one that it replaced."""
    _, forced = run(model, ids, FORCE)
    weakest = int(np.bincount(routes(forced)[0].astype(int).ravel()).argmax())
    _, seen = run(model, ids, g4.Ablate(LAYER, weakest), FORCE)
    experts, weights = routes(seen)
    assert np.array_equal(experts, routes(forced)[0])
    expected = np.where(experts == weakest, 0, routes(forced)[1])
    assert np.array_equal(weights, expected)


def test_of_two_forces_the_later_chooses(model, ids):
    _, seen = run(model, ids, g4.Force(LAYER, (1, 2, 3, 4)), g4.Force(LAYER, (6, 7, 8, 9), 0.25))
    experts, weights = routes(seen)
    assert (np.sort(experts) == [6, 7, 8, 9]).all()
    share = weights / weights.sum(-1, keepdims=True)
    assert np.abs(share - 0.25).max() < 1e-5


def test_keys_tell_interventions_apart():
    v = np.arange(4.0)
    assert g4.Steer(1, v).key == g4.Steer(1, v.tolist()).key != g4.Steer(1, v + 1).key
    assert g4.Ablate(1, [2]).key == g4.Ablate(1, 2).key
    keys = {
        g4.Ablate(1, 2).key,
        g4.Ablate(1, 2, tokens=(0, 5)).key,
        g4.Ablate(1, 2, mode="route_around").key,
        g4.Force(1, 2).key,
        g4.Boost(1, 2).key,
    }
    assert len(keys) == 5


def test_numpys_numbers_and_ranges_are_as_good_as_pythons(model, ids):
    one, other = (
        g4.ScaleHeads(kind(LAYER), heads, kind(2), tokens=tokens)
        for kind, heads, tokens in (
            (int, (0, 2), (3, 6)),
            (np.int64, np.array([0, 2]), range(3, 6)),
        )
    )
    assert np.array_equal(run(model, ids, one)[0], run(model, ids, other)[0])
    assert g4.Boost(LAYER, 1, np.float32(2)).key == g4.Boost(LAYER, np.uint8(1), 2.0).key


def test_generation_under_an_intervention(checkpoint):
    """Steering reaches generated tokens, and a prompt cache does not mix the two."""
    model = g4.load()
    prompt = [2, *model.tokenizer.encode("the drum code is")]
    options = {"temperature": 0, "max_tokens": 6, "stop": ()}

    def generate(cache=None):
        events = g4.stream(model, prompt, options=options, cache=cache)
        return [e.id for e in events if type(e).__name__ == "Token"]

    plain = generate()
    vector = 40 * np.random.default_rng(5).normal(size=model.config.text.hidden_size)
    cache = g4.PromptCache(model)
    generate(cache)
    with model.intervene(g4.Steer(0, vector)):
        steered = generate(cache)
        assert steered == generate()
    assert steered != plain and generate(cache) == plain


def test_steering_vectors_point_from_b_to_a(model):
    a, b = [[5, 6, 7], [5, 8, 7]], [[9, 6, 11]]
    vector = g4.steering_vector(model, a, b, layer=2)
    means = []
    for prompts in (a, b):
        rows = [run(model, mx.array([p]))[1]["layer_output", 2][0, -1] for p in prompts]
        means.append(np.mean(rows, axis=0))
    assert np.abs(vector - (means[0] - means[1])).max() < 1e-4
    with pytest.raises(InterventionError, match="list of prompts"):
        g4.steering_vector(model, [], b, layer=2)
    with pytest.raises(InterventionError, match="'last' and 'mean'"):
        g4.steering_vector(model, a, b, layer=2, tokens="first")


def test_what_the_model_does_not_have(model, checkpoint):
    def heads(shape, chosen=None):
        return g4.Patch(0, np.ones(shape), tap="head_outputs", heads=chosen)

    dense, plain = (g4.load(checkpoint(name).folder) for name in ("e2b", "dense31"))
    cases = [
        (model, lambda: g4.Ablate(8, 0), "layers 0 to 7"),
        (model, lambda: g4.Ablate(-1, 0), "layers 0 to 7"),
        (model, lambda: g4.Ablate(0, 16), "experts 0 to 15"),
        (model, lambda: g4.Boost(0, (3, -1)), "experts 0 to 15"),
        (model, lambda: g4.Ablate(0, ()), "none at all"),
        (model, lambda: g4.Ablate(0, tuple(range(13)), mode="route_around"), "at most 12"),
        (model, lambda: g4.Force(0, (1, 2, 3, 4, 5)), "a token goes to 4"),
        (model, lambda: g4.Swap(0, 1, 99), "experts 0 to 15"),
        (model, lambda: g4.ScaleHeads(0, 4), "heads 0 to 3"),
        (model, lambda: g4.Scale(8, "mlp_output"), "layers 0 to 7"),
        (model, lambda: g4.Scale(None, "mlp_output"), "layer None does not exist"),
        (model, lambda: g4.Scale(0, "embeddings"), "not of one layer: give layer=None"),
        (dense, lambda: g4.Scale(0, "moe_output"), "what experts add, this model has none"),
        (dense, lambda: g4.Patch(0, np.ones((3, 64)), tap="moe_output"), "has none"),
        (plain, lambda: g4.Scale(0, "per_layer_output"), "no per-layer embeddings"),
        (plain, lambda: g4.Scale(None, "per_layer_inputs"), "no per-layer embeddings"),
        (None, lambda: g4.Scale(0, "head_outputs"), "tap 'head_outputs'; there are embeddings"),
        (None, lambda: g4.Scale(0, "mlp_output", float("nan")), "scales nothing"),
        (None, lambda: g4.Scale(0), r"Scale takes layer, tap, \[factor\]"),
        (model, lambda: g4.Steer(0, np.ones(7)), "128 finite numbers"),
        (model, lambda: g4.Steer(0, np.full(128, np.nan)), "128 finite numbers"),
        (model, lambda: g4.Patch(0, np.ones((3, 64))), "this model's 128"),
        (model, lambda: g4.Steer(0, np.ones(128), tokens=(5, 5)), "no span"),
        (model, lambda: g4.Steer(0, np.ones(128), tokens=7), "slice or"),
        (model, lambda: g4.Steer(0, np.ones(128), tokens=slice(0, 9, 2)), "no step"),
        (dense, lambda: g4.Ablate(0, 0), "this model has none"),
        (dense, lambda: g4.Force(0, 0), "this model has none"),
        (None, lambda: g4.Ablate(0, 0, mode="hide"), "'route_around'"),
        (model, lambda: [g4.Ablate(0, 1)], "a list is no intervention"),
        (model, lambda: g4.Ablate(0, 1, tokens=("a", "b")), "slice or"),
        (None, lambda: g4.Force(0, (1, 2), share=0.6), "0 to 1 of the weight"),
        (None, lambda: g4.Force(0, 1, share="half"), "0 to 1 of the weight"),
        (None, lambda: g4.Ablate(0, ["a"]), r"experts=\['a'\]: give an index"),
        (None, lambda: g4.ScaleHeads(0, None), "heads=None: give an index"),
        (None, lambda: g4.Boost(0, 1, "2"), "boost of '2'"),
        (None, lambda: g4.Steer(0, np.ones(128), scale="2"), "scale of '2'"),
        (None, lambda: g4.Steer(0, np.ones(128), scale=float("nan")), "scale of nan"),
        (None, lambda: g4.Steer(0, "up"), "a str was given"),
        (None, lambda: g4.Patch(0, "t.g4trace"), "a str was given"),
        (None, lambda: g4.Boost(0, 1, float("inf")), "no number to add"),
        (None, lambda: g4.ScaleHeads(0, 1, float("nan")), "scales nothing"),
        (None, lambda: g4.ScaleHeads(0, 1, 1e39), "scales nothing"),
        (model, lambda: g4.Steer(0, np.ones(128), scale=1e39), "128 finite numbers"),
        (None, lambda: g4.Patch(0, np.ones(5)), "shape \\(n, H\\)"),
        (None, lambda: g4.Patch(0, np.ones((5, 4)), tokens=(0, 9)), "take 9 rows"),
        (None, lambda: g4.Patch(0, np.ones((5, 4)), tap="logits"), "tap 'logits'"),
        (None, lambda: g4.Patch(0, np.ones((5, 4)), heads=(0,)), "layer_output has no heads"),
        (None, lambda: g4.Patch(0, np.ones((5, 4)), tap="head_outputs"), r"\(heads, n, D\), not"),
        (model, lambda: heads((3, 5, 64)), "3 heads of 64 numbers; patched are 4 heads of layer 0"),
        (model, lambda: heads((4, 5, 128)), "4 heads of layer 0 of 64 numbers"),
        (model, lambda: heads((1, 5, 64), (4,)), "head 4 of layer 0: this model has heads 0 to 3"),
        (model, lambda: heads((1, 5, 64), (0, 1)), "patched are 2 heads of layer 0"),
    ]
    for model, make, match in cases:
        with pytest.raises(InterventionError, match=match):
            intervention = make()
            with model.intervene(intervention):
                pass
    trace = g4.trace(dense, [5, 6, 7], attention=None, activations=ActivationPlan(layers=(1,)))
    with pytest.raises(InterventionError, match="not layer_output of layer 2"):
        g4.Patch(2, trace)
    plan = ActivationPlan(("head_outputs",), layers=(1,))
    trace = g4.trace(dense, [5, 6, 7], attention=None, activations=plan)
    with pytest.raises(InterventionError, match="head 4 of layer 1: the source has heads 0 to 3"):
        g4.Patch(1, trace, tap="head_outputs", heads=4)
    with pytest.raises(InterventionError, match="kept no activations"):
        g4.Patch(1, g4.trace(dense, [5, 6, 7]))
