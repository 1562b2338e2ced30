"""The text decoder against transformers, float32: every way of feeding the same tokens."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.model.cache import rewind

NAMES = ["e2b", "e2b_noshare", "moe", "dense31", "everything", "textonly", "textonly_moe"]
WINDOW = 16
TOLERANCE = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def loaded():
    """One model a name, loaded on first use."""
    models = {}

    def get(reference):
        key = str(reference.folder)
        if key not in models:
            models[key] = g4.load(reference.folder)
        return models[key]

    return get


def feed(model, tokens, sizes, cache=None):
    """Logits of all tokens, given in pieces of the sizes, the last size repeating."""
    cache = model.make_cache() if cache is None else cache
    out, start, sizes = [], 0, list(sizes)
    while start < tokens.shape[1]:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        out.append(model(tokens[:, start : start + size], cache=cache))
        mx.eval(out[-1])
        start += size
    return np.array(mx.concatenate(out, axis=1))


def assert_close(got, expected):
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert (got.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.float32
@pytest.mark.parametrize("name", NAMES)
def test_whole_prompt_without_a_cache(name, checkpoint, loaded):
    reference = checkpoint(name)
    model = loaded(reference)
    assert_close(np.array(model(mx.array(reference.ids))), reference.logits)


@pytest.mark.float32
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sizes", [[1], [7], [WINDOW - 1], [WINDOW], [WINDOW + 1], [3, 40, 1, 1, 20, 35]], ids=str
)
def test_pieces_through_the_cache(name, sizes, checkpoint, loaded):
    reference = checkpoint(name)
    model = loaded(reference)
    assert_close(feed(model, mx.array(reference.ids), sizes), reference.logits)


@pytest.mark.float32
@pytest.mark.parametrize("name", NAMES)
def test_batch_of_unequal_lengths(name, checkpoint, loaded):
    reference = checkpoint(name)
    model = loaded(reference)
    lengths = (11, 30, 57)
    rows = [getattr(reference, f"row{i}_ids")[0] for i in range(3)]
    expected = [getattr(reference, f"row{i}_logits")[0] for i in range(3)]
    padding = [max(lengths) - n for n in lengths]
    prompts = np.zeros((3, max(lengths)), np.int32)
    for i, n in enumerate(lengths):
        prompts[i, padding[i] :] = rows[i][:n]
    cache = model.make_cache(left_padding=padding)
    got = np.array(model(mx.array(prompts), cache=cache))
    for i, n in enumerate(lengths):
        assert_close(got[i, padding[i] :], expected[i][:n])
    for step in range(24):
        tokens = np.array([[rows[i][n + step]] for i, n in enumerate(lengths)])
        got = np.array(model(mx.array(tokens), cache=cache))
        for i, n in enumerate(lengths):
            assert_close(got[i, 0], expected[i][n + step])


@pytest.mark.float32
@pytest.mark.parametrize("name", ["e2b", "moe", "everything"])
def test_short_rewind_continues_differently(name, checkpoint, loaded):
    """Up to 64 tokens back need no snapshot, also far past the window."""
    reference = checkpoint(name)
    model = loaded(reference)
    tokens = mx.array(reference.ids)
    other = mx.concatenate([tokens[:, :60], tokens[:, :30]], axis=1)
    expected = np.array(model(other))[:, 60:]
    cache = model.make_cache()
    feed(model, tokens, [33, 1], cache)  # to 100
    assert rewind(cache, 60)
    assert_close(feed(model, other[:, 60:], [9, 1], cache), expected)


def test_rewind_further_than_the_window_is_refused_whole(checkpoint, loaded):
    """A sliding layer has forgotten; no layer may then be touched (generation's prompt cache
    goes back to a snapshot instead)."""
    reference = checkpoint("e2b")
    model = loaded(reference)
    cache = model.make_cache()
    feed(model, mx.array(np.tile(reference.ids, 3)), [250, 40, 1], cache)
    offsets = [entry.offset for entry in cache]
    assert not rewind(cache, 20)
    assert [entry.offset for entry in cache] == offsets == [300] * len(cache)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["e2b", "everything"])
def test_snapshot_restores_any_position(name, checkpoint, loaded):
    reference = checkpoint(name)
    model = loaded(reference)
    tokens = mx.array(np.tile(reference.ids, 3))
    cache = model.make_cache()
    feed(model, tokens[:, :40], [40], cache)
    kept = [entry.snapshot() for entry in cache]
    feed(model, tokens[:, 40:], [100, 1, 1, 1, 157], cache)
    for entry, snapshot in zip(cache, kept):
        entry.restore(snapshot) if snapshot is not None else entry.rewind(40)
    expected = np.array(model(tokens[:, :90]))[:, 40:]
    assert_close(feed(model, tokens[:, 40:90], [5, 1, 1, 43], cache), expected)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["e2b", "moe", "everything"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_full_attention_cache_runs(name, bits, checkpoint, loaded):
    """Shared layers included; the first chunk's own keys are already quantized, so only close."""
    reference = checkpoint(name)
    model = loaded(reference)
    cache = model.make_cache(kv_bits=bits)
    got = feed(model, mx.array(reference.ids), [50, 30, 1, 1, 18], cache)
    error = np.abs(got - reference.logits).mean() / np.abs(reference.logits).max()
    assert error < {8: 0.01, 4: 0.06}[bits]  # random routers flip easily
    assert any(type(entry).__name__ == "QuantizedKVCache" for entry in cache)


