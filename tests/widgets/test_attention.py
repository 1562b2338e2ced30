"""The Attention widget's Python side: every number it sends, against dense softmax."""

import json
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from synthetic import DONORS, WINDOW, make_attention, make_media, make_tokens, make_trace
from waiting import PATIENCE, until

import gemma4_mlx as g4
from gemma4_mlx.attribution import HeadRoles
from gemma4_mlx.attribution.roles_data import ROLES
from gemma4_mlx.tracing import Tokens, Trace, open_trace
from gemma4_mlx.widgets import attention as module
from gemma4_mlx.widgets.attention import Attention
from gemma4_mlx.widgets.traceview import boxes_of, media_of, parts_of

N = 300


@pytest.fixture(scope="module")
def trace():
    return make_trace(N, needle=(280, 40))


@pytest.fixture
def view(trace):
    trace.selection.clear()
    return Attention(trace, media=make_media())


def dense(trace, layer, head):
    """The whole (n, n) softmax, from the queries and keys."""
    part = trace.attention.layer(layer)
    keys = trace.attention.layer(DONORS[layer]).keys[head // 2]
    scores = part.queries[head] @ keys.T
    i, j = np.mgrid[: len(scores), : len(scores)]
    hidden = j > i
    if part.window:
        hidden |= j <= i - WINDOW
    scores = np.where(hidden, -np.inf, scores)
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def pooled(weights, rows, columns, stat):
    """Cells of a dense map between edges: mean over queries of the mass on the keys, or maximum."""
    r0, r1, c0, c1 = rows[0], rows[-1], columns[0], columns[-1]
    add = np.maximum if stat == "max" else np.add
    cells = add.reduceat(weights[r0:r1, c0:c1], rows[:-1] - r0, axis=0)
    cells = add.reduceat(cells, columns[:-1] - c0, axis=1)
    return cells if stat == "max" else cells / np.diff(rows)[:, None]


def tile(view, **request):
    content, bulk = view.answer_tile(**request)
    return content, np.frombuffer(bulk, "<f4").reshape(content["rows"], content["columns"])


def edges(content):
    """The token edges that the front end reads off an answer."""
    rows = [
        content["query"] + int(k * content["rowCell"] + 1e-6) for k in range(content["rows"] + 1)
    ]
    columns = [
        content["key"] + int(k * content["columnCell"] + 1e-6)
        for k in range(content["columns"] + 1)
    ]
    return np.minimum(rows, N), np.minimum(columns, N)


@pytest.mark.parametrize("stat", ["mean", "max"])
@pytest.mark.parametrize("layer", [0, 2, 6])
def test_tiles_are_exact_at_every_level(trace, view, layer, stat):
    weights = dense(trace, layer, 1)
    for level, row, column in ((0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0), (2, 0, 0)):
        content, values = tile(
            view, layer=layer, head=1, level=level, row=row, column=column, stat=stat
        )
        expected = pooled(weights, *edges(content), stat)
        np.testing.assert_allclose(values, expected, atol=2e-6)


@pytest.mark.parametrize("stat", ["mean", "max"])
def test_tiles_of_layers_that_were_not_retained_come_from_the_overview(trace, stat):
    blind = Trace(trace.tokens, attention=make_attention(N, retain=False))
    view = Attention(blind)
    weights = dense(Trace(trace.tokens, attention=make_attention(N)), 5, 2)
    for level in (0, 1, 3):
        content, values = tile(view, layer=5, head=2, level=level, row=0, column=0, stat=stat)
        assert content["rowCell"] >= blind.attention.width
        np.testing.assert_allclose(values, pooled(weights, *edges(content), stat), atol=2e-6)


def test_wide_tiles_come_from_the_overview_too(view, trace, monkeypatch):
    monkeypatch.setattr(module, "TILE_PRODUCTS", 64 * 1000)
    content, values = tile(view, layer=2, head=0, level=1, row=0, column=0, stat="mean")
    assert content["rowCell"] == trace.attention.width
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)


