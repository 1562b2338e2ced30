"""A processor_config.json is a stranger's file: settings within bounds, or a named error."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_reference import clip, picture

from gemma4_mlx.config import Gemma4Config
from gemma4_mlx.errors import ConfigError, MediaError
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.settings import MediaSettings
from gemma4_mlx.teaching.architecture import CONFIG, PROCESSOR

TEACHING = Gemma4Config.from_dict(CONFIG)
FIELDS = {
    "image_processor": ("max_soft_tokens", "patch_size", "pooling_kernel_size", "image_mean"),
    "video_processor": ("max_soft_tokens", "num_frames"),
    "feature_extractor": (
        *("sampling_rate", "feature_size", "frame_length", "hop_length", "fft_length"),
        *("min_frequency", "max_frequency", "mel_floor", "dither"),
    ),
    None: ("audio_seq_length", "audio_ms_per_token", "image_processor", "feature_extractor"),
}
PLACES = [(part, name) for part, names in FIELDS.items() for name in names]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 3, 99, 10**9, 10**40]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def settings_with(part, name, value, **more):
    processor = {k: dict(v) if isinstance(v, dict) else v for k, v in PROCESSOR.items()}
    (processor if part is None else processor.setdefault(part, {}))[name] = value
    for key, other in more.items():
        processor.setdefault(part, {})[key] = other
    return MediaSettings.of(SimpleNamespace(config=TEACHING, processor_config=processor))


@given(st.sampled_from(PLACES), ODD)
def test_any_value_gives_settings_that_work_or_a_named_error(place, value):
    try:
        settings = settings_with(*place, value)
    except ConfigError as error:
        assert "processor_config.json" in str(error)
        return
    for load in (
        lambda: load_image(picture(60, 50), settings),
        lambda: load_audio(clip(3_000), settings, rate=16_000),
    ):
        try:
            assert load().n_soft >= 1
        except MediaError:  # longer or shorter than what the settings allow
            pass


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("image_processor", "max_soft_tokens", 10**9),
        ("image_processor", "pooling_kernel_size", 99),
        ("image_processor", "patch_size", "16"),
        ("image_processor", "image_mean", {"a": 1}),
        ("video_processor", "num_frames", 10**6),
        ("feature_extractor", "hop_length", 0),
        ("feature_extractor", "frame_length", 10**8),
        ("feature_extractor", "sampling_rate", -16_000),
        ("feature_extractor", "mel_floor", float("nan")),
        ("feature_extractor", "max_frequency", 10**9),
        (None, "audio_seq_length", 10**9),
        (None, "image_processor", [1, 2]),
        (None, "feature_extractor", "wav"),
    ],
)
def test_absurd_values_are_named(part, name, value):
    more = {"do_normalize": True} if name == "image_mean" else {}
    with pytest.raises(ConfigError, match=r"processor_config\.json"):
        settings_with(part, name, value, **more)


def test_cells_of_a_thousand_pixels_are_refused():
    data = {**CONFIG, "vision_config": {**CONFIG["vision_config"], "pooling_kernel_size": 99}}
    with pytest.raises(ConfigError, match="cells of"):
        MediaSettings.of(Gemma4Config.from_dict(data))


def test_numbers_written_as_floats_are_read():
    settings = settings_with("feature_extractor", "hop_length", 160.0)
    assert settings.audio.hop_length == 160 and isinstance(settings.audio.hop_length, int)
    assert np.isfinite(load_audio(clip(3_000), settings, rate=16_000).mel).all()
