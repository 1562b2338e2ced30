"""Direct attribution: parts sum to the logit, each is what it says, and removing them is real."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_reference import arrays, folder, picture
from mlx.utils import tree_map

import gemma4_mlx as g4
from gemma4_mlx.attribution.measure import removal
from gemma4_mlx.chat import Message, Text
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.errors import AttributionError, ContextError, TraceError
from gemma4_mlx.model.gemma4 import Model
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand

NAMES = ["e2b", "e2b_noshare", "moe", "dense31", "mm", "everything", "textonly", "textonly_moe"]
TOLERANCE = 1e-4  # of the largest logit


def uncapped(model, tokens, features=None):
    """(n, V) logits before the cap, of the whole prompt in one call."""
    hidden = model.hidden(mx.array(tokens)[None], features=features)
    return np.array(model.language_model.uncapped(hidden))[0]


def assert_sums(why, logits):
    """``logits`` (V,): what the model says there."""
    expected = logits[why.target[0]]
    if why.against is not None:
        expected = expected - logits[why.against[0]]
    bound = TOLERANCE * np.abs(logits).max()
    assert abs(sum(part.share for part in why.parts) - expected) <= bound
    assert abs(why.total - expected) <= bound and abs(why.remainder) <= bound


@pytest.mark.float32
@pytest.mark.parametrize("name", NAMES)
def test_the_parts_sum_to_the_logit(name, checkpoint):
    """Of every reference configuration, whose layer scalars are random: at the first position, in
    the middle, and of the likeliest next token, which is the one transformers finds."""
    reference = checkpoint(name)
    model, ids = g4.load(reference.folder), reference.ids[0].tolist()
    logits = uncapped(model, ids)
    assert len({layer.layer_scalar.item() for layer in model.layers}) > 1
    for position in (1, 50):
        assert_sums(g4.attribute(model, ids, position=position), logits[position - 1])
        why = g4.attribute(model, ids, 7, against=300, position=position, chunk=16)
        assert_sums(why, logits[position - 1])
    why = g4.attribute(model, ids)
    assert_sums(why, logits[-1])
    assert why.position == len(ids) and why.target[0] == reference.logits[0, -1].argmax()
    capped = 30 * np.tanh(why.total / 30)
    assert abs(capped - reference.logits[0, -1].max()) <= TOLERANCE * 30


@pytest.mark.float32
def test_the_unified_model():
    arrays("unified")  # makes the checkpoint
    model = g4.load(folder() / "unified")
    ids = np.random.default_rng(3).integers(10, 400, 40).tolist()
    assert_sums(g4.attribute(model, ids), uncapped(model, ids)[-1])


@pytest.mark.float32
@pytest.mark.parametrize("name", ["dense31", "everything"])
def test_beside_and_inside_a_picture(name, checkpoint):
    """Inside one, where positions see what follows, and behind it."""
    model = g4.load(checkpoint(name).folder)
    image = load_image(picture(200, 480), model, budget=70)
    inputs = expand([5, 6, 7, model.config.image_token_id, 8, 9, 10], [image], model.config)
    span = inputs.media[0]
    features = model.encode_image(mx.array(image.patches), image.positions)
    logits = uncapped(model, inputs.tokens, features)
    for position in (span.start, span.start + 5, span.stop, len(inputs)):
        why = g4.attribute(model, inputs, 11, position=position)
        assert_sums(why, logits[position - 1])
        one = why.check(1)[0]
        assert np.isfinite(one.measured) and one.measured != 0


def by_hand(model, ids, target):
    """The shares of the last position, in float64 numpy, weights and taps apart: {part: share}."""
    seen = {}

    def watch(name, layer, value, geometry):
        row = value[0, :, -1] if name == "head_outputs" else value[0, -1]
        kept = ("head_outputs", "embeddings", "mlp_output", "moe_output", "expert_indices",
                "expert_outputs", "expert_weights", "per_layer_output", "layer_output")  # fmt: skip
        if name in kept:
            seen[name, layer] = np.array(row).astype(np.float64)

    with model.observe(watch):
        mx.eval(model(mx.array(ids)[None]))
    decoder, shares = model.language_model.model, {}
    eps = model.config.text.rms_norm_eps
    last = len(decoder.layers) - 1
    scalars = [layer.layer_scalar.item() for layer in decoder.layers]

    def rms(x):
        return np.sqrt((x**2).mean() + eps)

    def share(vector, layer):
        x = vector * np.prod(scalars[layer:]) / rms(seen["layer_output", last])
        row = np.array(decoder.embed_tokens.weight[target])
        return float(row @ (np.array(decoder.norm.weight) * x))

    shares["embedding", None, None] = share(seen["embeddings", None], 0)
    for i, layer in enumerate(decoder.layers):
        weight = np.array(layer.self_attn.o_proj.weight).astype(np.float64)
        heads = seen["head_outputs", i]
        size = heads.shape[1]
        scale = np.array(layer.post_attention_layernorm.weight) / rms(weight @ heads.ravel())
        for h, output in enumerate(heads):
            vector = weight[:, h * size : (h + 1) * size] @ output
            shares["head", i, h] = share(vector * scale, i)
        mlp, gain = seen["mlp_output", i], 1
        if ("expert_outputs", i) in seen:
            each = seen["expert_outputs", i] * seen["expert_weights", i][:, None]
            scale = np.array(layer.post_feedforward_layernorm_2.weight) / rms(each.sum(0))
            both = mlp + seen["moe_output", i]
            gain = np.array(layer.post_feedforward_layernorm.weight) / rms(both)
            for expert, vector in zip(seen["expert_indices", i].astype(int), each):
                shares["expert", i, expert] = share(vector * scale * gain, i)
        shares["mlp", i, None] = share(mlp * gain, i)
        if ("per_layer_output", i) in seen:
            shares["per_layer", i, None] = share(seen["per_layer_output", i], i)
    return shares


@pytest.mark.float32
@pytest.mark.parametrize("name", ["e2b", "moe", "everything"])
def test_each_share_is_what_that_part_wrote(name, checkpoint):
    reference = checkpoint(name)
    model, ids = g4.load(reference.folder), reference.ids[0].tolist()
    why = g4.attribute(model, ids, 300)
    expected = by_hand(model, ids, 300)
    found = {(part.kind, part.layer, part.index): part.share for part in why.parts}
    assert found.keys() == expected.keys()
    assert max(abs(found[key] - expected[key]) for key in found) < 1e-4 * 30
    if why.experts is not None:
        assert (np.diff(why.expert_weights, axis=1) <= 0).all()


@pytest.mark.float32
@settings(max_examples=12)
@given(
    layers=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4]),
    experts=st.booleans(),
    per_layer=st.booleans(),
    tied=st.booleans(),
    cap=st.sampled_from([None, 30.0]),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_configuration_sums(layers, heads, experts, per_layer, tied, cap, packed, seed):
    """Random shapes and weights, the weights packed to 4 bits or not."""
    text = {
        "model_type": "gemma4_text",
        "vocab_size": 96,
        "vocab_size_per_layer_input": 96,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "layer_types": ["sliding_attention"] * (layers - 1) + ["full_attention"],
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 0,
        "head_dim": 64,
        "global_head_dim": 64,
        "sliding_window": 4,
        "hidden_size_per_layer_input": 32 if per_layer else 0,
        "enable_moe_block": experts,
        "num_experts": 6,
        "top_k_experts": 3,
        "moe_intermediate_size": 32,
        "final_logit_softcapping": cap,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
    }
    model, key = Model(Gemma4Config.from_dict(text)), mx.random.key(seed)

    def randomised(x):
        nonlocal key
        key, now = mx.random.split(key)
        if x.ndim == 1:
            return mx.random.uniform(0.5, 1.5, x.shape, key=now)
        return mx.random.normal(x.shape, key=now) * x.shape[-1] ** -0.5

    model.update(tree_map(randomised, model.parameters()))
    if packed:
        mx.eval(model.parameters())
        from mlx import nn

        nn.quantize(model, 32, 4, class_predicate=lambda path, _: path.endswith("_proj"))
    ids = np.random.default_rng(seed).integers(0, 96, 9).tolist()
    logits = uncapped(model, ids)
    assert_sums(g4.attribute(model, ids), logits[-1])
    assert_sums(g4.attribute(model, ids, 3, against=5, position=4, chunk=2), logits[3])


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_sixteen_bits_leave_a_small_remainder(dtype):
    """The shares are float32's; what the run rounded away stands in the remainder."""
    exact = g4.attribute(g4.load(), "Note: key 208.")
    why = g4.attribute(g4.load(dtype=dtype), "Note: key 208.", exact.target[0])
    assert abs(why.remainder) < 0.02 * abs(why.total)
    assert np.abs(why.heads - exact.heads).max() < 0.1 * np.abs(exact.heads).max()


