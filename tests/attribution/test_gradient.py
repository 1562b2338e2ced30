"""Attribution by gradients: torch's autograd, mx.grad, integrals, blocks, types."""

from types import SimpleNamespace

import gradient_reference
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from media_reference import clip, picture
from mlx.utils import tree_map

import gemma4_mlx as g4
from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.model.gemma4 import Model
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import MediaSpan, ModelInputs, expand

NAMES = ["e2b", "e2b_noshare", "moe", "dense31", "mm", "everything", "textonly", "textonly_moe"]
TOLERANCE = 1e-4  # of the largest value


def prompt_of(reference, model, which="ids"):
    """The reference's prompt as ``ModelInputs``, and its soft tokens by key."""
    ids, media, features = reference[which].tolist(), [], {}
    prefix = "" if which == "ids" else "corrupt_"
    for i in range(9):
        if f"start_{i}" not in reference:
            break
        start, soft = int(reference[f"start_{i}"]), reference[f"{prefix}soft_{i}"]
        kind = "audio" if ids[start] == model.config.audio_token_id else "image"
        span = MediaSpan(kind, start, start + len(soft), SimpleNamespace(), f"{which}{i}", kind, i)
        media.append(span)
        features[span.key] = mx.array(soft)
    return ModelInputs(ids, np.zeros(len(ids), np.uint8), media), features


def log_probability(said):
    """The log-probability of some ids, as a function of logits (m, V)."""

    def score(logits):
        rows = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return mx.take_along_axis(rows, mx.array(said)[:, None], axis=-1).sum()

    return score


def by_number(why, name="experts"):
    """Shares (or weights) of experts in the order of their numbers: (L, E)."""
    return np.take_along_axis(getattr(why, name), np.argsort(why.expert_ids, axis=-1), axis=-1)


def assert_agrees(why, reference, way):
    assert abs(why.total - reference[f"{way}_total"]) < TOLERANCE * 30
    experts = None if why.experts is None else by_number(why)
    for name in ("positions", "stream", "heads", "mlp", "per_layer", "experts"):
        found = experts if name == "experts" else getattr(why, name)
        assert (found is None) == (f"{way}_{name}" not in reference), name
        if found is not None:
            expected = reference[f"{way}_{name}"]
            assert found.shape == expected.shape
            error = np.abs(found - expected).max() / np.abs(expected).max()
            assert error < TOLERANCE, (name, error)


@pytest.mark.float32
@pytest.mark.parametrize("name", NAMES)
def test_torch_autograd_agrees(name, checkpoint):
    """Of every reference configuration, with pictures (one longer than the window) and sounds where
    it has them: every share of every source, in chunks and whole."""
    reference, model = gradient_reference.arrays(name), g4.load(checkpoint(name).folder)
    inputs, features = prompt_of(reference, model)
    n = len(inputs)
    target = dict(target=gradient_reference.TARGET, against=gradient_reference.AGAINST)
    target |= dict(position=gradient_reference.POSITION, media_features=features)
    for chunk in (2048, 13):
        why = g4.attribute(model, inputs, method="gradient", chunk=chunk, **target)
        assert_agrees(why, reference, "token")
    corrupt, theirs = prompt_of(reference, model, "corrupt")
    target["media_features"] = features | theirs
    why = g4.attribute(model, inputs, method="patching", corrupt=corrupt, chunk=29, **target)
    assert_agrees(why, reference, "patching")
    assert abs(why.base - reference["patching_base"]) < TOLERANCE * 30
    start, stop = (n + at for at in gradient_reference.SPAN)
    why = g4.attribute(
        model, inputs, log_probability(inputs.tokens[start:stop]), position=(start, stop),
        method="gradient", chunk=40, media_features=features,
    )  # fmt: skip
    assert_agrees(why, reference, "function")


def loaded(folder=None, **options):
    """A model without looked-up per-layer inputs, which mx.grad by embeddings leaves out."""
    model = g4.load(*([] if folder is None else [folder]), **options)
    silence_lookups(model)
    return model


def silence_lookups(model):
    if model.config.text.hidden_size_per_layer_input:
        table = model.language_model.model.embed_tokens_per_layer
        for name in {"weight", "scales", "biases"} & table.keys():
            table[name] = mx.zeros_like(table[name])


def whole_gradient(model, ids):
    """mx.grad of the last position's logit 7 by all embeddings at once, times these: (n,)."""
    tokens, language = mx.array(ids)[None], model.language_model

    def logit(x):
        hidden = model.hidden(tokens, input_embeddings=x)[:, -1]
        return language.uncapped(hidden)[0, 7]

    x = language.model.embed(tokens)
    return np.array((mx.grad(logit)(x) * x).sum(axis=-1)[0])