@pytest.mark.float32
def test_packed_decoding_equals_unpacking(checkpoint, loaded, monkeypatch):
    """What a GPU does with a quantized cache, against what the CPU does, on the same contents.

    Not two runs of the model: a last digit of one layer puts a later layer's key on the other side
    of a rounding step, and from there on the two caches hold different numbers.
    """
    from gemma4_mlx.model import ops

    reference = checkpoint("everything")
    model = loaded(reference)
    errors, packed_attention = [], ops.packed_attention

    def both(q, k, v, kv, cache, mask):
        packed = packed_attention(q, k, v, kv, cache, mask)
        unpacked = ops.attention(q, k, v, mask)
        errors.append((mx.abs(packed - unpacked).max() / mx.abs(unpacked).max()).item())
        return packed

    monkeypatch.setattr(ops, "on_cpu", lambda: False)
    monkeypatch.setattr(ops, "packed_attention", both)
    feed(model, mx.array(reference.ids), [60, 5, 1, 1, 33], model.make_cache(kv_bits=8))
    full = sum(map(model.config.text.is_full, range(len(model.layers))))
    assert len(errors) == 3 * full and max(errors) < 1e-5


@pytest.mark.parametrize("name", ["e2b", "moe", "dense31", "everything"])
def test_bfloat16_is_as_close_to_the_truth_as_the_references_own(name, checkpoint):
    """0.70 to 1.21 times as far from float32: MLX's norm rounds before it multiplies, theirs after,
    which is enough to send some tokens to other experts."""
    reference = checkpoint(name)
    model = g4.load(reference.folder, dtype=mx.bfloat16)
    assert model.dtype == mx.bfloat16
    got = np.array(model(mx.array(reference.ids)).astype(mx.float32))
    ours, theirs = (np.abs(x - reference.logits).mean() for x in (got, reference.logits_bf16))
    assert ours <= 1.3 * theirs


def test_sliding_cache_stays_within_its_window(checkpoint, loaded):
    reference = checkpoint("e2b")
    model = loaded(reference)
    cache = model.make_cache()
    feed(model, mx.array(np.tile(reference.ids, 6)), [240] + [1] * 20 + [200, 1, 1, 138], cache)
    feed(model, mx.array(reference.ids[:, :1]), [1], cache)
    sliding = [e for i, e in enumerate(cache) if not model.config.text.is_full(i)]
    assert max(entry.keys.shape[2] for entry in sliding) <= WINDOW + 64 + 256
    assert len(cache) == model.config.text.first_kv_shared_layer


def test_mlx_lm_generates_with_it(checkpoint, loaded):
    """mlx-lm's own loop over our model gives the tokens that plain argmax gives."""
    from mlx_lm.generate import generate_step

    reference = checkpoint("everything")
    model = loaded(reference)
    prompt = mx.array(reference.ids[0, :40])
    theirs = [int(t) for t, _ in generate_step(prompt, model, max_tokens=12, prefill_step_size=16)]
    tokens = reference.ids[0, :40].tolist()
    for _ in range(12):
        tokens.append(int(mx.argmax(model(mx.array([tokens]))[0, -1])))
    assert theirs == tokens[40:]


def test_gradients_flow(checkpoint, loaded):
    """mlx-lm's LoRA tuner trains through the model, experts included."""
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    reference = checkpoint("everything")
    model = g4.load(reference.folder)
    model.freeze()
    linear_to_lora_layers(
        model, 2, {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    )
    import mlx.nn as nn

    tokens = mx.array(reference.ids[:, :24])

    def loss(model):
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")

    value, gradients = nn.value_and_grad(model, loss)(model)
    sizes = [float(mx.abs(g).max()) for _, g in tree_flatten(gradients)]
    assert float(value) > 0 and len(sizes) == 4 and max(sizes) > 0


def test_both_spellings_of_the_configuration_are_one(checkpoint):
    """transformers saves per_layer_config; the hub has global_head_dim: the same model."""
    from gemma4_mlx.config import Gemma4Config

    saved = Gemma4Config.from_file(checkpoint("dense31").folder)
    hub = {k: v for k, v in saved.raw["text_config"].items() if k != "per_layer_config"}
    hub |= {"global_head_dim": 128, "num_global_key_value_heads": 1}
    again = Gemma4Config.from_dict({**saved.raw, "text_config": hub})
    assert dataclasses.replace(again, raw={}) == dataclasses.replace(saved, raw={})
