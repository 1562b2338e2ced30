"""Observing changes nothing; replacing changes what it should and ends with the block."""

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.model import ops
from gemma4_mlx.model.taps import NAMES, untouched

NAMES_OF_CONFIGS = ["e2b", "moe", "dense31", "everything"]


class Everything:
    """Keeps every value and does arithmetic beside the model."""

    def __init__(self):
        self.seen = {}

    def __call__(self, name, layer, value, geometry):
        assert isinstance(value, mx.array)
        self.seen.setdefault(name, {})[layer] = mx.eval(value * 2) or value.shape


@pytest.mark.parametrize("name", NAMES_OF_CONFIGS)
def test_observing_changes_no_bit(name, checkpoint):
    """Whole prompt, chunks and single tokens."""
    reference = checkpoint(name)
    model = g4.load(reference.folder)
    tokens = mx.array(reference.ids)

    def run():
        cache = model.make_cache()
        pieces = [tokens[:, :40], tokens[:, 40:97], *(tokens[:, i : i + 1] for i in (97, 98, 99))]
        return [np.array(model(tokens)), *(np.array(model(p, cache=cache)) for p in pieces)]

    plain = run()
    observer = Everything()
    with model.observe(observer):
        observed = run()
    for a, b in zip(plain, observed):
        assert np.array_equal(a, b)
    assert not model._taps.active

    text = model.config.text
    expected = set(NAMES)
    if not text.enable_moe_block:
        expected -= {n for n in NAMES if n.startswith(("router", "expert", "moe"))}
    if not text.hidden_size_per_layer_input:
        expected -= {n for n in NAMES if n.startswith("per_layer")}
    assert observer.seen.keys() == expected
    assert model.taps().keys() == NAMES.keys()
    layers = set(range(text.num_hidden_layers))
    for tap, shapes in observer.seen.items():
        assert shapes.keys() in ({None}, layers), tap


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_what_flows_keeps_the_models_type(dtype, checkpoint):
    """Scores, the weights made of them and logits are float32; nothing else may be widened."""
    reference = checkpoint("everything")
    model = g4.load(reference.folder, dtype=dtype)
    seen = {}

    def note(name, layer, value, geometry):
        seen.setdefault(name, set()).add(value.dtype)

    cache = model.make_cache()
    with model.observe(note):
        for start, stop in ((0, 50), (50, 51)):
            model(mx.array(reference.ids[:, start:stop]), cache=cache)
    expected = {name: {dtype} for name in NAMES}
    for name in ("router_logits", "router_probabilities", "expert_weights", "logits"):
        expected[name] = {mx.float32}
    expected |= {"tokens": seen["tokens"], "expert_indices": {mx.uint32}}
    assert seen == expected
    assert (
        {entry.keys.dtype for entry in cache} == {entry.values.dtype for entry in cache} == {dtype}
    )


def test_nothing_observing_adds_nothing(checkpoint):
    model = g4.load(checkpoint("e2b").folder)
    assert model._taps.at(3) is untouched
    x = mx.ones((2,))
    assert untouched("layer_output", x) is x


def test_replacing_a_value_and_leaving_after_an_error(checkpoint):
    reference = checkpoint("moe")
    model = g4.load(reference.folder)
    tokens = mx.array(reference.ids[:, :20])
    plain = np.array(model(tokens))

    def silence(name, layer, value, geometry):
        if name == "attention_output" and layer == 5:
            return mx.zeros_like(value)

    with pytest.raises(RuntimeError, match="boom"), model.observe(silence):
        assert not np.array_equal(np.array(model(tokens)), plain)
        raise RuntimeError("boom")
    assert np.array_equal(np.array(model(tokens)), plain)


def test_observers_nest_and_see_replaced_values(checkpoint):
    reference = checkpoint("e2b")
    model = g4.load(reference.folder)
    tokens = mx.array(reference.ids[:, :5])
    seen = []

    def double(name, layer, value, geometry):
        return value * 2 if name == "embeddings" else None

    def watch(name, layer, value, geometry):
        if name == "embeddings":
            seen.append(np.array(value.astype(mx.float32)))

    with model.observe(watch):
        model(tokens)
    with model.observe(double), model.observe(watch):
        model(tokens)
    assert np.allclose(seen[1], 2 * seen[0])


def test_replaced_keys_and_values_count_behind_a_quantized_cache(checkpoint, monkeypatch):
    """Also where decoding reads the cache's packed keys and values."""
    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    reference = checkpoint("everything")
    model = g4.load(reference.folder)
    tokens = mx.array(reference.ids)
    layer = next(i for i in range(len(model.layers)) if model.config.text.is_full(i))

    def decoded(silenced):
        def silence(name, at, value, geometry):
            return value * 0 if (name, at) == (silenced, layer) else None

        cache = model.make_cache(kv_bits=8)
        mx.eval(model(tokens[:, :50], cache=cache))
        with model.observe(silence):
            return np.array(model(tokens[:, 50:51], cache=cache))

    plain = decoded(None)
    for name in ("keys", "values"):
        assert not np.array_equal(decoded(name), plain), name
