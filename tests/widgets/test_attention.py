"""The Attention widget's Python side: every number it sends, against dense softmax."""

import json
from itertools import pairwise

import numpy as np
import pytest
from synthetic import DONORS, WINDOW, make_attention, make_media, make_tokens, make_trace

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
    monkeypatch.setattr(module, "TILE_WEIGHTS", 1000)
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
    monkeypatch.setattr(module, "TILE_WEIGHTS", 128**2)
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


def test_small_pictures_and_summaries_of_every_head(trace, view):
    content, bulk = view.answer_heads("mean")
    side = content["side"]
    pictures = np.frombuffer(bulk, np.uint8).reshape(32, side, side)
    assert (pictures.reshape(32, -1).max(1) == 255).all()  # each on its own scale
    assert [h["head"] for h in content["heads"][:5]] == [0, 1, 2, 3, 0]
    cells = (pictures[9] / 255.0) ** 2 * content["heads"][9]["peak"]
    assert cells.sum(1) == pytest.approx(1, abs=0.05)  # rows of mass, quantized to 255 steps
    assert dict(content["names"]).keys() == {"entropy", "first", "image"}
    assert content["heads"][0]["summary"]["entropy"] == pytest.approx(2.5, rel=0.1)


def test_what_is_no_trace_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"chat.trace\(\), not dict"):
        Attention({})


def test_the_needle_head_is_found_and_shown_first(view):
    found = view.answer_find([280, 281], [40, 41])["heads"]
    assert (found[0]["layer"], found[0]["head"]) == (2, 1) and found[0]["mass"] > 0.8
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
    assert page["text"] == trace.tokens.texts[10:20] and page["kind"][0] == "text"
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
        ({"type": "find", "source": [5, 5], "target": [0, 1]}, "no span"),
        ({"type": "export", "format": "pdf"}, "png, svg or html"),
    ):
        assert word in view.answer(request)[0]["error"]
    blind = Attention(Trace(make_tokens(N), attention=make_attention(N, retain=False)))
    reply, _ = blind.answer({"type": "weights", "layer": 2, "head": 0, "token": 5})
    assert "AttentionPlan(retain=(2,))" in reply["error"]


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
    snapshot = Attention(Trace(trace.tokens, attention=data)).snapshot()
    assert snapshot.png() and not [a for a in snapshot.answers.values() if "error" in a]


def test_one_picture_needs_no_list(trace):
    one = make_media()[0]
    assert Attention(trace, media=one).media_sources() == {0: one}
