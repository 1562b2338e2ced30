"""Attribution by gradients: torch's autograd, mx.grad, integrals, blocks, types."""

from types import SimpleNamespace

import gradient_reference
import mlx.core as mx
import numpy as np
import pytest

import gemma4_mlx as g4
from gemma4_mlx.processing.inputs import MediaSpan, ModelInputs

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


def assert_agrees(why, reference, way):
    assert abs(why.total - reference[f"{way}_total"]) < TOLERANCE * 30
    experts = why.experts
    if experts is not None:
        experts = np.take_along_axis(why.experts, np.argsort(why.expert_ids, axis=-1), axis=-1)
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


def whole_gradient(model, ids):
    """mx.grad of the last position's logit 7 by all embeddings at once: (n, H)."""
    tokens, language = mx.array(ids)[None], model.language_model

    def logit(x):
        hidden = model.hidden(tokens, input_embeddings=x)[:, -1]
        return language.uncapped(hidden)[0, 7]

    x = language.model.embed(tokens)
    return np.array((mx.grad(logit)(x) * x).sum(axis=-1)[0])


@pytest.mark.float32
def test_a_long_prompt_in_blocks():
    """Of more queries than a block holds, behind a window, as mx.grad of it all. The looked-up
    per-layer inputs, which that leaves out, are what the embeddings' share leaves of a position."""
    model = g4.load()
    model.language_model.model.embed_tokens_per_layer.weight *= 0
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
    """At the default number of steps positions miss less than 1% of the rise from the baseline,
    which control tokens have no part in."""
    why = g4.attribute(g4.load(), prompt, target, method="integrated")
    assert abs(why.remainder) < 0.01 * abs(why.total - why.base)
    control = why.tokens.of_kind("special")
    assert control.any() and not why.positions[control].any()
    assert why.heads is None and why.parts == []


@pytest.mark.float32
def test_more_steps_and_another_baseline():
    model, prompt = g4.load(), "Note: key 208. The key is 20"
    errors = [
        abs(g4.attribute(model, prompt, "8", method="integrated", steps=s).remainder)
        for s in (2, 40)
    ]
    assert errors[1] < 0.01 < errors[0]
    token = model.tokenizer.encode("8")[0]
    why = g4.attribute(model, prompt, "8", method="integrated", baseline="8", steps=2)
    assert not why.positions[why.tokens.ids == token].any()
    assert why.base != g4.attribute(model, prompt, "8", method="integrated", steps=2).base
