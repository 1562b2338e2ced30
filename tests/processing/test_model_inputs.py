"""Placeholders become soft tokens; chunks, prefixes and caches respect media."""

from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from media_reference import clip, picture

from gemma4_mlx.config import AudioConfig, Gemma4Config, TextConfig, VisionConfig
from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.inputs import MediaCache, ModelInputs, encode_media, expand
from gemma4_mlx.processing.settings import ImageSettings, MediaSettings
from gemma4_mlx.processing.video import load_video

CONFIG = Gemma4Config("gemma4", TextConfig(), VisionConfig(), AudioConfig())
TEXT_ONLY = Gemma4Config("gemma4_text", TextConfig())
IMAGE, AUDIO, VIDEO = CONFIG.image_token_id, CONFIG.audio_token_id, CONFIG.video_token_id
BOI, EOI, BOA, EOA = (
    CONFIG.boi_token_id, CONFIG.eoi_token_id, CONFIG.boa_token_id, CONFIG.eoa_token_id,
)  # fmt: skip


def image(seed=0, budget=70):
    return load_image(picture(96, 144, seed), CONFIG, budget=budget)


def spell(text):
    return [1000 + ord(c) for c in text]


def test_markers_and_soft_tokens():
    a, sound = image(), load_audio(clip(16_000), CONFIG, rate=16_000)
    inputs = expand([2, IMAGE, 7, AUDIO, 8], [a, sound], CONFIG)
    n = a.n_soft
    expected = [2, BOI, *[IMAGE] * n, EOI, 7, BOA, *[AUDIO] * 25, EOA, 8]
    assert inputs.tokens == expected
    assert inputs.token_types.tolist() == [{IMAGE: 1, AUDIO: 3}.get(t, 0) for t in expected]
    first, second = inputs.media
    assert (first.kind, first.start, first.stop) == ("image", 2, 2 + n)
    assert (second.kind, second.stop - second.start) == ("audio", 25)
    assert first.boxes.shape == (n, 4) and first.times is None
    assert second.times.shape == (25, 2) and second.boxes is None
    assert first.key == a.key and (first.medium, second.medium) == (0, 1)


def test_video_frames_stand_behind_their_times():
    frames = [picture(60, 60, seed=i) for i in range(3)]
    video = load_video(frames, CONFIG, fps=0.5)
    inputs = expand([5, VIDEO, 6], [video], CONFIG, encode=spell)
    soft = [BOI, *[VIDEO] * video.frames[0].n_soft, EOI]
    assert inputs.tokens == [
        5, *spell("00:00 "), *soft, *spell(" 00:02 "), *soft, *spell(" 00:04 "), *soft, 6,
    ]  # fmt: skip
    assert [span.seconds for span in inputs.media] == [0, 2, 4]
    assert {span.medium for span in inputs.media} == {0}
    assert set(inputs.token_types[inputs.media[1].start : inputs.media[1].stop]) == {2}
    with pytest.raises(MediaError, match="encode"):
        expand([VIDEO], [video], CONFIG)


def test_a_split_recording_stands_in_one_place():
    clips = load_audio(clip(480_100), CONFIG, rate=16_000, split=True)
    inputs = expand([2, AUDIO, 8], [clips], CONFIG)
    a, b = (c.n_soft for c in clips)
    assert inputs.tokens == [2, BOA, *[AUDIO] * a, EOA, BOA, *[AUDIO] * b, EOA, 8]
    assert [span.medium for span in inputs.media] == [0, 0]
    assert inputs.media[1].times[0, 0] == pytest.approx(clips[0].seconds)


@pytest.mark.parametrize("key", ["image_token_id", "boi_token_id", "eoi_token_id"])
def test_tokens_behind_the_end_of_the_vocabulary(key):
    """MLX would read whatever lies behind the table of embeddings, or end the process."""
    size = CONFIG.text.vocab_size
    last, behind = (replace(CONFIG, **{key: number}) for number in (size - 1, size))
    expand([2, last.image_token_id, 8], [image()], last)
    with pytest.raises(MediaError, match=rf"image needs token {size}, .* {size}: config.json"):
        expand([2, behind.image_token_id, 8], [image()], behind)


def test_places_and_media_must_match():
    sound = load_audio(clip(16_000), CONFIG, rate=16_000)
    for make in (lambda: load_image(picture(9, 9), "e2b"), lambda: expand([5], [], "e2b")):
        with pytest.raises(MediaError, match="a str is neither"):
            make()
    with pytest.raises(MediaError, match="1 places for media, 0"):
        expand([IMAGE], [], CONFIG)
    with pytest.raises(MediaError, match="0 places for media, 1"):
        expand([5], [image()], CONFIG)
    with pytest.raises(MediaError, match="place 0 of the prompt is for image"):
        expand([IMAGE], [sound], CONFIG)
    assert expand([5, 6], [], CONFIG).tokens == [5, 6]