@pytest.mark.float32
def test_the_changed_run_is_explained(checkpoint):
    """What was silenced has no share, what was scaled or steered counts as it was, and a vector
    that no part wrote is the remainder."""
    model, ids = g4.load(checkpoint("everything").folder), checkpoint("everything").ids[0].tolist()
    plain = g4.attribute(model, ids, 300)
    expert = int(plain.expert_ids[3, 0])
    with model.intervene(g4.Ablate(3, expert), g4.ScaleHeads(7, 1)):
        why = g4.attribute(model, ids, 300)
        assert_sums(why, uncapped(model, ids)[-1])
    assert why.heads[7, 1] == 0 and plain.heads[7, 1] != 0
    assert [p.share for p in why.parts if (p.kind, p.layer, p.index) == ("expert", 3, expert)] == [
        0
    ]
    assert len(why.interventions) == 2 and plain.interventions == ()
    vector = np.random.default_rng(0).normal(size=128).astype(np.float32)
    with model.intervene(g4.Steer(7, vector)):
        steered = g4.attribute(model, ids, 300)
        assert abs(steered.total - uncapped(model, ids)[-1, 300]) < 1e-3
    assert abs(steered.remainder) > 0.1


@pytest.mark.float32
@pytest.mark.parametrize("name", ["everything", "dense31"])
def test_a_check_really_removes(name, checkpoint):
    """As the intervention does in a run of its own, and as many others beside."""
    model, ids = g4.load(checkpoint(name).folder), checkpoint(name).ids[0, :40].tolist()
    why, at = g4.attribute(model, ids, 300, against=7, position=30), 29
    said = []
    effects = why.check(3, said.append)
    asked = [e for e in effects if not e.control]
    assert [(e.kind, e.layer, e.index, e.share) for e in asked] == [
        (p.kind, p.layer, p.index, p.share) for p in why.top(3)
    ]
    others = {(e.kind, e.layer, e.index) for e in effects if e.control}
    assert others and not others & {(e.kind, e.layer, e.index) for e in asked}

    def difference():
        row = uncapped(model, ids)[at]
        return row[300] - row[7]

    whole = difference()
    for effect in effects:
        with model.intervene(removal(effect, (at, at + 1))):
            assert abs(whole - difference() - effect.measured) < 2e-3
    assert said and why.check(3) == effects and not model.interventions


