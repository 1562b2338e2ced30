"""Prompts of different lengths: refused with what differs, and made equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_reference import picture

import gemma4_mlx as g4
from gemma4_mlx.attribution import align
from gemma4_mlx.errors import AttributionError
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import expand


@pytest.fixture(scope="module")
def model():
    return g4.load()


def test_other_lengths_say_where(model):
    clean, corrupt = "Anna has an old red lamp.", "Ben has a quiet lamp."
    with pytest.raises(AttributionError) as refused:
        g4.attribute(model, clean, method="patching", corrupt=corrupt)
    said = str(refused.value)
    assert "attribution.align(model, prompt, corrupt)" in said and "They differ in length" in said
    assert "has 8 tokens" in said or "tokens and corrupt= has" in said
    pair = align(model, clean, corrupt)
    assert len(pair[0]) == len(pair[1])
    why = g4.attribute(model, pair[0], method="patching", corrupt=pair[1])
    same = [i for i, (a, b) in enumerate(zip(*pair)) if a == b]
    assert same and not why.positions[same].any() and why.positions.any()


@given(st.data())
def test_aligned_prompts_are_the_old_ones_filled_up(model, data):
    tokens = st.lists(st.integers(3, 9), min_size=1, max_size=12)
    old = data.draw(tokens), data.draw(tokens)
    new = align(model, *old, filler=2)
    assert len(new[0]) == len(new[1])
    for before, after in zip(old, new):
        assert [i for i in after if i != 2] == before
    if len(old[0]) == len(old[1]) and sum(a != b for a, b in zip(*old)) <= 1:
        assert new == old


def test_a_filler_is_one_token(model):
    pair = align(model, "a lamp", "an old lamp", " ")
    assert model.tokenizer.encode(" ")[0] in pair[0]
    assert model.config.text.pad_token_id in align(model, "a lamp", "an old lamp")[0]
    with pytest.raises(AttributionError, match="not one token"):
        align(model, "a", "an old", "208")


def test_an_answer_may_be_left_out(model):
    """What the corrupt prompt lacks behind the explained place is the clean one's."""
    ids = [5, 6, 7, 8, 9]
    long, short = (
        g4.attribute(model, ids, position=(3, 5), method="patching", corrupt=other)
        for other in ([5, 11, 7, 8, 9], [5, 11, 7])
    )
    assert np.array_equal(long.positions, short.positions) and long.base == short.base


def test_pictures_of_other_sizes(model):
    tokens = [5, model.config.image_token_id, 6, 7, 8]
    prompts = [
        expand(tokens[i:], [load_image(picture(64, 96), model, budget=70)], model.config)
        for i in (0, 1)
    ]
    prompts[1].tokens.append(9)
    with pytest.raises(AttributionError, match="other sizes or at other positions"):
        g4.attribute(model, prompts[0], method="patching", corrupt=prompts[1])
    with pytest.raises(AttributionError, match="pictures or sounds are not aligned"):
        align(model, prompts[0], "text")