def test_many_tiles_in_one_answer(view, trace, monkeypatch):
    wanted = [[1, 0, 0], [0, 1, 0], [0, 2, 1]]
    contents, bulk = view.answer_tiles(layer=2, head=1, tiles=wanted, stat="max")
    assert [[c["level"], c["row"], c["column"]] for c in contents] == wanted
    one_by_one = [view.answer_tile(2, 1, *place, "max") for place in wanted]
    assert bulk == b"".join(values for _, values in one_by_one)
    assert [c["rows"] for c in contents] == [content["rows"] for content, _ in one_by_one]
    # a lot of work is cut into several answers, and another question ends one early
    monkeypatch.setattr(module, "ANSWER_WEIGHTS", 2 * 128**2)
    assert len(view.answer_tiles(layer=2, head=1, tiles=wanted[1:] + wanted[:1])[0]) == 2
    blind = Attention(Trace(trace.tokens, attention=make_attention(N, retain=False)))
    assert len(blind.answer_tiles(layer=2, head=1, tiles=wanted)[0]) == 3, "the overview is free"
    view._requests.put(({"type": "tokens"}, []))
    assert len(view.answer_tiles(layer=2, head=1, tiles=wanted)[0]) == 1


def test_the_view_knows_which_levels_are_recomputed(trace, monkeypatch):
    """At and below "exact" every tile has cells of its level; above, cells of the overview."""
    monkeypatch.setattr(module, "TILE_PRODUCTS", 64 * 128**2)
    view = Attention(trace)
    facts = {f["index"]: f for f in view.meta["layers"]}
    assert facts[2]["exact"] == 0 and facts[0]["exact"] == 1  # full; sliding over 64 tokens
    assert view.answer_tile(2, 0, 0, 1, 0)[0]["rowCell"] == 1
    assert view.answer_tile(2, 0, 1, 0, 0)[0]["rowCell"] == trace.attention.width
    assert view.answer_tile(0, 0, 1, 0, 0)[0]["rowCell"] == 2
    blind = Attention(Trace(trace.tokens, attention=make_attention(N, retain=False)))
    assert {f["exact"] for f in blind.meta["layers"]} == {-1}


def test_weights_of_a_token_both_ways(trace, view):
    weights = dense(trace, 7, 3)
    row = np.frombuffer(view.answer_weights(7, 3, 250, "row")[1], "<f4")
    np.testing.assert_allclose(row, weights[250], atol=1e-6)
    column = np.frombuffer(view.answer_weights(7, 3, 20, "column")[1], "<f4")
    np.testing.assert_allclose(column, weights[:, 20], atol=1e-6)


def numbers(view):
    """The columns of ``answer_heads`` by name: (32,) each."""
    content, bulk = view.answer_heads()
    names = [*dict(content["names"]), "unlike", "reason", "group"]
    columns = np.frombuffer(bulk, "<f4").reshape(len(names), -1)
    return content, dict(zip(names, columns))


def test_every_head_has_its_summaries_in_the_order_of_layers(trace, view):
    content, columns = numbers(view)
    assert columns.keys() == {"first", "entropy", "image", "unlike", "reason", "group"}
    heads = [(layer["index"], head) for layer in view.meta["layers"] for head in layer["heads"]]
    for at in (0, 9, 31):
        assert columns["first"][at] == pytest.approx(trace.attention.summary("first", *heads[at]))
    assert sum(len(g["central"]) for g in content["groups"]) <= 4 * len(content["groups"])


def roles_of(layers, heads):
    """A table in which one head retrieves and another is a sink that retrieves, too."""
    scores = {role: np.full((layers, heads), 0.01, np.float32) for role in ROLES}
    scores["sound"][:] = np.nan
    scores["retrieval"][-3, 2], scores["retrieval"][1, 0], scores["sink"][1, 0] = 0.9, 0.4, 0.7
    chance = {role: np.zeros(layers, np.float32) for role in ROLES}
    prompts = {role: np.ones(layers, np.int32) for role in ROLES}
    return HeadRoles(scores, chance, prompts, ("full_attention",) * layers)


def test_heads_have_roles_over_many_prompts(trace, view):
    with_roles = Attention(trace, roles=roles_of(8, 4))
    content, bulk = with_roles.answer_heads()
    plain, before = view.answer_heads()
    assert not {"roles", "labels"} & plain.keys() and bulk.startswith(before)
    names = [name for name, _ in content["roles"]]
    assert names == [f"role.{role}" for role in ROLES if role != "sound"]
    scores = np.frombuffer(bulk[len(before) :], "<f4").reshape(len(names), -1)
    assert scores[0, 5 * 4 + 2] == np.float32(0.9) and scores.shape[1] == 32
    assert content["labels"][5 * 4 + 2] == ["retrieval"]
    assert content["labels"][4] == ["retrieval", "sink"] and content["labels"][0] == []
    some = g4.tracing.AttentionData(trace.n, trace.attention.width, [trace.attention.layer(5)])
    of_some = Attention(Trace(trace.tokens, attention=some), roles=roles_of(8, 4)).answer_heads()[0]
    assert of_some["labels"] == [[], [], ["retrieval"], []]
    with pytest.raises(TypeError, match="not a dict"):
        Attention(trace, roles={})
    for wrong in ((5, 4), (8, 5)):
        with pytest.raises(ValueError, match=f"a model of {wrong[0]} layers with {wrong[1]} heads"):
            Attention(trace, roles=roles_of(*wrong))
    assert "role.retrieval" in with_roles.snapshot().page


