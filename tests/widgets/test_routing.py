"""The Routing widget's Python side: what it sends, what-if, and following a model live."""

import gc
import json
import time

import numpy as np
import pytest
from synthetic import EXPERTS, make_atlas, make_media, make_routing, make_tokens, make_trace
from waiting import PATIENCE

import gemma4_mlx as g4
from gemma4_mlx.errors import InterventionError, StudyError, TraceError
from gemma4_mlx.tracing import Trace
from gemma4_mlx.tracing.data.tokens import KINDS
from gemma4_mlx.widgets import live as live_routing
from gemma4_mlx.widgets.live import LiveRouting, model_of
from gemma4_mlx.widgets.routing import Routing
from gemma4_mlx.widgets.whatif import _checked, answer_start, control_changes, what_if

N = 240
DROP = {"layer": 2, "expert": 1, "action": "drop"}


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


def groups_of(view, by="script", which="a"):
    """Counts (layers, groups, E) and purposes (layers, E) as the front end reads them."""
    content, bulk = view.answer_groups(by, which)
    shape = (8, len(content["groups"]), EXPERTS)
    cells = int(np.prod(shape))
    counts = np.frombuffer(bulk, f"<u{content['bytes']}", cells).reshape(shape)
    return content, counts, np.frombuffer(bulk[-8 * EXPERTS :], np.uint8).reshape(8, EXPERTS)


@pytest.mark.parametrize("by", ["script", "kind", "part", "role"])
def test_the_load_is_the_same_number_everywhere(view, trace, by):
    content, counts, purpose = groups_of(view, by)
    load = counts.sum(axis=1) / content["n"]
    np.testing.assert_allclose(load, trace.routing.load())
    assert sum(g["tokens"] for g in content["groups"]) == N == content["n"]
    assert view.answer_expert(3, 5)["load"] == pytest.approx(load[3, 5])
    assert (load[:, EXPERTS - 1] == 0).all() and (purpose[:, EXPERTS - 1] == 255).all()


def test_an_expert_preferred_by_pictures_is_for_pictures():
    tokens = make_tokens(400)
    tokens.kinds[100:200] = KINDS.index("image")
    trace = Trace(tokens, routing=make_routing(tokens))
    content, counts, purpose = groups_of(Routing(trace), "part")
    image = [g["name"] for g in content["groups"]].index("image")
    favourite = 3  # as make_routing moves the preferences of this kind
    assert (purpose[:, favourite] == image).all()
    assert (purpose == image).sum() < 2 * len(purpose), "and hardly any other is"
    mine = tokens.of_kind("image")
    for row, layer in enumerate(trace.routing.layers):
        load = trace.routing.load(layer, mine)[favourite]
        assert counts[row, image, favourite] == pytest.approx(load * mine.sum())


def test_the_view_begins_with_what_the_text_is_long_enough_for(trace):
    """Sixteen soft tokens say nothing; a hundred name their expert's layer as the start."""
    assert Routing(trace).meta["start"]["view"] == "load"
    tokens = make_tokens(900)
    tokens.roles[:] = ["user"] * 900
    tokens.texts[:] = [" слово" if i % 3 else " word" for i in range(900)]
    routing = make_routing(tokens)
    rows = np.arange(900) % 3 == 0
    routing.experts[:, rows], routing.experts[:, ~rows] = [4, 5], [6, 7]  # for each script
    start = Routing(Trace(tokens, routing=routing)).meta["start"]
    assert (start["by"], start["view"], start["layer"]) == ("script", "purpose", 0)
    assert start["expert"] in (4, 5), "of the rarer script: the higher lift"


