"""The Anatomy widget's Python side: sizes, formulas, code and taps of every part."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import gemma4_mlx as g4
from gemma4_mlx.widgets.anatomy import COLORS, Anatomy
from gemma4_mlx.widgets.architecture import PARTS, blocks_of, cache_bytes, layer_facts


@pytest.fixture(scope="module")
def model():
    return g4.load()


@pytest.fixture
def view(model):
    return Anatomy(model)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="str is no model"):
        Anatomy("google/gemma-4-E2B-it")


def test_every_parameter_is_counted_once(view, model):
    counted = sum(p["params"] for b in view.meta["blocks"] for p in b["parts"])
    size = sum(p["bytes"] for b in view.meta["blocks"] for p in b["parts"])
    arrays = [array for _, array in tree_flatten(model.parameters())]
    assert counted == sum(a.size for a in arrays)
    assert size == sum(a.nbytes for a in arrays)
    assert {p["part"] for b in view.meta["blocks"] for p in b["parts"]} == set(PARTS) == set(COLORS)


def test_quantized_weights_count_as_weights():
    model = g4.load()
    before = {b.id: b.sizes() for b in blocks_of(model)}
    nn.quantize(
        model, group_size=32, bits=4, class_predicate=lambda p, m: p.endswith("mlp.up_proj")
    )
    mx.eval(model.parameters())
    for block in blocks_of(model):
        for now, then in zip(block.sizes(), before[block.id]):
            assert now["params"] == then["params"]
            if now["part"] == "mlp":
                assert now["bytes"] < then["bytes"]
                assert then["types"] == ["float32"] and set(now["types"]) == {"float32", "uint32"}


def test_every_part_explains_itself(view, model):
    names = model.taps()
    root = Path(g4.__file__).parent.parent
    for block in view.meta["blocks"]:
        for part in block["parts"]:
            answer = view.answer_part(block["id"], part["part"])
            assert answer["formula"] and answer["tensors"]
            assert all(tap in names for tap, _ in answer["taps"])
            for code in answer["code"]:
                lines = (root / code["file"]).read_text(encoding="utf-8").splitlines()
                assert code["source"].splitlines()[0].strip() == lines[code["line"] - 1].strip()
            assert answer["code"], (block["id"], part["part"])
    with pytest.raises(ValueError, match="no part"):
        view.answer_part("layer0", "wheels")


def test_every_tap_is_shown_somewhere(model):
    shown = {tap for _, _, taps in PARTS.values() for tap in taps}
    assert shown == set(model.taps())


def test_layers_and_cache(model):
    facts, text = layer_facts(model), model.config.text
    assert [f["donor"] for f in facts[-2:]] == [text.kv_donor(6), text.kv_donor(7)]
    assert facts[6]["kv_bytes"] == 0 and facts[0]["window"] == text.sliding_window
    # what an observed cache really holds, tokens beyond the window included
    cache = model.make_cache()
    mx.eval(model(mx.array([[2] * 50]), cache=cache))
    held = sum(a.nbytes for entry in cache for a in entry.state)
    assert sum(cache_bytes(facts, 50)) == held
    sliding, _ = cache_bytes(facts, 10_000)
    assert sliding == cache_bytes(facts, text.sliding_window)[0]


def test_snapshot_and_pictures(view):
    snapshot = view.snapshot()
    assert len(snapshot.page) < 1_500_000
    assert not [a for a in snapshot.answers.values() if "error" in a]
    assert view.snapshot_image().width == 2000
    assert b"Anatomy of" in view.answer_export("svg")[1]
