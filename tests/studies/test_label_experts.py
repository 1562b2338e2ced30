"""Dropping and boosting a label's experts as one intervention, beside a control of like load."""

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import InterventionError, StudyError
from gemma4_mlx.studies import Atlas, boost, corpora, drop


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture(scope="module")
def atlas(model):
    """Of the teaching model over two of its domains, and of sums."""
    lessons = corpora.teaching(model, documents=24, seed=1)
    chosen = {name: lessons[name] for name in ("code", "arithmetic", "chat")}
    return g4.atlas(model, chosen, progress=False)


def routed(model, tokens, intervention=None):
    """The model's output, and {layer: chosen experts}."""
    seen = {}

    def look(name, layer, value, geometry):
        if name == "expert_indices":
            seen[layer] = np.array(value[0])

    interventions = [] if intervention is None else [intervention]
    with model.intervene(*interventions), model.observe(look):
        return np.array(model(tokens)), seen


@pytest.fixture(scope="module")
def tokens(model):
    code = "def add(a, b):\n    return a + b\n"
    return mx.array([[2, *model.tokenizer.encode(code)]])


def test_dropping_a_label_is_ablating_its_experts_in_every_layer(model, atlas, tokens):
    without = drop(atlas, "code", above=1.5)
    lifts, g = atlas.lifts(), atlas.labels.index("code")
    for i, layer in enumerate(atlas.layers):
        meant = lifts.found(floor=0)[i, g] & (lifts.lift[i, g] >= np.log2(1.5))
        assert without.experts.get(layer, ()) == tuple(np.flatnonzero(meant))
        if meant.any():
            load = atlas.load("code")[i][meant].sum()
            assert without.loads[layer] == pytest.approx(load)
    assert sum(map(len, without.experts.values())) >= 2
    out, seen = routed(model, tokens, without)
    for layer, experts in without.experts.items():
        assert not np.isin(seen[layer], experts).any()
    by_hand = [g4.Ablate(layer, some, "route_around") for layer, some in without.experts.items()]
    with model.intervene(*by_hand):
        np.testing.assert_array_equal(out, np.array(model(tokens)))
    assert not np.array_equal(out, routed(model, tokens)[0])


@pytest.mark.parametrize("mode", ["route_around", "contribution"])
def test_modes_and_order(model, atlas, tokens, mode):
    """Beside a Force, which comes before "contribution" whichever is named first."""
    without = drop(atlas, "code", above=1.5, mode=mode)
    layer, experts = next(iter(without.experts.items()))
    force = g4.Force(layer=layer, experts=experts[:1])
    outs = []
    for order in ((without, force), (force, without)):
        with model.intervene(*order):
            outs.append(np.array(model(tokens)))
    np.testing.assert_array_equal(*outs)


def test_boosting_sends_more_tokens_there(model, atlas, tokens):
    more = boost(atlas, "code", amount=5.0, above=1.5)
    plain, boosted = routed(model, tokens)[1], routed(model, tokens, more)[1]
    counts = [
        sum(np.isin(seen[layer], some).sum() for layer, some in more.experts.items())
        for seen in (plain, boosted)
    ]
    assert counts[1] > counts[0]
    assert "code boosted by 5" in str(more)


def test_a_control_is_drawn_of_the_same_load(atlas):
    without = drop(atlas, "code", above=1.5)
    controls = [without.control(seed) for seed in range(4)]
    load = dict(zip(atlas.layers, atlas.load("code")))
    for control in controls:
        assert control.experts.keys() == without.experts.keys()
        for layer, experts in control.experts.items():
            assert not set(experts) & set(without.experts[layer])
            assert control.loads[layer] == pytest.approx(load[layer][list(experts)].sum())
            rest = np.setdiff1d(np.arange(16), without.experts[layer])
            best = min(without.loads[layer], load[layer][rest].sum())
            nearest = load[layer][rest].max() / 2  # no worse than half of one expert
            assert control.loads[layer] == pytest.approx(best, abs=nearest)
        assert "drawn at random" in str(control) and control.key != without.key
    assert without.control(2).key == controls[2].key


def test_controls_differ_where_experts_are_many():
    from made import trace

    rng = np.random.default_rng(0)
    traces = {"a": [trace(rng, 40, {1: 5}) for _ in range(40)]}
    traces |= {name: [trace(rng, 40) for _ in range(40)] for name in ("b", "c")}
    without = drop(Atlas.of(traces), "a", above=1.4)
    assert without.experts == {2: (5,)}
    controls = [without.control(seed) for seed in range(6)]
    assert len({control.key for control in controls}) >= 4
    for control in controls:
        assert abs(control.loads[2] - without.loads[2]) <= 0.1 * without.loads[2]


def test_a_trace_names_what_was_dropped(model, atlas):
    without = drop(atlas, "code", above=1.5)
    with model.intervene(without):
        trace = g4.trace(model, "Hello", attention=None)
        other = g4.atlas(model, {"x": ["Hello there, you"]}, progress=False)
    assert trace.interventions == (without.key,) == other.counts.subject.interventions
    with pytest.raises(StudyError, match="cannot be merged"):
        atlas.merge(other)


def test_what_cannot_be_dropped_is_said(atlas):
    with pytest.raises(StudyError, match="no label 'poetry'"):
        drop(atlas, "poetry")
    with pytest.raises(StudyError, match="no expert is chosen 500 times"):
        drop(atlas, "code", above=500)
    with pytest.raises(StudyError, match="above 1"):
        drop(atlas, "code", above=0.5)
    with pytest.raises(InterventionError, match="'contribution' and 'route_around'"):
        drop(atlas, "code", mode="delete")
    with pytest.raises(InterventionError, match="no number to add"):
        boost(atlas, "code", amount=float("nan"))


def test_a_control_needs_others():
    traces = {"a": [], "b": []}
    from made import trace

    rng = np.random.default_rng(0)
    for label, experts in (("a", [0, 1, 2]), ("b", [3, 4, 5])):
        for _ in range(30):
            one = trace(rng, 30, norms=False)
            one.routing.experts[:] = experts
            traces[label].append(one)
    without = drop(Atlas.of(traces), "a", above=1.9)
    assert without.experts[1] == (0, 1, 2)
    with pytest.raises(StudyError, match="no other experts"):
        without.control()
