"""The page of an atlas: complete, inert, of a bounded size at the sizes of a real model."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made import E, corpus, trace
from PIL import Image

from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies import Atlas
from gemma4_mlx.studies.data import page as page_module
from gemma4_mlx.studies.data.counts import Piece, Subject
from gemma4_mlx.tracing import RoutingData, Tokens, Trace


class Reader(HTMLParser):
    """The page as a browser reads it: tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def planted():
    traces = corpus(0, documents=25, labels=("code", "@MAPS@ <b>law</b>"))
    for t in traces["code"]:
        t.routing.experts[1] = [5, 6, 7]
    atlas = Atlas.of(traces)
    atlas.texts = {id: f"<script>alert({id})</script>" for id in atlas.texts}
    atlas.promoted = np.tile(np.arange(10, dtype=np.int32), (3, E, 1))
    atlas.suppressed = atlas.promoted + 10
    atlas.model = {**atlas.model, "source": 'a "model" & more'}
    atlas.remark("code", "<i>bad.txt</i> is not UTF-8: skipped")
    return atlas


def test_the_page_shows_the_atlas_and_runs_nothing(planted, tmp_path):
    text = planted.to_html(tmp_path / "a.html").read_text("utf-8")
    read = Reader(text)
    assert {"script", "b>law", "i>bad", "iframe", "link"}.isdisjoint(tag for tag, _ in read.tags)
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert all(a.get("src", "data:").startswith("data:") for _, a in read.tags)
    said = "".join(read.said)
    for words in (
        'Atlas of experts: a "model" & more', "@MAPS@ <b>law</b>: 25 documents",
        "<i>bad.txt</i> is not UTF-8: skipped", "<script>alert(3)</script>", "promotes", "Layer 4",
    ):  # fmt: skip
        assert words in said, words
    cards = re.split(r"Layer (\d)", said)
    (second,) = (after for number, after in zip(cards[1::2], cards[2::2]) if number == "2")
    five = second.split("Expert 5")[1].split("Expert ")[0]
    assert "code × " in five and "strongest, gate" in five


def test_maps_have_a_pixel_for_each_expert(planted):
    text = page_module.atlas_page(planted)
    sources = re.findall(r'class="map"[^>]*src="data:image/png;base64,([^"]+)"', text)
    assert len(sources) == 3
    pixels = [np.array(Image.open(io.BytesIO(base64.b64decode(s)))) for s in sources]
    assert all(p.shape == (3, E, 3) for p in pixels)
    code = pixels[2]  # labels in alphabetical order, "@" first
    red, _, blue = code[1, 5].astype(int)
    assert red > blue  # the label's expert is above even
    assert code[1, 4].tolist() == [33, 102, 172]  # and this one never chosen for it


def test_a_patch_is_marked_on_its_picture():
    t = trace(np.random.default_rng(1), 30, norms=False)
    t.media = [np.zeros((96, 96, 3), np.uint8)]
    t.tokens.media[:] = 0
    t.tokens.boxes = np.tile(np.float32([48, 0, 96, 48]), (30, 1))
    text = page_module.atlas_page(Atlas.of({"seen": [t]}))
    assert "left:50.0%;top:0.0%;width:50.0%;height:50.0%" in text


def test_a_real_models_page_is_bounded(monkeypatch):
    """30 layers of 128 experts, all in use, with examples as far as they fit."""
    rng, n, layers = np.random.default_rng(0), 1500, tuple(range(30))
    atlas = Atlas.empty(Subject("", layers, 128, 8, 5000), ["code", "law"])
    for label in ("code", "law"):
        tokens = Tokens(rng.integers(0, 5000, n), ["word"] * n)
        chosen = rng.random((30, n, 128)).argsort(-1)[..., :8].astype(np.uint8)
        weights = rng.random(chosen.shape).astype(np.float32)
        routing = RoutingData(layers, chosen, weights, 128, tokens)
        atlas.add(label, [Piece(Trace(tokens, routing, model={"fingerprint": ""}))])
    atlas.texts = {id: f" token{id}" for id in range(5000)}
    shown = []
    for budget in (10_000_000, 3_000_000):
        monkeypatch.setattr(page_module, "PAGE_BYTES", budget)
        text = page_module.atlas_page(atlas)
        assert len(text.encode()) <= budget and text.count("<b>Expert ") == 3840
        shown.append(text.count('class="context"'))
    assert shown[0] >= 2 * 3840 > shown[1]


def test_a_page_that_cannot_be_written_is_said(planted, tmp_path):
    with pytest.raises(StudyError, match="cannot be written"):
        planted.to_html(tmp_path / "no" / "such.html")
    empty = Atlas.empty(planted.counts.subject, ["x"])
    with pytest.raises(StudyError, match="has no documents"):
        empty.to_html(tmp_path / "a.html")
