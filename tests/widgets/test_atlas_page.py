"""The page of an atlas: self-contained, safe with any text, of a bounded size at real sizes."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from synthetic import LABELS, make_atlas

from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import Atlas
from gemma4_mlx.widgets import atlaspage
from gemma4_mlx.widgets.snapshot import request_key

LAYERS, E = 4, 16


@pytest.fixture(scope="module")
def atlas():
    made = make_atlas()
    made.model["source"] = 'a "model" & more </script>'
    made.remark("code", "<i>bad.txt</i> is not UTF-8: skipped")
    made.texts[min(made.texts)] = "half \ud800 a pair"
    return made


def read(path):
    """The page, its view's traits, and its answers by request."""
    text = path.read_text("utf-8")
    pieces = re.findall(
        r'<script type="application/json" class="g4-data">(.*?)</script>', text, re.S
    )
    (view,) = json.loads("".join(pieces), parse_constant=pytest.fail)["views"]
    return text, view["state"], view["answers"]


@pytest.fixture(scope="module")
def page(atlas, tmp_path_factory):
    return read(atlas.to_html(tmp_path_factory.mktemp("page") / "a.html"))


def card(answers, layer, expert):
    found = answers.get(request_key({"type": "card", "layer": layer, "expert": expert}))
    return found and found["content"]


def test_nothing_in_the_atlas_is_an_element_and_nothing_is_fetched(page):
    text, state, _ = page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert text.count("</script>") == text.count("<script ")
    for never in ("<img", "<b>", "<i>bad", "alert(1)</script>", "<iframe", "<link"):
        assert never not in text
    assert "<title>Atlas of experts: a &quot;model&quot; &amp; more" in text
    assert state["meta"]["remarks"] == ["code: <i>bad.txt</i> is not UTF-8: skipped"]


def test_the_page_holds_the_atlas(page, atlas):
    _, _, answers = page
    used = atlas.counts.all_counts > 0
    for i, layer in enumerate(atlas.layers):
        for e in range(E):
            found = card(answers, layer, e)
            assert (found is not None) == used[i, e]
            if found:
                contexts = atlas.examples(layer, e)
                assert [c["sort"] for c in found["contexts"]] == [c.sort for c in contexts]
                assert found["tokens"] == atlas.counts.all_counts[i, e]
    kinds = answers[request_key({"type": "kinds"})]["content"]["input"]
    for kind in kinds:
        asked = {"type": "find", "kind": kind, "vocabulary": "input"}
        assert answers[request_key(asked)]["content"]["rows"]
    assert not [a for a in answers.values() if "error" in a]


def test_each_picture_is_there_once(page, atlas):
    _, _, answers = page
    (asked,) = (key for key in answers if json.loads(key)["type"] == "picture")
    wanted = {
        context["picture"]
        for key, answer in answers.items()
        if json.loads(key)["type"] == "card"
        for context in answer["content"]["contexts"]
        if "picture" in context
    }
    assert wanted == {json.loads(asked)["key"]}
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answers[asked]["buffer"]))))
    (kept,) = atlas.contexts.pictures.values()
    np.testing.assert_array_equal(pixels, kept)


def test_contexts_and_then_cards_are_left_out_where_there_is_no_room(atlas, monkeypatch, tmp_path):
    whole = atlas.to_html(tmp_path / "whole.html").stat().st_size
    shown = {}
    for budget in (whole, whole * 2 // 3, whole // 2, whole * 2 // 5):
        monkeypatch.setattr(atlaspage, "PAGE_BYTES", budget)
        path = atlas.to_html(tmp_path / "a.html")
        assert path.stat().st_size <= budget
        _, _, answers = read(path)
        cards = [a["content"] for k, a in answers.items() if json.loads(k)["type"] == "card"]
        shown[budget] = (len(cards), sum(len(one["contexts"]) for one in cards))
        kept = {sort: max(sum(c["sort"] == sort for c in one["contexts"]) for one in cards)
                for sort in ("strongest", "sampled")}  # fmt: skip
        assert kept["strongest"] == kept["sampled"], "as many of either"
    counts = list(shown.values())
    assert counts[0][0] == counts[1][0] == LAYERS * (E - 1)
    assert counts[0][1] > counts[1][1] > 0 and counts == sorted(counts, reverse=True)
    assert 0 < counts[-1][0] < LAYERS * (E - 1) and counts[-1][1] == 0


def test_a_real_models_page_is_bounded(tmp_path):
    """30 layers of 128 experts: every expert that was used has its card."""
    atlas = make_atlas(30, 128, 8, documents=6, tokens=120, vocabulary=3000)
    path = atlas.to_html(tmp_path / "a.html")
    assert path.stat().st_size <= atlaspage.PAGE_BYTES
    _, _, answers = read(path)
    cards = [a["content"] for k, a in answers.items() if json.loads(k)["type"] == "card"]
    assert len(cards) == (atlas.counts.all_counts > 0).sum() > 3500
    assert sum(len(one["contexts"]) for one in cards) > len(cards)


def test_a_page_that_cannot_be_written_is_said(atlas, tmp_path):
    with pytest.raises(StudyError, match="cannot be written"):
        atlas.to_html(tmp_path / "no" / "such.html")
    empty = Atlas.empty(atlas.counts.subject, LABELS)
    with pytest.raises(StudyError, match="no documents yet"):
        empty.to_html(tmp_path / "a.html")