def test_a_model_without_the_sense_says_so():
    sound = load_audio(clip(16_000), rate=16_000)
    with pytest.raises(MediaError, match="no vision tower"):
        load_image(picture(50, 50), TEXT_ONLY)
    with pytest.raises(MediaError, match="no vision tower"):
        load_video([picture(50, 50)], TEXT_ONLY)
    with pytest.raises(MediaError, match="no audio tower"):
        load_audio(clip(16_000), TEXT_ONLY, rate=16_000)
    with pytest.raises(MediaError, match="no vision tower"):
        expand([IMAGE], [image()], TEXT_ONLY)
    with pytest.raises(MediaError, match="no audio tower"):
        expand([AUDIO], [sound], TEXT_ONLY)


def test_media_cut_for_another_model_are_refused():
    other = load_image(picture(50, 50), MediaSettings(ImageSettings(patch_size=8)))
    with pytest.raises(MediaError, match="another model"):
        expand([IMAGE], [other], CONFIG)


@pytest.mark.parametrize("size", [1, 3, 10, 25, 1000])
def test_chunks_never_split_a_picture(size):
    a, b = image(), image(1)
    sound = load_audio(clip(16_000), CONFIG, rate=16_000)
    inputs = expand([2, IMAGE, IMAGE, 7, 7, 7, AUDIO, 8], [a, b, sound], CONFIG)
    chunks = list(inputs.chunks(size))
    assert chunks[0][0] == 0 and chunks[-1][1] == len(inputs)
    assert all(first[1] == second[0] for first, second in pairwise(chunks))
    for span in inputs.media[:2]:
        assert sum(s < span.stop and e > span.start for s, e in chunks) == 1
    longest = max(span.stop - span.start for span in inputs.media)
    assert all(stop - start <= max(size, longest) for start, stop in chunks)
    with pytest.raises(ValueError, match="at least one"):
        list(inputs.chunks(0))


class Towers:
    """Stands in for a model; counts what it encodes."""

    def __init__(self):
        self.calls = []

    def encode_image(self, patches, positions):
        self.calls.append("image")
        return mx.full((len(positions) // 9, 4), float(len(self.calls)))

    def encode_audio(self, mel):
        self.calls.append("audio")
        return mx.full(((mel.shape[0] + 3) // 4, 4), float(len(self.calls)))


def test_each_medium_is_encoded_once():
    a, sound = image(), load_audio(clip(16_000), CONFIG, rate=16_000)
    inputs = expand([IMAGE, 5, IMAGE, AUDIO], [a, a, sound], CONFIG)
    model, cache, done = Towers(), MediaCache(), []
    encoded = encode_media(model, inputs, cache, progress=lambda i, n: done.append((i, n)))
    assert model.calls == ["image", "audio"] and done[-1] == (3, 3)
    encode_media(model, inputs, cache)
    assert model.calls == ["image", "audio"]
    rows = inputs.features(encoded)
    assert rows.shape == (2 * a.n_soft + 25, 4)
    assert inputs.features(encoded, 0, 1) is None
    part = inputs.features(encoded, inputs.media[2].start + 5, inputs.media[2].start + 9)
    assert part.shape == (4, 4) and part[0, 0] == 2


def test_what_the_cache_of_keys_holds_is_not_encoded():
    inputs = expand([IMAGE, 5, IMAGE], [image(), image(1)], CONFIG)
    model = Towers()
    encoded = encode_media(model, inputs, start=inputs.media[0].stop)
    assert model.calls == ["image"] and encoded[0] is None
    assert inputs.features(encoded, inputs.media[0].stop).shape == (image().n_soft, 4)


def test_the_least_recently_used_go_first():
    row = mx.zeros((10, 4))  # 160 bytes
    cache = MediaCache(max_bytes=400)
    cache["a"], cache["b"] = row, row
    assert cache["a"] is row  # used: b is now the oldest
    cache["c"] = row
    assert list(cache) == ["a", "c"] and cache.nbytes == 320
    cache["huge"] = mx.zeros((1000, 4))
    assert list(cache) == ["huge"]
    del cache["huge"]
    assert len(cache) == 0 and "a" not in cache


def test_text_alone():
    inputs = ModelInputs.of_tokens([1, 2, 3])
    assert len(inputs) == 3 and inputs.features([]) is None and inputs.media == []
    assert list(inputs.chunks(2)) == [(0, 2), (2, 3)]
    assert np.array_equal(inputs.token_types, [0, 0, 0])