def test_a_head_unlike_the_others_of_its_kind_stands_out():
    data = make_attention(N)
    rng = np.random.default_rng(0)
    for layer in data.layers:
        for sums in data.layer(layer).statistics.values():
            sums *= rng.uniform(0.9, 1.1, (len(sums), 1)).astype(np.float32)
    data.layer(5).statistics["first"][2] *= 0.02  # a full layer
    view = Attention(Trace(make_tokens(N), attention=data))
    content, columns = numbers(view)
    odd = columns["unlike"].argmax()
    assert odd == 5 * 4 + 2 and columns["unlike"][odd] > 2 * np.sort(columns["unlike"])[-2]
    assert content["names"][int(columns["reason"][odd])][0] == "first"


def test_heads_made_alike_are_one_group():
    data = make_attention(N)
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 2, 32)
    for k, layer in enumerate(data.layers):
        for name, sums in data.layer(layer).statistics.items():
            high = kinds[4 * k : 4 * k + 4, None] * (name != "image")
            sums[:] = (0.1 + 0.5 * high) * data.width * rng.uniform(0.95, 1.05, (4, 1))
    content, columns = numbers(Attention(Trace(make_tokens(N), attention=data)))
    group = columns["group"].astype(int)
    assert len(set(zip(kinds, group))) == 2 == len(content["groups"])
    assert (np.diff(np.bincount(group)) <= 0).all(), "the largest first"


def test_small_pictures_of_a_layer(trace, view):
    facts, bulk = view.answer_pictures(2, side=16)
    pictures = np.frombuffer(bulk, np.uint8).reshape(4, facts["rows"], facts["columns"])
    assert facts["axis"] == "keys" and pictures.shape == (4, 16, 16)
    assert (pictures.reshape(4, -1).max(1) == 255).all()  # each on its own scale
    cells = (pictures[1] / 255.0) ** 2 * facts["peak"][1]
    assert cells.sum(1) == pytest.approx(1, abs=0.05)  # rows of mass, quantized to 255 steps
    exact = pooled(dense(trace, 2, 1), *[np.r_[0:N:20, N]] * 2, "mean")
    whole = view.answer_pictures(2, side=64)[0]
    assert whole["rows"] == len(trace.attention.edges) - 1 and exact.shape == (15, 15)


