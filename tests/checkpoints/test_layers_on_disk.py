"""Layers on disk: the same numbers, with one layer's matrices in memory at a time."""

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten

import gemma4_mlx as g4
from gemma4_mlx.errors import CheckpointError
from gemma4_mlx.generation.memory import chunk_for
from gemma4_mlx.verify import verify

HOW = {
    "as stored": {},
    "quantized while reading": dict(bits=4),
    "bfloat16": dict(dtype="bfloat16"),
    "block floating point": dict(mode="mxfp4"),
}


def checkpoint(folder, layout=lambda tensors: tensors):
    return tiny.save(folder, tiny.CONFIG, layout(tiny.weights(tiny.CONFIG)), 2)


@pytest.mark.parametrize("how", HOW)
def test_logits_are_the_same_bits(how, tmp_path):
    folder = checkpoint(tmp_path, lambda tensors: tiny.torch_layout(tensors, tiny.google))
    resident, model = g4.load(folder, **HOW[how]), g4.load(folder, layers="disk", **HOW[how])
    tokens = mx.array(np.random.default_rng(0).integers(3, 300, (1, 60)))
    assert mx.array_equal(resident(tokens), model(tokens))
    caches = resident.make_cache(kv_bits=8), model.make_cache(kv_bits=8)
    for m, cache in zip((resident, model), caches):
        m.read(tokens[:, :50], cache)
    for i in range(50, 60):
        step = tokens[:, i : i + 1]
        assert mx.array_equal(resident(step, caches[0]), model(step, caches[1]))
    assert resident.fingerprint == model.fingerprint


def matrices(model):
    return [
        name
        for name, array in tree_flatten(model.language_model.model.layers[1].parameters())
        if array.size and array.ndim > 1
    ]


def test_one_layer_is_in_memory(tmp_path):
    folder = checkpoint(tmp_path)
    model = g4.load(folder, layers="disk")
    other = checkpoint(tmp_path / "hub", lambda tensors: tiny.torch_layout(tensors, tiny.google))
    assert g4.load(other, layers="disk").on_disk.a_pass == model.on_disk.a_pass
    seen = []

    def look(name, layer, value, geometry):
        if name == "attention_input":
            seen.append([bool(a.size) for a in weights_of(model)])

    with model.observe(look):
        model(mx.arange(3, 30)[None])
    assert seen == np.eye(len(model.layers), dtype=bool).tolist()
    assert not matrices(model)
    on_disk = model.on_disk
    assert on_disk.reads.nbytes == on_disk.a_pass > on_disk.memory > 0
    model(mx.arange(3, 30)[None])
    assert on_disk.reads.nbytes == 2 * on_disk.a_pass
    assert "5 layers" in repr(on_disk) and "as measured" in repr(on_disk)


def weights_of(model):
    return [layer.self_attn.q_proj.weight for layer in model.layers]


def test_traces_and_answers_are_the_same():
    resident, model = g4.load(), g4.load(g4.load().folder, layers="disk")
    text = "Count from 3 to 6."
    told = [g4.Chat(m).send(text, temperature=0).text for m in (resident, model)]
    assert told[0] == told[1] and told[0]
    plan = g4.AttentionPlan(retain="none")
    traces = [g4.trace(m, text, attention=plan) for m in (resident, model)]
    assert np.array_equal(traces[0].routing.experts, traces[1].routing.experts)
    for layer in (0, 3):  # not kept: the prompt is read again, up to this layer
        rows = [trace.attention.row(layer, 0, -1) for trace in traces]
        assert np.array_equal(*rows)
    assert not matrices(model)


def test_a_long_prompt_is_read_in_few_passes():
    model = g4.load(layers="disk")
    passes, ids = model.on_disk.reads, [5, 6, 7] * 800
    plan = g4.AttentionPlan(retain="none")
    g4.trace(model, ids, attention=plan)
    assert passes.nbytes == model.on_disk.a_pass
    g4.trace(model, ids, attention=plan, chunk=1000)
    assert passes.nbytes == (1 + 3) * model.on_disk.a_pass
    assert chunk_for(model, 6000, None) == 8192 and chunk_for(g4.load(), 6000, None) == 2048
    assert chunk_for(model, 6000, 100) == 100


def test_an_error_within_a_layer_gives_its_matrices_back(tmp_path):
    model = g4.load(checkpoint(tmp_path), layers="disk")

    def fail(name, layer, value, geometry):
        if layer == 1 and name == "attention_output":
            raise KeyboardInterrupt

    with model.observe(fail), pytest.raises(KeyboardInterrupt):
        model(mx.arange(3, 30)[None])
    assert not matrices(model)


def test_a_damaged_file_is_named(tmp_path):
    folder = checkpoint(tmp_path)
    model = g4.load(folder, layers="disk")
    for file in folder.glob("*.safetensors"):
        with open(file, "r+b") as shortened:
            shortened.truncate(20_000)
    with pytest.raises(CheckpointError, match=r"\.safetensors|reading"):
        model(mx.arange(3, 30)[None])
    assert not matrices(model)


def test_what_needs_all_weights_says_so(tmp_path):
    model = g4.load(checkpoint(tmp_path / "a"), layers="disk")
    for needs in (lambda: g4.save(model, tmp_path / "b"), lambda: verify(model)):
        with pytest.raises(CheckpointError, match="needs all weights in memory"):
            needs()
    tokens = mx.arange(3, 40)[None]
    with pytest.raises(CheckpointError, match="cannot be compiled"):
        mx.eval(
            mx.compile(lambda x: model(tokens, input_embeddings=x))(
                model.language_model.model.embed(tokens)
            )
        )