@pytest.mark.float32
def test_a_long_prompt_in_blocks():
    """Of more queries than a block holds, behind a window, as mx.grad of it all."""
    model = loaded()
    ids = np.random.default_rng(0).integers(10, 2000, 1100).tolist()
    why = g4.attribute(model, ids, 7, method="gradient", chunk=700)
    expected = whole_gradient(model, ids)
    assert np.abs(why.positions - expected).max() < 1e-4 * np.abs(expected).max()
    assert abs(why.embedding - expected.sum()) < 1e-4 * np.abs(expected).sum()
    whole = g4.attribute(model, ids, 7, method="gradient")
    assert np.abs(why.heads - whole.heads).max() < 1e-4 * np.abs(whole.heads).max()


@pytest.mark.float32
@pytest.mark.parametrize(
    "prompt, target",
    [
        ("Note: key 208. The key is 20", "8"),
        ("The cat sat on the", None),
        ([{"role": "user", "content": "Note: key 471. What is the key?"}], None),
        ([{"role": "user", "content": "What is 12 + 30?"}], None),
    ],
)
def test_an_integral_is_complete(prompt, target):
    """By default positions miss less than 0.6% of the rise from the baseline, rounding included,
    which control tokens have no part in."""
    why = g4.attribute(g4.load(), prompt, target, method="integrated")
    assert abs(why.remainder) < 0.006 * abs(why.total - why.base)
    control = why.tokens.of_kind("special")
    assert control.any() and not why.positions[control].any()
    assert why.heads is None and why.parts == []


@pytest.mark.float32
def test_an_integral_through_saturated_heads_is_complete():
    """A digit of one note against that of another: heads look at the notes with weights near 1."""
    model = g4.load()
    chat = g4.Chat(model)
    chat.send("Note: drum 471. Note: key 208. Note: stone 935.\nWhat is the note for key?",
              temperature=0, max_tokens=20)  # fmt: skip
    tokens = chat.trace(routing=None).tokens
    said = tokens.find("208")[-1].start
    two, four = (int(tokens.ids[tokens.find(note)[0].start]) for note in ("208", "471"))
    how = dict(against=four, position=said, method="integrated")
    why = g4.attribute(model, chat, two, **how)
    assert abs(why.remainder) < 0.01 * abs(why.total - why.base) and why.total > 10


@pytest.mark.float32
def test_more_steps_and_another_baseline():
    model, prompt = g4.load(), "Note: key 208. The key is 20"
    errors = [
        abs(g4.attribute(model, prompt, "8", method="integrated", steps=s).remainder)
        for s in (2, 80)
    ]
    assert errors[1] < 0.01 < errors[0]
    token = model.tokenizer.encode("8")[0]
    why = g4.attribute(model, prompt, "8", method="integrated", baseline="8", steps=2)
    assert not why.positions[why.tokens.ids == token].any()
    assert why.base != g4.attribute(model, prompt, "8", method="integrated", steps=2).base