def test_what_can_no_longer_be_checked(checkpoint):
    model = g4.load(checkpoint("moe").folder)
    why = g4.attribute(model, [3, 4, 5])
    with (
        model.intervene(g4.Boost(0, 1)),
        pytest.raises(AttributionError, match="runs under Boost"),
    ):
        why.check()
    del model
    with pytest.raises(AttributionError, match="no longer in memory"):
        why.check()


def test_a_token_of_an_answer():
    """By text, by place, where the answer says it first; the next one where none has begun."""
    model = g4.load()
    chat = g4.Chat(model)
    chat.messages = [
        Message("user", [Text("Note: key 208. What is the key?")]),
        Message("assistant", [Text("208, I say 208.")]),
    ]
    tokens = chat.inputs().tokens
    texts = [model.tokenizer.token_text(i) for i in tokens]
    begin = texts.index("model") + 2
    logits = uncapped(model, tokens)
    first = g4.attribute(model, chat)
    assert (first.position, first.target) == (begin, (tokens[begin], "2"))
    why = g4.attribute(model, chat, "8", against="9")
    assert why.position == begin + 2 and why.against[1] == "9"
    assert_sums(why, logits[begin + 1])
    assert g4.attribute(model, chat, tokens[begin + 2]).position == begin + 2
    late = g4.attribute(model, chat, position=-3)
    assert (late.position, late.target[0]) == (len(tokens) - 3, tokens[-3])
    with pytest.raises(AttributionError, match=f"does not say '7'.*{begin} to {len(tokens)}"):
        g4.attribute(model, chat, "7")
    assert g4.attribute(model, chat, "7", position=begin).target[1] == "7"
    asked = [{"role": "user", "content": "Hello"}]
    assert g4.attribute(model, asked, "7").position > 5
    end = g4.attribute(model, asked, "<turn|>")
    assert end.target == (model.tokenizer.special_ids["<turn|>"], "<turn|>")


def test_other_wrong_arguments(checkpoint):
    model = g4.load(checkpoint("textonly").folder)
    with pytest.raises(AttributionError, match="str is no model"):
        g4.attribute("a prompt", model)
    with pytest.raises(AttributionError, match="needs a tokenizer"):
        g4.attribute(model, [5, 6], "a")
    with pytest.raises(TraceError, match="needs a tokenizer"):
        g4.attribute(model, "text")
    with pytest.raises(ContextError, match="context is 4,096"):
        g4.attribute(model, [5] * 4097)
    with pytest.raises(AttributionError, match="no kind of part 'heads'"):
        g4.attribute(model, [5, 6]).top(3, "heads")


def test_logits_that_are_not_finite():
    model = g4.load()
    model.language_model.model.norm.weight = mx.full((model.config.text.hidden_size,), mx.nan)
    with pytest.raises(AttributionError, match=r"explained is not finite \(nan\)"):
        g4.attribute(model, [5, 6], 7)


@pytest.mark.float32
def test_with_a_low_rank_update(checkpoint):
    """The update of ``o_proj`` belongs to the heads, each its part."""
    from mlx_lm.tuner.lora import LoRALinear

    model = g4.load(checkpoint("moe").folder)
    for layer in model.layers:
        changed = LoRALinear.from_base(layer.self_attn.o_proj, r=4, scale=2.0)
        changed.lora_b = mx.random.normal(changed.lora_b.shape, key=mx.random.key(1)) * 0.1
        layer.self_attn.o_proj = changed
    model.eval()
    ids = checkpoint("moe").ids[0, :30].tolist()
    assert_sums(g4.attribute(model, ids), uncapped(model, ids)[-1])
