"""What a plan did not keep, computed later by running the model again: the same, to the bit."""

import gc

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.errors import TraceError
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand

IDS = np.random.default_rng(0).integers(3, 490, 90).tolist()


def traced(model, prompt=IDS, **plan):
    plan = g4.AttentionPlan(bins=9, **plan)
    return g4.trace(model, prompt, attention=plan, routing=None, chunk=40).attention


@pytest.fixture(scope="module", params=["everything", "e2b"])
def model(request, checkpoint):
    return g4.load(checkpoint(request.param).folder)


def assert_same(kept, computed, heads=(0, 3)):
    for layer in kept.layers:
        for head in heads:
            for array in ("queries", "keys"):
                ours, theirs = getattr(computed, array), getattr(kept, array)
                assert np.array_equal(ours(layer, head, (5, 80)), theirs(layer, head, (5, 80)))
            assert np.array_equal(computed.row(layer, head, 77), kept.row(layer, head, 77))
            tile = (layer, head, (30, 71), (2, 60), (16, 16), "max")
            assert np.array_equal(computed.tile(*tile), kept.tile(*tile))


@pytest.mark.parametrize("room", [2**30, 10])
def test_rows_and_tiles_are_those_of_kept_vectors(model, room):
    """Whole layers where there is room, else only the rectangle that was asked for."""
    kept, later = traced(model, retain="all"), traced(model, retain="none")
    later.room = room
    assert later.exactness(2) == "on demand" and kept.exactness(2) == "kept"
    assert_same(kept, later)
    assert later.exactness(2) == ("kept" if room > 10 else "on demand")


def test_the_prompt_is_read_once_for_several_layers_and_no_further_than_the_last(model):
    later, seen, layers = traced(model, retain="none"), [], set()
    with model.observe(lambda name, layer, value, geometry: layers.add(layer)):
        later.compute(2, 1, progress=lambda p: seen.append((p.done, p.total)))
    assert seen == [(40, 90), (80, 90), (90, 90)]
    assert layers == {None, 0, 1, 2}
    assert later.exactness(1) == later.exactness(2) == "kept" and later.exactness(3) == "on demand"
    later.compute(1, 2, progress=seen.append)
    assert len(seen) == 3 and later.why_not(1) is None


def test_find_keeps_two_spans_of_every_layer(model):
    kept, later = traced(model, retain="all"), traced(model, retain="full")
    assert later.find((80, 90), slice(30, 33)) == kept.find((80, 90), slice(30, 33))
    at_hand = later.find((80, 90), slice(30, 33), compute=False)
    assert {each.layer for each in at_hand} == set(later.retained)


def test_the_layer_used_longest_ago_makes_room(model):
    later = traced(model, retain="none")
    later.room = later._size(0) + later._size(1)
    later.compute(0, 1)
    later.row(0, 0, 5)
    later.compute(3)
    assert later.exactness(0) == "kept" and later.exactness(1) == "on demand"
    with pytest.raises(TraceError, match=r"layers 1, 2 take .* compute fewer"):
        later.compute(0, 1, 2, 3)


def test_media_are_read_again(checkpoint):
    model = g4.load(checkpoint("everything").folder)
    pixels = np.random.default_rng(1).integers(0, 255, (192, 288, 3), dtype=np.uint8)
    image = load_image(pixels, model, budget=70)
    inputs = expand([*IDS, model.config.image_token_id, *IDS], [image], model.config)
    assert_same(traced(model, inputs, retain="all"), traced(model, inputs, retain="none"))


def test_bfloat16_is_read_as_numbers():
    model = g4.load()
    model.set_dtype(mx.bfloat16)
    kept, later = traced(model, retain="all"), traced(model, retain="none")
    assert kept.layer(0).queries.dtype == np.uint16
    assert kept.queries(0, 0, (3, 9)).dtype == np.float32
    assert_same(kept, later)


def test_only_the_same_model_runs_again(checkpoint):
    model = g4.load(checkpoint("everything").folder)
    later = traced(model, retain="none")
    with model.intervene(g4.ScaleHeads(1, [0])):
        assert later.exactness(0) == "pooled" and "runs under ScaleHeads" in later.why_not(0)
        with pytest.raises(TraceError, match="ran under none then"):
            later.compute(0)
        scaled = traced(model, retain="none")
        scaled.compute(3)
    assert later.exactness(0) == "on demand" and scaled.exactness(2) == "pooled"
    model.layers[2].self_attn.q_norm.weight = model.layers[2].self_attn.q_norm.weight * 1.5
    later.compute(1)
    with pytest.raises(TraceError, match="layer 2 than when this was traced"):
        later.compute(2)
    del model
    gc.collect()
    with pytest.raises(TraceError, match="no longer in memory"):
        later.compute(4)
    assert later.overview(4, 0).shape == (9, 9)


def test_a_saved_trace_has_no_model(model, tmp_path):
    trace = g4.trace(model, IDS, attention=g4.AttentionPlan(retain="full"), routing=None)
    back = g4.open_trace(trace.save(tmp_path / "t.g4trace")).attention
    (full, *_) = trace.attention.retained
    assert trace.attention.exactness(0) == "on demand" and back.exactness(0) == "pooled"
    assert back.exactness(full) == "kept"
    assert r"retain=(0,)" in back.why_not(0) and "no model is at hand" in back.why_not(0)


def test_a_run_can_be_stopped(model):
    later = traced(model, retain="none")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        later.compute(3, progress=stop)
    assert later.exactness(3) == "on demand"
    later.compute(3)
    assert later.exactness(3) == "kept"
