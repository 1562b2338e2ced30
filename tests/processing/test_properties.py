"""What holds for any text, conversation, picture and sound (hypothesis chooses them)."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from gemma4_mlx.processing.audio import make_input, resample, split_quietly
from gemma4_mlx.processing.image import load_image, target_size
from gemma4_mlx.processing.settings import BUDGETS, AudioSettings, ImageSettings
from gemma4_mlx.processing.template import render
from gemma4_mlx.processing.tokenizer import CONTROL_TOKENS, Tokenizer

quick = settings(max_examples=60, deadline=None, derandomize=True)
#: Any text but a literal ▁, which the vocabulary spells a space with.
ANY_TEXT = st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=40)
TEXT = st.lists(ANY_TEXT | st.sampled_from([*CONTROL_TOKENS, "<", "|>"]), max_size=5).map("".join)


@cache
def tokenizer():
    root = Path(__file__).parents[2]
    return Tokenizer.from_folder(root / "gemma4_mlx" / "teaching" / "checkpoint")


@quick
@given(TEXT)
def test_any_text_comes_back_and_is_no_control_token(text):
    ids = tokenizer().encode(text)
    assert tokenizer().decode(ids) == text
    assert not set(ids) & set(tokenizer().special_ids.values())
    reader = tokenizer().detokenizer()
    assert "".join([*map(reader.add, ids), reader.finish()]) == text


@quick
@given(st.lists(st.integers(0, 2000), max_size=30))
def test_any_ids_stream_to_what_they_decode_to(ids):
    reader = tokenizer().detokenizer()
    assert "".join([*map(reader.add, ids), reader.finish()]) == tokenizer().decode(ids)


@st.composite
def conversations(draw):
    """A conversation and the texts in it, in the order of the turns."""
    messages, texts = [], []
    roles = ["system"] * draw(st.booleans()) + ["user", "assistant"] * draw(st.integers(1, 3))
    for role in roles[: draw(st.integers(1, len(roles)))]:
        texts.append(draw(TEXT))
        parts = [{"type": "text", "text": texts[-1]}]
        messages.append({"role": role, "content": draw(st.sampled_from([texts[-1], parts]))})
    return messages, texts


@quick
@given(conversations())
def test_nothing_said_opens_or_closes_a_turn(conversation):
    """The control tokens of a rendered conversation are those of one that says nothing."""
    messages, texts = conversation
    spoken = render(messages)
    silent = render([{**message, "content": "x"} for message in messages])

    def controls(rendered):
        ids = rendered.encode(tokenizer())
        # Templates take out thoughts, which is what a model's text with markers looks like.
        return [i for i in ids if tokenizer().is_special(i)]

    if not any("channel" in text for text in texts):
        assert controls(spoken) == controls(silent)
        assert all(text.strip() in spoken.text for text in texts)
    opened = tokenizer().special_ids["<|turn>"]
    assert controls(spoken).count(opened) == controls(silent).count(opened)


@quick
@given(st.integers(1, 60_000), st.integers(1, 60_000), st.sampled_from(BUDGETS))
def test_every_shape_has_a_size_within_its_budget(height, width, budget):
    rows, columns = (side / 48 for side in target_size(height, width, ImageSettings(), budget))
    assert rows == int(rows) >= 1 and columns == int(columns) >= 1
    assert rows * columns <= budget
    if rows > 1 and columns > 1:  # neither side is short by more than the cell it lost
        scale = (budget / (height * width)) ** 0.5
        assert rows <= height * scale < rows + 1 and columns <= width * scale < columns + 1


pictures = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)), elements={}
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(pictures, st.sampled_from(BUDGETS[:2]), st.sampled_from(["PNG", "BMP", "TIFF"]))
def test_any_picture_is_the_same_from_an_array_and_a_file(pixels, budget, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    ours, theirs = load_image(pixels, budget=budget), load_image(file.getvalue(), budget=budget)
    assert ours.key == theirs.key and np.array_equal(ours.pixels, theirs.pixels)
    assert ours.original_size == pixels.shape[1::-1]
    assert len(ours.boxes) == ours.n_soft <= budget
    assert ours.patches.shape == (ours.n_soft * 9, 768)
    # The cells tile the original: together they are as large as it is.
    left, top, right, bottom = ours.boxes.T
    np.testing.assert_allclose(((right - left) * (bottom - top)).sum(), pixels[..., 0].size, 1e-3)
    assert ours.patches.min() >= 0 and ours.patches.max() <= 1


@quick
@given(st.integers(161, 40_000), st.integers(0, 2**32 - 1), st.booleans())
def test_any_clip_has_a_token_for_every_40_ms(n, seed, raw):
    sound = AudioSettings(feature_size=640, raw=True) if raw else AudioSettings()
    samples = np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)
    clip = make_input(samples, sound, "x")
    assert np.isfinite(clip.mel).all()
    assert abs(clip.n_soft - n / 640) <= 1
    assert len(clip.times) == clip.n_soft and (np.diff(clip.times, axis=1) >= 0).all()
    louder = make_input(samples * np.float32(0.5), sound, "x")
    assert (louder.key != clip.key and (louder.mel <= clip.mel).all()) or raw


@quick
@given(st.integers(1, 30_000), st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]))
def test_resampling_keeps_the_length_in_seconds(n, rate):
    out = resample(np.zeros(n, np.float32), rate, 16_000)
    assert len(out) == -(-n * 16_000 // rate) and not out.any()


@quick
@given(st.integers(1, 200_000), st.integers(25, 100), st.integers(0, 99))
def test_a_split_recording_loses_and_doubles_nothing(n, longest, seed):
    sound = AudioSettings(longest=longest)  # of 40 ms each
    samples = np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)
    pieces = split_quietly(samples, sound)
    assert np.array_equal(np.concatenate(pieces), samples)
    assert all(len(piece) <= sound.longest_samples for piece in pieces)
    assert len(pieces) == 1 or min(map(len, pieces)) >= 8_000
