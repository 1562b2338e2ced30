"""The atlas that ships: of the shipped weights, small, opened by numpy alone."""

import sys

import numpy as np
import pytest
from without_mlx import run

import gemma4_mlx as g4
from gemma4_mlx.studies import corpora
from gemma4_mlx.teaching import ATLAS, build_atlas

REMAKE = "the weights changed: python -m gemma4_mlx.teaching.build_atlas makes it anew"


def test_it_is_of_the_shipped_weights_and_small():
    atlas, model = g4.teaching.atlas(), g4.load()
    assert atlas.counts.subject.fingerprint == model.fingerprint, REMAKE
    assert atlas.model["fingerprint"] == model.fingerprint, REMAKE
    assert atlas.model["source"] == model.source == "teaching model", "no path of a machine"
    assert ATLAS.stat().st_size < 300_000
    assert atlas.labels == tuple(sorted(corpora.teaching(model)))
    assert atlas.counts["documents"].tolist() == [build_atlas.DOCUMENTS] * len(atlas.labels)


@pytest.mark.float32
@pytest.mark.parametrize("label", ["arithmetic", "audio"])
def test_its_numbers_are_what_the_model_does(label):
    """On another machine a token whose experts are nearly tied may go to others."""
    atlas, model = g4.teaching.atlas(), g4.load()
    lessons = corpora.teaching(model, build_atlas.DOCUMENTS)
    anew = g4.atlas(model, {label: lessons[label]}, tokens=10**6, progress=False)
    there = atlas.counts["counts"][atlas.labels.index(label)]
    assert anew.tokens == atlas.counts["tokens"][atlas.labels.index(label)], REMAKE
    assert np.abs(anew.counts["counts"][0] - there).sum() <= 0.001 * there.sum(), REMAKE


def test_it_has_what_the_notebook_and_the_widget_show():
    atlas = g4.teaching.atlas()
    assert len(atlas.lifts().experts("code")) >= 3
    busiest = np.unravel_index(atlas.load().argmax(), atlas.load().shape)
    assert len(atlas.examples(*map(int, busiest))) == 16
    pictured = [
        context
        for row in atlas.lifts().experts("image")
        for context in atlas.examples(row["layer"], row["expert"])
        if context.picture is not None
    ]
    assert pictured and all(context.box is not None for context in pictured)
    assert (atlas.promoted[busiest] >= 0).all() and atlas.find("def")


def test_packing_loses_nothing(tmp_path):
    atlas = g4.teaching.atlas()
    assert (tmp_path / "a").write_bytes(build_atlas.pack(atlas)) < 300_000
    again = g4.open_atlas(atlas.save(tmp_path / "b.g4atlas"))
    assert all(np.array_equal(atlas.counts[n], again.counts[n]) for n in atlas.counts.arrays)
    assert repr(again) == repr(atlas)


def test_it_opens_without_mlx():
    done = run("import gemma4_mlx as g4; print(len(g4.teaching.atlas().labels), 'labels')")
    assert "8 labels" in done.stdout, (done.stdout, done.stderr, sys.platform)
