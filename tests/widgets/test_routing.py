"""The Routing widget's Python side: what it sends, what-if, and following a model live."""

import gc
import json
import time

import numpy as np
import pytest
from synthetic import EXPERTS, make_media, make_tokens, make_trace

import gemma4_mlx as g4
from gemma4_mlx.errors import InterventionError, TraceError
from gemma4_mlx.tracing import Trace
from gemma4_mlx.widgets.live import LiveRouting, model_of
from gemma4_mlx.widgets.routing import Routing
from gemma4_mlx.widgets.whatif import answer_start, what_if

N = 240


@pytest.fixture(scope="module")
def trace():
    return make_trace(N)


@pytest.fixture
def view(trace):
    trace.selection.clear()
    return Routing(trace, media=make_media())


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture(scope="module")
def asked(model):
    messages = [{"role": "user", "content": "Count from one to five."}]
    return g4.trace(model, messages, attention=None)


def test_load_is_a_share_of_routed_tokens(view, trace):
    content, bulk = view.answer_load()
    share = np.frombuffer(bulk, "<f4").reshape(8, EXPERTS)
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)
    experts = trace.routing.experts
    assert share[3, 5] == pytest.approx((experts[3] == 5).sum() / experts[3].size)
    assert content["dead"] == [1] * 8 and all(0 < e < 1 for e in content["evenness"])