def test_routes_of_a_page(view, trace):
    content, bulk = view.answer_routes(40, 60)
    cells = 8 * 20 * 2
    experts = np.frombuffer(bulk[:cells], np.uint8).reshape(8, 20, 2)
    shares = np.frombuffer(bulk[cells:], np.uint8).reshape(8, 20, 2)
    assert (content["start"], content["stop"], content["bytes"]) == (40, 60, 1)
    np.testing.assert_array_equal(experts, trace.routing.experts[:, 40:60])
    for row, layer in enumerate(trace.routing.layers):
        gate = trace.routing.gate(layer, slice(40, 60))
        np.testing.assert_allclose(shares[row] / 255, gate, atol=1 / 255)
    assert (shares > 0).all() and (abs(shares.sum(axis=-1).astype(int) - 255) <= 1).all()
    assert view.answer_routes(0, 10**6)[0]["stop"] == N


def test_the_strip_is_the_mean_share_of_the_gate(view, trace):
    content, bulk = view.answer_strip(4)
    mean = np.frombuffer(bulk, np.uint8).reshape(content["columns"], EXPERTS) / 255
    np.testing.assert_allclose((mean * content["high"]).sum(axis=1), 1, atol=0.03)
    gate, experts = trace.routing.gate(4), trace.routing.at(4)[0]
    inside = np.where(experts == 6, gate, 0).sum(axis=1)
    assert content["columns"] == N  # a column for each token
    np.testing.assert_allclose(mean[:, 6] * content["high"], inside, atol=0.005)


def test_an_expert(view, trace):
    answer = view.answer_expert(2, 0)
    mine = (trace.routing.experts[2] == 0).any(1)
    texts = np.array(trace.tokens.texts)
    assert len({text for text, *_ in answer["texts"]}) == len(answer["texts"]), "each text once"
    for text, first, count, share, gate in answer["texts"]:
        assert count == (mine & (texts == text)).sum() and texts[first] == text
        assert share == pytest.approx(count / (texts == text).sum(), abs=1e-4)
        here = (trace.routing.experts[2] == 0) & (texts == text)[:, None]
        assert gate == pytest.approx(trace.routing.gate(2)[here].mean(), abs=1e-3)
    other, share = answer["partners"][0]
    together = (trace.routing.experts[2][mine] == other).any(1).mean()
    assert share == pytest.approx(together, abs=1e-4)
    nobody = view.answer_expert(2, EXPERTS - 1)
    assert nobody["texts"] == [] and nobody["load"] == 0 and nobody["partners"] == []


def test_two_traces(trace):
    same, other = make_trace(N, seed=5), make_trace(N, seed=5, bias=4)
    view = Routing(trace, other)
    assert view.meta["other"]["n"] == N
    difference = other.routing.load() - trace.routing.load()
    compared = finished(view.answer_compare)
    assert compared["layers"][0]["distance"] > 0.2 and compared["layers"][0]["p"] < 0.05
    expert, change = compared["layers"][0]["experts"][0]
    assert change == pytest.approx(difference[0, expert], abs=1e-6)
    alike = finished(Routing(trace, same).answer_compare)
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
        ({"type": "strip", "layer": 44}, "layer 44"),
        ({"type": "groups", "by": "language"}, "grouped by script"),
        ({"type": "expert", "layer": 1, "expert": 99}, "expert 99"),
        ({"type": "whatif", "changes": [DROP]}, "needs the model"),
        ({"type": "search", "text": ""}, "empty text"),
    ):
        assert word in view.answer(request)[0]["error"]


def test_state_snapshot_and_picture(view):
    state = {k: v for k, v in view.get_state().items() if not k.startswith("_")}
    assert len(json.dumps(state, default=str)) < 20_000
    view.selection = {**view.selection, "layer": 3, "token": 12, "expert": 4}
    snapshot = view.snapshot()
    kinds = {json.loads(key)["type"] for key in snapshot.answers}
    assert kinds >= {"groups", "routes", "tokens", "strip", "expert", "scale", "export", "media"}
    assert len(snapshot.page) < 1_500_000
    assert "error" not in json.dumps([a for a in snapshot.answers.values() if "error" in a])
    colors = np.asarray(view.snapshot_image()).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 50
    assert b"Layer 3" in view.answer_export("svg")[1]


