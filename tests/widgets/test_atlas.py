"""The Atlas widget's Python side: what it sends, snapshots, and atlases of other models."""

import json

import numpy as np
import pytest
from synthetic import EXPERTS, LABELS, make_atlas, make_trace

from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import Atlas as Study
from gemma4_mlx.tracing import Trace
from gemma4_mlx.widgets import Atlas

LAYERS, E = 4, 16


@pytest.fixture(scope="module")
def atlas():
    return make_atlas()


@pytest.fixture
def view(atlas):
    return Atlas(atlas)


def test_the_table_has_the_loads_of_the_atlas(view, atlas):
    for by in view.meta["groupings"]:
        content, bulk = view.answer_groups(by)
        groups = len(content["groups"])
        counts = np.frombuffer(bulk, f"<u{content['bytes']}", LAYERS * groups * E)
        counts = counts.reshape(LAYERS, groups, E)
        np.testing.assert_allclose(counts.sum(axis=1) / content["n"], atlas.load())
    content, bulk = view.answer_groups()
    assert [g["name"] for g in content["groups"]] == sorted(LABELS) == list(atlas.labels)
    assert set(bulk[-LAYERS * E :]) == {255}, "what experts are for is tested first"


def test_large_counts_are_sent_whole(atlas):
    large = make_atlas(layers=2, documents=2)
    large.counts.arrays["counts"] <<= 33
    content, bulk = Atlas(large).answer_groups()
    assert content["bytes"] == 8
    counts = np.frombuffer(bulk, "<f8", 2 * len(LABELS) * E)
    assert counts.sum() == large.counts["counts"].sum() > 2**40


def test_significance_is_that_of_the_lifts(view, atlas):
    view.snapshot_requests()  # waits for it
    _, bulk = view.answer_significance()
    q = np.frombuffer(bulk, "<f4").reshape(LAYERS, len(LABELS), E)
    np.testing.assert_allclose(q, atlas.lifts().q, rtol=1e-6)
    planted = [sorted(LABELS).index(label) for label in LABELS]
    best = view.source.tested().purpose
    found = [(best[:, g] == planted[g]).sum() for g in range(len(LABELS))]
    assert sum(found) >= 0.8 * LAYERS * len(LABELS), "the planted experts are found"
    assert (best[:, len(LABELS) :] < 0).mean() > 0.9, "and hardly any others"


def test_a_label_without_documents_is_left_out():
    empty = make_atlas(documents=3)
    wider = Study.empty(empty.counts.subject, ["zzz"]).merge(empty)
    view = Atlas(wider)
    assert "zzz" in wider.labels and len(view.meta["labels"]) == len(LABELS)
    view.snapshot_requests()
    q = np.frombuffer(view.answer_significance()[1], "<f4")
    assert q.size == LAYERS * len(LABELS) * E


def test_a_card_is_json(view):
    row = sorted(LABELS).index("code")
    expert = int(np.nanargmax(view.source.tested().lift[1, row, :E]))
    card = view.answer({"type": "card", "layer": 1, "expert": expert})[0]["content"]
    assert json.loads(json.dumps(card)) == card
    pictures = [c for c in card["contexts"] if "picture" in c]
    assert all(len(c["box"]) == 4 and c["size"] == [48, 48] for c in pictures)
    assert {len(row) for row in card["input"]} == {4}


def test_finding_and_likeness(view, atlas):
    content, bulk = view.answer_find(text="42")
    lift = np.frombuffer(bulk, "<f4").reshape(LAYERS, E)
    assert content["tokens"] == ["42"]
    for layer, expert, _, times in content["rows"]:
        assert times == pytest.approx(lift[layer, expert], abs=1e-3)
    assert view.answer_find(kind="numbers")[0]["kinds"] == 6
    content, bulk = view.answer_neighbours(1, 1, by="labels")
    similar = np.frombuffer(bulk, "<f4").reshape(LAYERS, E)
    assert similar[1, 1] == pytest.approx(1) and content["rows"][0][2] <= 1
    assert set(view.answer_kinds()["input"]) >= {"numbers", "Latin", "Cyrillic", "Arabic"}


def test_bad_requests_and_sources(view, atlas):
    for request, word in (
        ({"type": "card", "layer": 44, "expert": 0}, "layer 44"),
        ({"type": "card", "layer": 1, "expert": 99}, "expert 99"),
        ({"type": "groups", "by": "colour"}, "colour"),
        ({"type": "find", "text": "zebra"}, "zebra"),
        ({"type": "find", "kind": "Runic"}, "Runic"),
        ({"type": "find", "text": "1", "vocabulary": "sounds"}, "sounds"),
        ({"type": "neighbours", "layer": 1, "expert": 1, "by": "name"}, "name"),
        ({"type": "measure", "name": "beauty"}, "norm, reap"),
    ):
        assert word in view.answer(request)[0]["error"]
    with pytest.raises(TypeError, match="not a str"):
        Atlas("26b.g4atlas")
    with pytest.raises(StudyError, match="no documents yet"):
        Atlas(Study.empty(atlas.counts.subject, ["a"]))


def test_it_follows_the_selection_of_a_trace_of_its_model(atlas):
    subject = atlas.counts.subject
    trace = make_trace(120)
    with pytest.raises(StudyError, match=r"another model.*'random vectors', 8 of 16"):
        Atlas(atlas, trace=trace)
    assert subject.num_experts == EXPERTS
    with pytest.raises(StudyError, match="no routing"):
        Atlas(atlas, trace=Trace(trace.tokens))
    own = make_atlas(layers=8, documents=2)
    trace.model["fingerprint"] = "planted"
    view = Atlas(own, trace=trace)
    trace.selection.update(layer=3, expert=7)
    assert view.chosen() == {"layer": 3, "expert": 7}
    view.selection = {**view.selection, "expert": 2}
    assert trace.selection.expert == 2
    view.selection = {**view.selection, "layer": 99}
    assert view.chosen() == view.meta["start"]


def test_state_snapshot_and_picture(view, monkeypatch):
    state = {k: v for k, v in view.get_state().items() if not k.startswith("_")}
    assert len(json.dumps(state, default=str)) < 20_000
    view.selection = {**view.selection, "layer": 2, "expert": 14}
    snapshot = view.snapshot()
    wanted = [json.loads(key) for key in snapshot.answers]
    assert {w["type"] for w in wanted} == {
        "groups", "significance", "kinds", "find", "measure", "card", "picture", "export"
    }  # fmt: skip
    assert not [a for a in snapshot.answers.values() if "error" in a]
    cards = [(w["layer"], w["expert"]) for w in wanted if w["type"] == "card"]
    assert cards[0] == (2, 14) and len(cards) == LAYERS * (E - 1), "of all that were used"
    monkeypatch.setattr("gemma4_mlx.widgets.atlas.SNAPSHOT_BYTES", 20_000)
    few = [r for r in view.snapshot_requests() if r["type"] == "card"]
    assert (few[0]["layer"], few[0]["expert"]) == (2, 14) and 2 < len(few) < 12
    colors = np.asarray(view.snapshot_image()).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 50
    svg = view.answer_export("svg")[1].decode()
    assert "Expert 14 of layer 2" in svg and "<script" not in svg and "<b>" not in svg