def banded(view, layers):
    """The same trace with sliding layers kept as a real one keeps them: a band of cells."""
    for layer in layers:
        part = view.trace.attention.layer(layer)
        width, R = view.trace.attention.width, part.mass.shape[1]
        part.back = -(-(WINDOW - 1) // width)
        key = np.arange(R)[:, None] - part.back + np.arange(part.back + 1)
        for name in ("mass", "peak"):
            cells = np.take_along_axis(getattr(part, name), np.maximum(key, 0)[None], 2)
            setattr(part, name, np.where(key >= 0, cells, 0))


def test_sliding_heads_are_drawn_by_offset():
    """A head that looks one token back is a column on the left, however long the text is."""
    view = Attention(Trace(make_tokens(N), attention=make_attention(N)))
    square_ = view.answer_offsets(0, 3)
    banded(view, [0])
    content, bulk = view.answer_offsets(0, 3)
    values = np.frombuffer(bulk, "<f4").reshape(content["rows"], content["columns"])
    assert values.sum(1) == pytest.approx(1, abs=1e-4)
    full = np.frombuffer(square_[1], "<f4").reshape(content["rows"], -1)
    np.testing.assert_allclose(values, full[:, : values.shape[1]], atol=1e-6)
    weights, width = dense(view.trace, 0, 3), content["rowCell"]
    expected = np.mean([weights[q, 100 - width : 100].sum() for q in range(100, 100 + width)])
    assert values[100 // width, 1] == pytest.approx(expected, abs=1e-5)
    assert content["columns"] < 20 and content["note"] == ""
    coarse = Attention(Trace(make_tokens(N), attention=make_attention(N, bins=8)))
    banded(coarse, [0])
    facts = coarse.answer_offsets(0, 3)[0]
    assert facts["columns"] == 3 and "expected=..." in facts["note"]
    assert "means" in coarse.answer_offsets(0, 3, "max")[0]["note"]
    facts = view.answer_pictures(0, side=48)[0]
    assert facts["axis"] == "offsets" and facts["columns"] <= 24
    with pytest.raises(ValueError, match="no offsets"):
        view.answer_offsets(2, 0)


@pytest.mark.parametrize("bands", [False, True])
def test_mass_between_spans_is_exact_or_comes_from_the_bins(trace, view, bands):
    content, bulk = view.answer_span([280, 281], [40, 41])
    mass = np.frombuffer(bulk, "<f4")
    assert mass.argmax() == 2 * 4 + 1 and content["note"].endswith("Exact.")
    for at in (9, 20, 30):
        assert mass[at] == pytest.approx(dense(trace, at // 4, at % 4)[280, 40], rel=1e-4)
    blind = Attention(Trace(trace.tokens, attention=make_attention(N, retain=False)))
    if bands:
        banded(blind, [0, 1, 3, 4, 6])
    content, bulk = blind.answer_span([200, 210], [150, 200])  # whole bins of 5 tokens
    mass = np.frombuffer(bulk, "<f4")
    full = Trace(trace.tokens, attention=make_attention(N))
    for at in (0, 9, 31):
        expected = dense(full, at // 4, at % 4)[200:210, 150:200].sum(1).mean()
        assert mass[at] == pytest.approx(expected, abs=1e-5)
    assert content["note"].endswith("Exact.") and not content["demand"]
    note = blind.answer_span([201, 202], [151, 160])[0]["note"]
    assert note.endswith("Pooled: from 200 to 204 on 150 to 159, whole bins of 5 tokens.")


def test_rows_of_layers_that_were_not_kept_are_pooled_and_say_so(trace):
    blind = Attention(Trace(trace.tokens, attention=make_attention(N, retain=False)))
    weights = dense(Trace(trace.tokens, attention=make_attention(N)), 5, 1)
    content, bulk = blind.answer_weights(5, 1, 203)
    row, width = np.frombuffer(bulk, "<f4"), blind.meta["bin"]
    assert content["pooled"] == width == 5 and row.sum() == pytest.approx(1, abs=1e-4)
    mean = weights[200:205].mean(0).reshape(-1, width).mean(1).repeat(width)
    np.testing.assert_allclose(row, mean, atol=1e-6)
    column = np.frombuffer(blind.answer_weights(5, 1, 203, "column")[1], "<f4")
    assert column.sum() == pytest.approx(weights[:, 200:205].sum() / width, rel=1e-3)
    assert "AttentionPlan(retain=(5,))" in blind.answer_why(5, 1)["why"]
    assert Attention(trace).answer_why(5, 1) == {"state": "kept", "why": None}


def test_eight_bits_are_right_within_their_steps():
    values = np.r_[0, 10.0 ** -np.arange(0, 5, 0.1)].astype("<f4")
    content, bulk = module.eight_bits({"rows": 1}, values.tobytes())
    codes = np.frombuffer(bulk, np.uint8).astype(float)
    low, high = content["low"], content["high"]
    back = np.where(codes > 0, low * np.exp((codes - 1) / 254 * np.log(high / low)), 0)
    np.testing.assert_allclose(back, values, rtol=0.023)
    assert content["rows"] == 1 and codes[0] == 0


def test_what_is_no_trace_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"chat.trace\(\), not dict"):
        Attention({})


def test_the_needle_head_is_shown_first(view):
    assert view.meta["start"] == {"layer": 2, "head": 1, "token": 280}


def test_facts_tell_layers_apart(view):
    layers = {f["index"]: f for f in view.meta["layers"]}
    assert layers[2]["kind"] == "full" and layers[2]["window"] is None
    assert layers[0]["window"] == WINDOW and layers[0]["donor"] is None
    assert layers[6]["donor"] == 4 and layers[7]["donor"] == 5


def test_parts_and_media(trace):
    parts = parts_of(trace.tokens)
    assert [p["name"] for p in parts] == [
        "system", "user", "image", "user", "audio", "user", "thinking", "answer",
    ]  # fmt: skip
    assert parts[0]["start"] == 0 and parts[-1]["stop"] == N
    assert all(a["stop"] == b["start"] for a, b in pairwise(parts))
    picture, sound = media_of(trace.tokens)
    assert (picture["kind"], picture["label"], picture["stop"] - picture["start"]) == (
        "image", "cat.png", 16,
    )  # fmt: skip
    boxes, size = boxes_of(trace.tokens, picture["start"], picture["stop"])
    assert size == (96, 96) and boxes[5] == [0.25, 0.25, 0.5, 0.5]
    boxes, size = boxes_of(trace.tokens, sound["start"], sound["stop"])
    assert size[0] == pytest.approx(0.8) and boxes[-1][2] == pytest.approx(1)
    assert parts_of(Tokens([], [])) == [] and media_of(Tokens([], [])) == []


def test_pages_search_and_media(view, trace):
    page = view.answer_tokens(10, 20)
    assert page["text"] == trace.tokens.texts[10:20] and page["special"] == []
    assert view.answer_tokens(0, 20)["special"] == [0]
    assert len(view.answer_tokens(0, 10**9)["text"]) == N
    hits = view.answer_search("needle")["hits"]
    assert hits and all("needle" in trace.tokens.texts[i] for i in hits)
    assert view.answer_search("NEEDLE")["hits"] == hits
    assert view.answer_search("no such text")["hits"] == []
    content, bulk = view.answer_media(0)
    assert bulk.startswith(b"\x89PNG") and len(content["boxes"]) == 16 and content["width"] == 288
    content, bulk = view.answer_media(1)
    wave = np.frombuffer(bulk, "<f4").reshape(-1, 2)
    assert np.abs(wave).max() == pytest.approx(1) and (wave[:, 0] <= wave[:, 1]).all()
    assert Attention(trace).answer_media(0)[1] is None  # the trace alone has no picture


def test_pictures_and_sounds_stay_with_a_saved_trace(trace, tmp_path):
    kept = Trace(trace.tokens, attention=trace.attention, media=make_media())
    opened = open_trace(kept.save(tmp_path / "media.g4trace"))
    view = Attention(opened)
    assert view.answer_media(0)[1] == Attention(trace, media=make_media()).answer_media(0)[1]
    np.testing.assert_array_equal(opened.media[1], make_media()[1])


def test_bad_requests_answer_with_the_reason(view):
    for request, word in (
        ({"type": "tile", "layer": 99, "head": 0, "level": 0, "row": 0, "column": 0}, "layer 99"),
        ({"type": "tile", "layer": 2, "head": 9, "level": 0, "row": 0, "column": 0}, "head 9"),
        ({"type": "tile", "layer": 2, "head": 0, "level": 0, "row": 9, "column": 0}, "no tile"),
        ({"type": "weights", "layer": 2, "head": 0, "token": N}, "does not exist"),
        ({"type": "span", "source": [5, 5], "target": [0, 1]}, "no span"),
        ({"type": "export", "format": "pdf"}, "png, svg or html"),
    ):
        assert word in view.answer(request)[0]["error"]


def test_selection_goes_both_ways(view, trace):
    view.selection = {"token": 7, "layer": 5, "head": 2, "expert": None}
    assert (trace.selection.token, trace.selection.layer, trace.selection.head) == (7, 5, 2)
    trace.selection.token = 9
    assert view.selection["token"] == 9
    assert view.chosen() == {"layer": 5, "head": 2, "token": 9}
    trace.selection.token = N
    assert view.chosen()["token"] == view.meta["start"]["token"]


def test_saved_state_is_small_and_a_snapshot_holds_the_chosen_head(view):
    state = {k: v for k, v in view.get_state().items() if not k.startswith("_")}
    assert len(json.dumps(state, default=str)) < 20_000
    view.selection = {**view.selection, "layer": 2, "head": 1, "token": 280}
    page = view.snapshot().page
    assert len(page) < 3_000_000 and '"level":0' in page.replace("\\", "")
    picture = view.snapshot_image()
    assert picture.width > 800
    colors = np.asarray(picture).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 100
    svg = view.answer_export("svg")[1]
    assert svg.startswith(b"<svg") and b"Layer 2, head 1" in svg


def test_a_trace_without_attention_says_so(trace):
    view = Attention(Trace(trace.tokens))
    assert view.meta["layers"] == [] and "AttentionPlan" in view.meta["empty"]
    assert view.snapshot_requests() == [] and view.snapshot_image().width > 100


@pytest.mark.parametrize(
    "absent", [("link_queries", "link_keys", "link_weights"), ("mass", "peak"), ("queries", "keys")]
)
def test_what_a_plan_left_out_is_no_obstacle_to_a_snapshot(trace, absent):
    data = make_attention(N)
    for layer in data.layers:
        vars(data.layer(layer)).update(dict.fromkeys(absent))
        if "queries" in absent:
            data.layer(layer).kept = ()
    snapshot = Attention(Trace(trace.tokens, attention=data)).snapshot()
    assert snapshot.png() and not [a for a in snapshot.answers.values() if "error" in a]


def test_one_picture_needs_no_list(trace):
    one = make_media()[0]
    assert Attention(trace, media=one).media_sources() == {0: one}


def _finished(answer, *args, **options):
    """The result of an answer that is asked for again while it is running."""
    end = time.time() + PATIENCE
    while "running" in (result := answer(*args, **options)):
        assert time.time() < end and 0 <= result["running"] <= 1
    return result


def test_a_ranking_that_runs_the_model_does_not_hold_up_the_others(monkeypatch):
    """It tells how far it is, and what the view asks for meanwhile is answered."""
    model = g4.load()
    ids = [2, *np.random.default_rng(0).integers(300, 1900, 200).tolist()]
    plan = g4.AttentionPlan(retain="none", bins=32)
    trace = g4.trace(model, ids, routing=None, attention=plan, chunk=64)
    view, go = Attention(trace), threading.Event()
    find = type(trace.attention).find

    def slow(self, *spans, progress=None):
        def after_a_chunk(event):
            progress(event)
            if event.done < event.total:
                assert go.wait(PATIENCE)

        return find(self, *spans, progress=after_a_chunk)

    monkeypatch.setattr(type(trace.attention), "find", slow)
    sent = []
    view.send = lambda content, buffers=None: sent.append(content)
    asked = {"type": "span", "source": [150, 151], "target": [20, 21], "compute": True}
    view._on_message(view, {**asked, "id": "long"}, [])
    view._on_message(view, {"type": "heads", "id": "short"}, [])
    until(lambda: any(message.get("id") == "short" for message in sent))
    first = next(message for message in sent if message.get("id") == "long")
    assert list(first["content"]) == ["running"]
    end = time.time() + PATIENCE
    while not 0 < (share := view.answer_span([150, 151], [20, 21], compute=True)["running"]) < 1:
        assert time.time() < end
    assert share == 64 / 201
    go.set()
    content, bulk = _finished(view.answer_span, [150, 151], [20, 21], compute=True)
    assert content["note"].endswith("Exact.") and len(bulk) == 4 * len(view.stats.unlike)


def test_a_layer_that_was_not_kept_is_computed_on_demand():
    model = g4.load()
    ids = [2, *np.random.default_rng(0).integers(300, 1900, 200).tolist()]
    exact = g4.trace(model, ids, routing=None, attention=g4.AttentionPlan(retain="all"))
    plan = g4.AttentionPlan(retain="none", bins=32)
    trace = g4.trace(model, ids, routing=None, attention=plan)
    view = Attention(trace)
    layers = {facts["index"]: facts for facts in view.meta["layers"]}
    assert layers[3]["kept"] == [] and layers[3]["demand"] and layers[3]["exact"] == -1
    why = view.answer_why(3, 1)
    assert why["state"] == "on demand" and "runs again up to this layer" in why["why"]
    told = []
    view.observe(lambda change: told.append(change["new"]), names="computing")
    view.answer_compute(3)
    until(lambda: view.computing == {"layer": 3})
    assert told[0]["done"] == 0 and told[-2]["done"] == told[-2]["total"] == 201
    layers = {facts["index"]: facts for facts in view.meta["layers"]}
    assert layers[3]["kept"] == list(trace.attention.heads(3)) and layers[2]["kept"] == []
    content, bulk = view.answer_weights(3, 1, 150)
    row = np.frombuffer(bulk, "<f4")
    assert content["pooled"] == 0
    np.testing.assert_allclose(row, exact.attention.row(3, 1, 150), atol=1e-6)
    assert view.answer_span([150, 151], [20, 21])[0]["demand"]
    content, bulk = _finished(view.answer_span, [150, 151], [20, 21], compute=True)
    mass = np.frombuffer(bulk, "<f4").reshape(len(trace.attention.layers), -1)
    assert content["note"].endswith("Exact.") and not content["demand"]
    assert mass[2, 1] == pytest.approx(exact.attention.row(2, 1, 150)[20], rel=1e-4)