def test_a_selection_of_what_the_trace_lacks_shows_where_the_view_starts(view):
    view.selection = {**view.selection, "layer": 99, "token": 10_000, "expert": 99}
    start = view.meta["start"]
    assert view.chosen() == {"layer": start["layer"], "expert": start["expert"], "token": None}
    assert not [a for a in view.snapshot().answers.values() if "error" in a]


@pytest.fixture(scope="module")
def atlas():
    made = make_atlas(layers=8, documents=3)
    object.__setattr__(made.counts.subject, "fingerprint", "test")  # of make_trace's model
    return made


def test_an_atlas_names_the_experts(trace, atlas):
    view = Routing(trace, atlas=atlas)
    assert view.meta["atlas"] == atlas.tokens and Routing(trace).meta["atlas"] is None
    content, bulk = view.answer_groups("label")
    assert [g["name"] for g in content["groups"]] == list(atlas.labels)
    counts = np.frombuffer(bulk, f"<u{content['bytes']}", 8 * len(atlas.labels) * EXPERTS)
    np.testing.assert_array_equal(
        counts.reshape(8, -1, EXPERTS), atlas.counts["counts"].swapaxes(0, 1)
    )
    assert view.answer_card(2, 3)["tokens"] == atlas.counts.all_counts[2, 3]
    view.selection = {**view.selection, "layer": 3, "token": 12, "expert": 4}
    snapshot = view.snapshot()
    wanted = [json.loads(key) for key in snapshot.answers]
    assert {"type": "card", "layer": 3, "expert": 4} in wanted
    assert {"significance", "card"} <= {w["type"] for w in wanted}
    assert not [a for a in snapshot.answers.values() if "error" in a]
    assert len(snapshot.page) < 2_000_000
    for request in ({"type": "groups", "by": "label"}, {"type": "significance"}, {**CARD}):
        assert "Routing(trace, atlas=atlas)" in Routing(trace).answer(request)[0]["error"]


CARD = {"type": "card", "layer": 2, "expert": 3}


def test_an_atlas_of_another_model_is_refused(trace):
    with pytest.raises(StudyError, match=r"another model.*'planted <i>router</i>', 8 layers"):
        Routing(trace, atlas=make_atlas(layers=8, documents=1))
    other = make_atlas(layers=4, documents=1)
    object.__setattr__(other.counts.subject, "fingerprint", "test")
    with pytest.raises(StudyError, match=r"4 layers of 16 experts, against .*8 of 16"):
        Routing(trace, atlas=other)
    with pytest.raises(TypeError, match="not a Trace"):
        Routing(trace, atlas=trace)
    with pytest.raises(StudyError, match="no routing"):
        Routing(Trace(trace.tokens), atlas=other)


def test_an_atlas_names_the_experts_of_a_model_that_runs(model):
    view = Routing(model, atlas=g4.teaching.atlas())
    assert view.meta["live"] and view.meta["atlas"] > 10_000
    assert view.answer_groups("label")[0]["groups"]
    view.trace.close()
    with pytest.raises(StudyError, match="another model"):
        Routing(model, atlas=make_atlas(layers=8, documents=1))


def test_what_if_by_label_is_one_change_with_a_control_of_its_load(model, asked):
    """As ``model.intervene(studies.drop(...))`` does, beside single experts."""
    atlas = g4.teaching.atlas()
    without = g4.studies.drop(atlas, "arithmetic", above=2.5)
    change = {"label": "arithmetic", "above": 2.5, "action": "around"}
    base, changed, control = what_if(model, asked, None, atlas, changes=[change], max_tokens=6)[
        "answers"
    ]
    count = sum(map(len, without.experts.values()))
    assert (
        changed["name"] == f"without arithmetic ({count} experts in {len(without.experts)} layers)"
    )
    assert "routed around" in changed["note"] and "drawn at random" in control["name"]
    assert changed["mean"] > 0 and base["parts"] is None
    share = sum(without.loads.values()) / len(without.loads)
    assert f"{share:.2f} experts a token of the label" in changed["note"]
    drawn = without.control()
    share = sum(drawn.loads.values()) / len(drawn.loads)
    assert f"{share:.2f} experts a token of the label" in control["note"]
    both = [change | {"action": "boost", "factor": 2}, {"layer": 2, "expert": 3}]
    names = [
        a["name"] for a in what_if(model, asked, None, atlas, changes=both, max_tokens=2)["answers"]
    ]
    assert names[1].startswith("layer 2: expert 3 dropped; arithmetic boosted by 2 (")
    assert names[2].startswith("Control: layer 2: expert ")