def test_a_layer_and_a_path(view, trace):
    content, bulk = view.answer_layer(4)
    cells = content["n"] * 2
    experts = np.frombuffer(bulk[: 2 * cells], "<u2").reshape(-1, 2)
    weights = np.frombuffer(bulk[2 * cells :], "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(experts, trace.routing.experts[4])
    np.testing.assert_array_equal(weights, trace.routing.weights[4])
    assert (weights[:, 0] >= weights[:, 1]).all()
    path = view.answer_path(17)["layers"]
    assert [step["layer"] for step in path] == list(range(8))
    assert path[6]["experts"] == trace.routing.experts[6, 17].tolist()


def test_an_expert(view, trace):
    answer = view.answer_expert(2, 0)
    mine = (trace.routing.experts[2] == 0).any(1)
    assert answer["load"] == pytest.approx(mine.sum() / (2 * N))
    weights = [w for _, w, _ in answer["top"]]
    assert weights == sorted(weights, reverse=True)
    assert all(mine[i] and trace.tokens.texts[i] == text for i, _, text in answer["top"])
    shares = {name: share for name, _, share in answer["parts"]}
    part = slice(N // 4, N // 4 + 16)
    assert shares["image"] == pytest.approx(mine[part].mean())
    other, share = answer["partners"][0]
    together = (trace.routing.experts[2][mine] == other).any(1).mean()
    assert share == pytest.approx(together)
    nobody = view.answer_expert(2, EXPERTS - 1)
    assert nobody["top"] == [] and nobody["load"] == 0


def test_two_traces(trace):
    same, other = make_trace(N, seed=5), make_trace(N, seed=5, bias=4)
    view = Routing(trace, other)
    assert view.meta["other"]["n"] == N
    difference = np.frombuffer(view.answer_load("b-a")[1], "<f4").reshape(8, EXPERTS)
    np.testing.assert_allclose(difference.sum(1), 0, atol=1e-6)
    compared = view.answer_compare()
    assert compared["layers"][0]["distance"] > 0.2 and compared["layers"][0]["p"] < 0.05
    expert, change = compared["layers"][0]["experts"][0]
    assert change == pytest.approx(difference[0, expert], abs=1e-6)
    alike = Routing(trace, same).answer_compare()
    assert all(row["distance"] < 0.2 for row in alike["layers"])
    assert view.answer_tokens(0, 5, which="b")["text"] == other.tokens.texts[:5]
    other.model["fingerprint"] = "another"
    with pytest.raises(TraceError, match="different models"):
        Routing(trace, other)
    with pytest.raises(TraceError, match="both traces need routing"):
        Routing(Trace(trace.tokens), trace)
    with pytest.raises(TypeError, match=r"Routing\(trace, model=model\)"):
        Routing(trace, "google/gemma-4-26B-A4B-it")
    with pytest.raises(TraceError, match="only one trace"):
        Routing(trace).answer_compare()


def test_empty_and_bad_requests(view, trace):
    bare = Routing(Trace(trace.tokens))
    assert bare.meta["layers"] == [] and "RoutingPlan" in bare.meta["empty"]
    assert bare.snapshot_requests() == []
    for request, word in (
        ({"type": "layer", "layer": 44}, "layer 44"),
        ({"type": "path", "token": N}, "token 240"),
        ({"type": "expert", "layer": 1, "expert": 99}, "expert 99"),
        ({"type": "whatif", "layer": 1, "expert": 1, "action": "drop"}, "needs the model"),
    ):
        assert word in view.answer(request)[0]["error"]


def test_state_snapshot_and_picture(view):
    state = {k: v for k, v in view.get_state().items() if not k.startswith("_")}
    assert len(json.dumps(state, default=str)) < 20_000
    view.selection = {**view.selection, "layer": 3, "token": 12, "expert": 4}
    snapshot = view.snapshot()
    keys = " ".join(snapshot.answers)
    assert '"layer":3' in keys and '"token":12' in keys and len(snapshot.page) < 2_500_000
    assert "error" not in json.dumps([a for a in snapshot.answers.values() if "error" in a])
    colors = np.asarray(view.snapshot_image()).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 50
    assert b"Layer 3" in view.answer_export("svg")[1]


def test_a_selection_of_what_the_trace_lacks_shows_where_the_view_starts(view):
    view.selection = {**view.selection, "layer": 99, "token": 10_000, "expert": 99}
    assert view.chosen() == view.meta["start"]
    assert not [a for a in view.snapshot().answers.values() if "error" in a]


def test_where_an_answer_begins():
    tokens = make_tokens(6, media=False)
    tokens.texts[:] = ["<bos>", "hi", "<|turn>", "model", "\n", "yes"]
    tokens.roles[:] = ["", "user", "model", "model", "model", "model"]
    assert answer_start(tokens) == 5
    tokens.roles[:] = ["user"] * 6
    assert answer_start(tokens) == 6


def test_what_if_compares_with_a_control(model, asked):
    layer = 4
    expert = int(asked.routing.at(layer)[0][-1, 0])
    result = what_if(model, asked, layer=layer, expert=expert, max_tokens=8)
    base, changed, control = result["answers"]
    assert base["parts"] is None and base["divergence"] == []
    assert len(changed["divergence"]) == len(changed["tokens"]) <= 8
    assert changed["mean"] > 0 and "Control" in control["name"]
    assert model.interventions == ()
    for answer in (changed, control):
        if answer["parts"] is not None and answer["parts"] < len(answer["tokens"]):
            assert answer["tokens"][: answer["parts"]] == base["tokens"][: answer["parts"]]
    again = what_if(model, asked, layer=layer, expert=expert, max_tokens=8)
    assert again == result


@pytest.mark.parametrize("action", ["around", "swap", "boost"])
def test_other_changes(model, asked, action):
    result = what_if(
        model, asked, layer=2, expert=3, action=action, other=9, max_tokens=3, everywhere=True
    )
    assert len(result["answers"]) == 3 and "reading the prompt" in result["note"]


def test_a_change_that_touches_no_token_changes_nothing(model, asked):
    """An expert that no token of prompt or answer goes to can be dropped without a trace."""
    layer = 1
    result = what_if(model, asked, layer=layer, expert=0, max_tokens=4, action="boost", factor=0.0)
    _, changed, _ = result["answers"]
    assert changed["parts"] is None and changed["mean"] == pytest.approx(0, abs=1e-5)


def test_what_if_refuses_clearly(model, asked, trace):
    with pytest.raises(InterventionError, match="expert 99"):
        what_if(model, asked, layer=2, expert=99)
    with pytest.raises(TraceError, match="action"):
        what_if(model, asked, layer=2, expert=1, action="explode")
    with pytest.raises(TraceError, match="pictures or sound"):
        what_if(model, trace, layer=2, expert=1)


def test_live_routing_follows_generation_and_rewinds(model):
    view = Routing(model)
    assert view.meta["live"] and view.n == 0
    options = {"temperature": 0.0, "max_tokens": 12}
    cache = g4.PromptCache(model)
    prompt = [2, *model.tokenizer.encode("one two three")]
    job = g4.generation.engine().submit(_drain, model, prompt, options, cache)
    job.result(30)
    seen = _wait(view, lambda: view.n > len(prompt))
    assert list(view.trace.tokens.ids[: len(prompt)]) == prompt
    recorded = g4.trace(model, prompt, attention=None).routing.experts[:, : len(prompt) - 1]
    live = view.trace.routing.experts[:, : len(prompt) - 1]
    np.testing.assert_array_equal(np.sort(live), np.sort(recorded.astype(np.uint16)))
    # another question from the same beginning: what lies behind it is forgotten
    other = [*prompt[:3], *model.tokenizer.encode(" nine")]
    g4.generation.engine().submit(_drain, model, other, options, cache).result(30)
    _wait(view, lambda: list(view.trace.tokens.ids[: len(other)]) == other)
    assert seen > 0 and view.answer_load()[0]["dead"]
    view.trace.close()


def test_live_routing_ends_with_its_views(model):
    observers = len(model._taps._observers)
    view = Routing(model)
    assert Routing(model).trace is view.trace  # one observer for all views of a model
    assert len(model._taps._observers) == observers + 1
    view.trace.close()
    assert len(model._taps._observers) == observers
    live = LiveRouting(model)
    del live
    gc.collect()
    assert len(model._taps._observers) == observers
    assert model_of(g4.Chat(model)) is model
    with pytest.raises(TypeError, match="takes a trace"):
        Routing(object())


def _drain(model, prompt, options, cache):
    for _ in g4.stream(model, prompt, options=options, cache=cache):
        pass


def _wait(view, condition, seconds=5):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, view.n
        time.sleep(0.02)
    return view.n