@pytest.mark.float32
@pytest.mark.parametrize("name", ["everything", "dense31", "e2b"])
@pytest.mark.parametrize(
    "changes",
    [
        [g4.ScaleHeads(4, (0, 2), factor=0.3)],
        [g4.Steer(3, np.linspace(-1, 1, 128), tokens=(5, 30))],
        [g4.Patch(2, np.ones((9, 128)), tokens=(10, 19), tap="attention_output")],
        [g4.Patch(5, np.ones((1, 128)), tokens=(59, 60), tap="layer_input")],
        [g4.Knockout(None, keys=[3, 20, 40])],
        [g4.Knockout((1, 4), (1, 3), queries=(30, None), keys=(25, 50)), g4.Steer(6, np.ones(128))],
        [g4.Attend(None, (0, 1), keys=(8, 30), factor=4.0)],
    ],
)
def test_the_changed_run_is_explained(name, changes, checkpoint):
    """Under interventions, as mx.grad under them, in chunks."""
    model = loaded(checkpoint(name).folder)
    ids = checkpoint(name).ids[0, :60].tolist()
    plain = whole_gradient(model, ids)
    with model.intervene(*changes):
        why = g4.attribute(model, ids, 7, method="gradient", chunk=23)
        expected = whole_gradient(model, ids)
    assert np.abs(why.positions - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(plain - expected).max() > 1e-3 * np.abs(expected).max()
    assert why.interventions == tuple(change.key for change in changes)


@pytest.mark.float32
def test_experts_that_are_forced_and_ablated(checkpoint):
    model = loaded(checkpoint("moe").folder)
    ids = checkpoint("moe").ids[0, :40].tolist()
    with model.intervene(g4.Ablate(3, 5), g4.Force(6, (1, 2), tokens=(3, 30)), g4.Boost(8, 4)):
        why = g4.attribute(model, ids, 7, method="gradient", chunk=16)
        expected = whole_gradient(model, ids)
    assert np.abs(why.positions - expected).max() < 1e-4 * np.abs(expected).max()
    assert why.experts[3][why.expert_ids[3] == 5] == 0
    counts = np.zeros(16, int)
    np.add.at(counts, why.expert_ids[6], why.expert_weights[6] > 0)
    assert counts[1] == counts[2] == 1


def test_replaced_keys_have_no_gradient(checkpoint):
    """Nobody but a person's own intervention replaces them."""

    class Halved:
        key = "Halved()"

        def observer(self, model):
            return lambda name, layer, value, geometry: value / 2 if name == "keys" else None

    model = g4.load(checkpoint("moe").folder)
    with (
        model.intervene(Halved()),
        pytest.raises(g4.errors.AttributionError, match="replaces the keys of layer 11"),
    ):
        g4.attribute(model, [5, 6, 7], method="gradient")


@pytest.mark.float32
def test_before_a_norm_shares_sum_to_nothing():
    """A norm forgets the scale of its input: of a layer's heads, and of its experts."""
    why = g4.attribute(g4.load(), "Note: key 208. The key is 20", "8", method="gradient")
    for shares in (why.heads, why.experts):
        assert np.abs(shares.sum(axis=1)).max() < 1e-2 * np.abs(shares).max()


@pytest.mark.float32
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights(bits):
    """Derivatives by activations alone, as mx.grad has them."""
    model = loaded(bits=bits)
    ids = np.random.default_rng(1).integers(10, 1900, 150).tolist()
    why = g4.attribute(model, ids, 7, position=150, method="gradient", chunk=64)
    expected = whole_gradient(model, ids)
    assert np.abs(why.positions - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype, bound", [(mx.bfloat16, 0.2), (mx.float16, 0.02)])
@pytest.mark.parametrize("asked", ["Note: key 208. What is the note for key?", "What is 12 + 30?"])
def test_sixteen_bits(asked, dtype, bound):
    """What the module says of the precision that is lost."""
    prompt = [{"role": "user", "content": asked}]
    exact = g4.attribute(g4.load(dtype=mx.float32), prompt, method="gradient")
    said = int(exact.target[0])
    why = g4.attribute(g4.load(dtype=dtype), prompt, said, method="gradient")
    for name in ("positions", "heads", "mlp", "per_layer", "experts", "stream"):
        expected, found = getattr(exact, name), getattr(why, name)
        if name == "experts":
            weights = [by_number(one, "expert_weights") for one in (exact, why)]
            same = np.abs(weights[0] - weights[1]).max(axis=1) < 0.2  # no choice is another
            assert same.sum() > 4
            expected, found = by_number(exact)[same], by_number(why)[same]
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < bound * np.abs(expected).max(), name


@pytest.mark.float32
def test_a_picture_and_a_sound_as_they_lie():
    model = g4.load()
    config = model.config
    sight = load_image(picture(200, 480), model, budget=70)
    sound = load_audio(clip(16_000), model, rate=16_000)
    places = [5, 6, config.image_token_id, 7, config.audio_token_id, 8, 9]
    inputs = expand(places, [sight, sound], config)
    why = g4.attribute(model, inputs, method="gradient")
    seen, heard = inputs.media
    shown = why.picture(0)
    assert shown.shape == sight.soft_grid
    assert np.array_equal(shown.ravel(), why.positions[seen.start : seen.stop])
    shares, times = why.sound(1)
    assert np.array_equal(shares, why.positions[heard.start : heard.stop])
    assert np.array_equal(times, heard.times) and shares.any() and shown.any()
    assert [medium.ndim for medium in why.media] == [3, 1]


def test_memory_is_counted_before_anything_runs():
    model = g4.load()
    mx.eval(model.parameters())
    ids = np.random.default_rng(0).integers(10, 1900, 1500).tolist()
    for method, options in (("gradient", {}), ("patching", {"corrupt": [*ids[:-5], 9, *ids[-4:]]})):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        options |= dict(method=method, position=1500, chunk=256)
        why = g4.attribute(model, ids, 7, **options)
        took = mx.get_peak_memory() - before
        with pytest.raises(g4.errors.AttributionError, match=f"{method}' needs .* 1,500 tokens"):
            g4.attribute(model, ids, 7, memory=took, **options)
        assert why.total == g4.attribute(model, ids, 7, memory=4 * took, **options).total


def test_it_can_be_stopped():
    """By an exception from ``progress``, within a chunk or a layer; nothing goes on observing."""
    model, ids, seen = g4.load(), [5, 6, 7] * 200, []

    def stop(event):
        seen.append(event)
        if len(seen) == 5:
            raise InterruptedError("enough")

    for method, other in (("gradient", {}), ("patching", {"corrupt": [*ids[:-1], 9]})):
        seen.clear()
        with pytest.raises(InterruptedError, match="enough"):
            g4.attribute(model, ids, method=method, chunk=100, progress=stop, **other)
        assert len(seen) == 5
    g4.generation.engine().run(lambda: None)  # what was stopped has ended
    assert not model._taps.active


def test_weights_on_disk_have_no_gradient(tmp_path, checkpoint):
    model = g4.load(checkpoint("moe").folder, layers="disk")
    with pytest.raises(g4.errors.CheckpointError, match="'gradient' needs all weights in memory"):
        g4.attribute(model, [5, 6, 7], method="gradient")


@pytest.mark.float32
@settings(max_examples=15, phases=[Phase.generate])
@given(data=st.data())
def test_any_configuration_is_mx_grad(data):
    """Random shapes, weights, chunks, and targets before the end."""
    layers = data.draw(st.integers(1, 5))
    shared = data.draw(st.integers(0, layers - 1))
    kinds = ["sliding_attention", "full_attention"]
    types = ["full_attention"]  # as the last layer is; and so is one that it may share from
    for left in reversed(range(layers - 1)):
        sharing = left >= layers - shared or (shared and not left)
        types.insert(0, data.draw(st.sampled_from(kinds[1:] if sharing else kinds)))
    heads, groups = data.draw(st.sampled_from([(1, 1), (2, 1), (4, 2)]))
    text = {
        "model_type": "gemma4_text",
        "vocab_size": 96,
        "vocab_size_per_layer_input": 96,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "layer_types": types,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": data.draw(st.booleans()),
        "num_kv_shared_layers": shared,
        "head_dim": 32,
        "global_head_dim": 64,
        "sliding_window": data.draw(st.integers(1, 9)),
        "hidden_size_per_layer_input": 32 * data.draw(st.booleans()),
        "enable_moe_block": data.draw(st.booleans()),
        "num_experts": 6,
        "top_k_experts": 3,
        "moe_intermediate_size": 32,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 64,
        "tie_word_embeddings": data.draw(st.booleans()),
    }
    model, seed = Model(Gemma4Config.from_dict(text)), data.draw(st.integers(0, 99))
    keys = iter(mx.random.split(mx.random.key(seed), 999))

    def randomised(x):
        if x.ndim < 2:
            return mx.random.uniform(0.5, 1.5, x.shape, key=next(keys))
        return mx.random.normal(x.shape, key=next(keys)) * x.shape[-1] ** -0.5

    model.update(tree_map(randomised, model.parameters()))
    silence_lookups(model)
    n = data.draw(st.integers(2, 24))
    ids = np.random.default_rng(seed).integers(0, 96, n + 3).tolist()
    chunk = data.draw(st.integers(1, 30))
    why = g4.attribute(model, ids, 7, position=n, method="gradient", chunk=chunk)
    expected = whole_gradient(model, ids[:n])
    assert np.abs(why.positions[:n] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert not why.positions[n:].any()


def test_a_compiled_model_is_none():
    compiled, errors = mx.compile(g4.load()), g4.errors
    for error, call in (
        (errors.AttributionError, lambda: g4.attribute(compiled, [5, 6, 7], method="gradient")),
        (errors.AttributionError, lambda: g4.sweep(compiled, [5, 6, 7], [5, 8, 7])),
        (errors.AttributionError, lambda: g4.head_roles(compiled, [[5, 6, 7]])),
        (errors.TraceError, lambda: g4.trace(compiled, [5, 6, 7])),
        (errors.StudyError, lambda: g4.atlas(compiled, {"some": ["text"]})),
        (TypeError, lambda: g4.widgets.Anatomy(compiled)),
    ):
        with pytest.raises(error, match=r"not one within mx\.compile.*is no model"):
            call()