def test_what_if_by_label_refuses_clearly(model, asked):
    atlas, change = g4.teaching.atlas(), {"label": "code", "above": 2.0, "action": "around"}
    for changed, says, error in (
        ({"label": "poetry"}, "no label 'poetry'", StudyError),
        ({"above": 900}, "no expert is chosen 900 times", StudyError),
        ({"above": 0.5}, "above 1", StudyError),
        ({"action": "swap"}, "'drop', 'around' and 'boost'", TraceError),
    ):
        with pytest.raises(error, match=says):
            what_if(model, asked, None, atlas, changes=[change | changed])
    with pytest.raises(TraceError, match=r"Routing\(trace, atlas=atlas\)"):
        what_if(model, asked, changes=[change])


def test_where_an_answer_begins():
    tokens = make_tokens(6, media=False)
    tokens.texts[:] = ["<bos>", "hi", "<|turn>", "model", "\n", "yes"]
    tokens.roles[:] = ["", "user", "model", "model", "model", "model"]
    assert answer_start(tokens) == 5
    tokens.roles[:] = ["user"] * 6
    assert answer_start(tokens) == 6


def finished(answer, *args, seconds=PATIENCE, **options):
    """The result of an answer that is asked for again while it is running."""
    end = time.time() + seconds
    while "running" in (result := answer(*args, **options)):
        assert time.time() < end and 0 <= result["running"] <= 1
    return result


def test_a_long_answer_does_not_hold_up_the_others(trace, monkeypatch):
    """While two traces are compared, the widget's one thread answers what comes next."""
    import threading

    from gemma4_mlx import tracing

    go, compare = threading.Event(), tracing.compare_routing

    def slow(*args, progress, **options):
        progress(0.25)
        go.wait(PATIENCE)
        return compare(*args, **options)

    monkeypatch.setattr(tracing, "compare_routing", slow)
    view = Routing(trace, make_trace(N, seed=5))
    assert view.answer({"type": "compare"})[0]["content"] == {"running": 0.25}
    assert view.answer({"type": "expert", "layer": 2, "expert": 3})[0]["content"]["rank"]
    go.set()
    assert finished(view.answer_compare)["layers"]


def test_what_if_compares_with_a_control(model, asked):
    layer = 4
    expert = int(asked.routing.at(layer)[0][-1, 0])
    changes = [{"layer": layer, "expert": expert, "action": "drop"}]
    told = []
    result = what_if(model, asked, changes=changes, max_tokens=8, progress=told.append)
    base, changed, control = result["answers"]
    assert base["parts"] is None and base["divergence"] == []
    assert len(changed["divergence"]) == len(changed["tokens"]) <= 8
    assert changed["mean"] > 0 and "Control" in control["name"]
    assert model.interventions == () and told == sorted(told)
    for answer in (changed, control):
        if answer["parts"] is not None and answer["parts"] < len(answer["tokens"]):
            assert answer["tokens"][: answer["parts"]] == base["tokens"][: answer["parts"]]
    again = what_if(model, asked, changes=changes, max_tokens=8)
    assert again == result


def test_what_if_leaves_others_their_turns(model, asked):
    """An answer that is asked for meanwhile is there first, and of the model unchanged."""
    from gemma4_mlx.generation.engine import current_job

    cache, options = g4.PromptCache(model), {"temperature": 0.0, "max_tokens": 3}
    prompt = [2, *model.tokenizer.encode("one two three")]
    alone = [e.id for e in g4.stream(model, prompt, options=options) if hasattr(e, "id")]
    others, calls = [], []

    def ask(share):
        if share > 1 / 3 and not others:  # the changes are in force
            how = {"options": options, "cache": cache}
            others.append(g4.generation.engine().submit(g4.stream, model, prompt, **how))

    def watch(name, layer, value, geometry):
        if name == "tokens":
            calls.append(current_job())

    with model.observe(watch):
        changes = [{"layer": layer, "expert": 1, "action": "drop"} for layer in range(4)]
        result = what_if(model, asked, changes=changes, max_tokens=40, progress=ask)
    assert len(result["answers"]) == 3
    last = max(i for i, job in enumerate(calls) if job is others[0])
    assert last < max(i for i, job in enumerate(calls) if job is not others[0])
    assert [e.id for e in others[0].events() if hasattr(e, "id")] == alone


def test_why_nothing_can_be_tried(model, asked):
    """Where the model cannot answer the trace's prompt, the view knows before anybody asks."""
    assert Routing(asked, model=model).meta["whatif"] == ""
    assert "Routing(trace, model=model)" in Routing(asked).meta["whatif"]
    assert "inputs=..." in Routing(make_trace(240), model=model).meta["whatif"]
    other = g4.Chat(model)
    other.send("Hello", max_tokens=2)
    why = Routing(asked, model=model, inputs=other).meta["whatif"]
    assert "not those of the trace" in why
    live = Routing(model)
    assert "chat.trace()" in live.meta["whatif"]
    live.trace.close()


@pytest.mark.parametrize("action", ["around", "swap", "boost"])
def test_other_changes(model, asked, action):
    change = {"layer": 2, "expert": 3, "action": action, "other": 9}
    result = what_if(model, asked, changes=[change], max_tokens=3, everywhere=True)
    assert len(result["answers"]) == 3 and "reading the prompt" in result["note"]


def test_several_experts_at_once(model, asked):
    changes = [{"layer": 2, "expert": e, "action": "drop"} for e in (3, 5)]
    changes.append({"layer": 6, "expert": 1, "action": "boost", "factor": 2})
    result = what_if(model, asked, changes=changes, max_tokens=3)
    assert result["answers"][1]["name"] == (
        "layer 2: experts 3, 5 dropped; layer 6: expert 1 boosted"
    )


@pytest.mark.parametrize("seed", range(4))
def test_controls_have_about_the_same_load(seed):
    routing = make_trace(N, seed=seed).routing
    rng = np.random.default_rng(seed)
    chosen = [(int(i), int(e)) for i, e in rng.integers(0, [8, EXPERTS], (5, 2))]
    changes = [_checked({"layer": i, "expert": e}) for i, e in dict.fromkeys(chosen)]
    controls = control_changes(routing, changes)
    assert controls == control_changes(routing, changes), "the same every time"
    places = [(c["layer"], c["expert"]) for c in changes + controls]
    assert len(set(places)) == len(places), "no expert is its own or another's control"
    for change, control in zip(changes, controls):
        assert control["layer"] == change["layer"]
        load = routing.load(change["layer"])
        gap = np.sort(abs(load - load[change["expert"]]))
        assert abs(load[control["expert"]] - load[change["expert"]]) <= gap[3 + 2 * len(changes)]


def test_a_change_that_touches_no_token_changes_nothing(model, asked):
    change = {"layer": 1, "expert": 0, "action": "boost", "factor": 0.0}
    _, changed, _ = what_if(model, asked, changes=[change], max_tokens=4)["answers"]
    assert changed["parts"] is None and changed["mean"] == pytest.approx(0, abs=1e-5)


def test_what_if_refuses_clearly(model, asked, trace):
    with pytest.raises(InterventionError, match="expert 99"):
        what_if(model, asked, changes=[{"layer": 2, "expert": 99}])
    with pytest.raises(TraceError, match="action"):
        what_if(model, asked, changes=[{"layer": 2, "expert": 1, "action": "explode"}])
    with pytest.raises(TraceError, match="at least one"):
        what_if(model, asked, changes=[])
    with pytest.raises(TraceError, match="pictures or sound"):
        what_if(model, trace, changes=[DROP])
    view = Routing(asked, model=model)
    with pytest.raises(InterventionError):
        finished(view.answer_whatif, [{"layer": 2, "expert": 99}])
    assert finished(view.answer_whatif, [DROP], tokens=2)["answers"], "after an error as before"
    kinds = [json.loads(key)["type"] for key in view.snapshot().answers]
    assert kinds.count("whatif") == 1


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
    assert seen > 0 and view.answer_groups()[0]["groups"]
    view.trace.close()


def _ids(view) -> list[int]:
    return view.trace.tokens.ids.tolist()


@pytest.mark.parametrize("waiting", [2, 30])
def test_live_routing_follows_one_of_two_conversations_and_then_the_other(
    model, waiting, monkeypatch
):
    """While two answers take turns, the view shows one until it ends; the next turn of the other
    is shown whole, its beginning included, although that was computed while it was not shown.
    Nor does it go back and forth if both have ended before their calls are converted."""
    monkeypatch.setattr(live_routing, "WAITING", waiting)
    view = Routing(model)
    live = view.trace
    told = []  # every state that a view could have seen
    add = live._add

    def spy(*call):
        add(*call)
        told.append(live._sequence.ids.tolist())

    live._add = spy
    try:
        chats = [g4.Chat(model), g4.Chat(model)]
        how = {"temperature": 0.0, "max_tokens": 40, "ignore_eos": True}
        streams = [
            chat.stream(text, **how)
            for chat, text in zip(chats, ("What is the capital of France?", "Count to five."))
        ]
        for stream in streams:
            next(stream)  # both are on their way
        for stream in reversed(streams):
            list(stream)
        monkeypatch.undo()
        first = list(chats[0].cache.tokens)
        _wait(view, lambda: len(live._calls) == 0)
        pairs = zip(told, [*told[1:], []])
        ends = [ids for ids, following in pairs if following[: len(ids)] != ids]
        assert len(ends) <= 2, "one text after the other, without going back and forth"
        assert ends[0] == first[: len(ends[0])] and len(ends[0]) >= len(first) - 2
        recorded = g4.trace(model, first, attention=None).routing.experts
        shown = [s for s in live._sequences.values() if s.ids.tolist()[:20] == first[:20]]
        n = len(shown[-1].ids)
        np.testing.assert_array_equal(
            np.sort(shown[-1].experts), np.sort(recorded[:, :n].astype(np.uint16))
        )
        for chat in chats:  # each goes on with what is its own
            chat.send("And then?", temperature=0.0, max_tokens=4)
            _wait(view, lambda: len(live._calls) == 0)
            n = len(chat.cache.tokens)
            assert _ids(view)[: n - 2] == list(chat.cache.tokens)[: n - 2]
        fork = chats[0].branch()
        fork.send("Once more?", temperature=0.0, max_tokens=4)
        _wait(view, lambda: len(live._calls) == 0)
        assert _ids(view)[:20] == first[:20], "a copied cache begins with what is known of it"
    finally:
        live.close()


def test_live_routing_of_a_conversation_that_began_unwatched(model):
    """What came before is not shown; what follows grows."""
    chat = g4.Chat(model)
    chat.send("What is the capital of France?", temperature=0.0, max_tokens=4)
    view = Routing(model)
    try:
        chat.send("And of Spain?", temperature=0.0, max_tokens=12)
        _wait(view, lambda: len(view.trace._calls) == 0)
        tokens = list(chat.cache.tokens)
        assert 12 < view.n < len(tokens)
        assert " ".join(map(str, _ids(view)[:-1])) in " ".join(map(str, tokens))
    finally:
        view.trace.close()


def test_live_routing_of_a_single_call(model):
    """A prompt read in one pass, whose answer is one token: nobody calls the model after it."""
    view = Routing(model)
    try:
        list(g4.stream(model, [2, 500, 501, 502], options={"max_tokens": 1}))
        _wait(view, lambda: view.n == 4)
        assert _ids(view) == [2, 500, 501, 502]
    finally:
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


def _wait(view, condition, seconds=PATIENCE):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, view.n
        time.sleep(0.02)
    return view.n
