"""Sounds: frames and token counts as transformers has them, from every kind of source."""

import io

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from media_reference import CLIPS, arrays, clip

from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing.audio import load_audio, log_mel, resample
from gemma4_mlx.processing.settings import AudioSettings, MediaSettings

RAW = MediaSettings(audio=AudioSettings(raw=True, feature_size=640))


def written(samples, rate, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **({"format": "WAV"} | options))
    return file.getvalue()


@pytest.mark.parametrize("n", CLIPS)
def test_same_as_transformers(n):
    """The number of tokens exactly, features to 1e-4."""
    reference = arrays("audio")
    mel, tokens = reference[f"{n}_mel"], reference[f"{n}_tokens"]
    ours = log_mel(clip(n), AudioSettings())
    assert ours.shape == mel.shape and ours.dtype == np.float32
    if tokens == 0:
        with pytest.raises(MediaError, match="at least 161"):
            load_audio(clip(n), rate=16_000)
        return
    assert np.abs(ours - mel).max() < 1e-4
    assert load_audio(clip(n), rate=16_000).n_soft == tokens


def test_other_numbers_of_bands():
    ours = log_mel(clip(16_000), AudioSettings(feature_size=64))
    assert np.abs(ours - arrays("audio")["mel64"]).max() < 1e-4


def test_known_lengths():
    assert load_audio(clip(16_000), rate=16_000).n_soft == 25
    longest = load_audio(clip(480_000), rate=16_000)
    assert longest.n_soft == 750 and longest.mel.shape == (2999, 128)
    assert longest.times[-1].tolist() == pytest.approx([29.96, 30.0])
    assert longest.times.shape == (750, 2) and longest.seconds == 30


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_rate(rate):
    """The same second of sound, whatever it was sampled at."""
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) * np.hanning(rate)
    audio = load_audio(written(tone, rate))
    assert len(audio.samples) == 16_000
    t = np.arange(16_000) / 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * t) * np.hanning(16_000)
    assert np.abs(audio.samples - expected).max() < 2e-3


@pytest.mark.slow  # importing librosa's resampler takes longer than this file
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_rates_agree_with_librosa(rate):
    librosa = pytest.importorskip("librosa")
    samples = clip(rate // 2)
    expected = librosa.resample(samples, orig_sr=rate, target_sr=16_000)
    ours = resample(samples, rate, 16_000)
    assert ours.shape == expected.shape and np.abs(ours - expected).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"subtype": "PCM_U8"},
        {"subtype": "PCM_16"},
        {"subtype": "PCM_24"},
        {"subtype": "FLOAT"},
        {"subtype": "ULAW"},
        {"format": "FLAC"},
        {"format": "OGG"},
        {"format": "MP3"},
    ],
    ids=lambda o: "_".join(o.values()),
)
def test_file_formats(options):
    """One second of tone comes back as the tone, loss and 8 bits allowed for."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    audio = load_audio(written(tone, 16_000, **options))
    assert audio.n_soft in (25, 26, 27)  # MP3 pads
    spectrum = np.abs(np.fft.rfft(audio.samples))
    assert np.argmax(spectrum) * 16_000 / len(audio.samples) == pytest.approx(440, abs=2)
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    "container, codec, rate", [("webm", "libopus", 48_000), ("mp4", "aac", 44_100)]
)
def test_what_browsers_and_phones_record(container, codec, rate):
    """WebM and M4A, which libsndfile does not read, through PyAV."""
    av = pytest.importorskip("av")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    audio = load_audio(file.getvalue())
    assert audio.seconds == pytest.approx(1, abs=0.1)
    spectrum = np.abs(np.fft.rfft(audio.samples))
    assert np.argmax(spectrum) * 16_000 / len(audio.samples) == pytest.approx(440, abs=3)
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.1)


def test_formats_beyond_libsndfile_name_what_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match="pip install av"):
        load_audio(b"\x1aE\xdf\xa3 no libsndfile format")


def test_stereo_is_mixed():
    left, right = clip(16_000), clip(16_000, seed=9)
    stereo = np.stack([left, right], axis=-1)
    mono = (left + right) / 2
    for source in (stereo, stereo.T, written(stereo, 16_000, subtype="FLOAT")):
        rate = None if isinstance(source, bytes) else 16_000
        assert np.abs(load_audio(source, rate=rate).samples - mono).max() < 1e-6


def test_integer_arrays():
    samples = clip(16_000)
    for array, tolerance in (
        ((samples * 32768).astype(np.int16), 1e-4),
        ((samples * 2**31).astype(np.int32), 1e-6),
        (np.rint(samples * 128 + 128).clip(0, 255).astype(np.uint8), 0.01),
    ):
        assert np.abs(load_audio(array, rate=16_000).samples - samples).max() < tolerance
    assert load_audio(samples.tolist(), rate=16_000).n_soft == 25
    assert load_audio(mx.array(samples), rate=16_000).key == load_audio(samples, rate=16_000).key


def test_every_source_gives_the_same(tmp_path):
    data = written(clip(8_000), 16_000, subtype="FLOAT")
    path = tmp_path / "meow.wav"
    path.write_bytes(data)
    sources = [path, str(path), data, io.BytesIO(data)]
    clips = [load_audio(source) for source in sources]
    assert {c.key for c in clips} == {load_audio(clip(8_000), rate=16_000).key}
    assert clips[0].name == "meow.wav"
    assert load_audio(data, RAW).key != clips[0].key


def test_raw_samples_of_the_unified_model():
    """640 samples a token, the last one filled up with silence."""
    audio = load_audio(clip(1_500), RAW, rate=16_000)
    assert audio.mel.shape == (3, 640) and audio.n_soft == 3
    assert np.array_equal(audio.mel.reshape(-1)[:1_500], clip(1_500))
    assert not audio.mel.reshape(-1)[1_500:].any()
    assert load_audio(clip(1), RAW, rate=16_000).n_soft == 1


def test_too_long_is_an_error_not_a_cut():
    long = written(clip(16_000 * 31), 16_000)
    with pytest.raises(MediaError, match=r"31\.0 s long.*split=True"):
        load_audio(long)
    with pytest.raises(MediaError, match=r"split=True"):
        load_audio(clip(480_002), rate=16_000)


def test_long_recordings_split_where_it_is_quiet():
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 70).astype(np.float32)
    samples[16_000 * 28 : 16_000 * 28 + 800] = 0  # 50 ms of silence at 28 s
    clips = load_audio(samples, rate=16_000, split=True)
    assert len(clips) == 3
    assert np.array_equal(np.concatenate([c.samples for c in clips]), samples)
    assert clips[0].seconds == pytest.approx(28.025, abs=0.03)
    assert clips[1].start == pytest.approx(clips[0].seconds)
    assert clips[1].times[0, 0] == pytest.approx(clips[0].seconds)
    assert all(0.5 <= c.seconds <= 30 for c in clips)


@pytest.mark.parametrize("n", [480_001, 480_100, 16_000 * 60, 960_001])
def test_no_piece_is_too_short_or_too_long(n):
    clips = load_audio(clip(n), rate=16_000, split=True)
    assert sum(len(c.samples) for c in clips) == n
    assert all(8_000 <= len(c.samples) <= 480_000 for c in clips)
    assert [len(c) for c in [load_audio(clip(16_000), rate=16_000, split=True)]] == [1]


def test_silence_is_a_sound():
    audio = load_audio(np.zeros(16_000), rate=16_000)
    assert audio.n_soft == 25
    assert audio.mel == pytest.approx(np.log(1e-3))


def test_pyav_reads_more_channels_than_it_has_planes_for():
    """PyAV, left a damaged WAV of nine channels, must not be asked for them as planes."""
    pytest.importorskip("av")
    sound = np.random.default_rng(0).normal(0, 0.1, (4000, 9)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, sound, 16_000, format="WAV", subtype="FLOAT")
    data = file.getvalue()
    peak, end = data.index(b"PEAK"), data.index(b"data")
    data = data[:peak] + b"PEAK\x10\0\0\0" + data[peak + 8 : peak + 24] + data[end:]  # too short
    with pytest.raises(soundfile.SoundFileError):
        soundfile.SoundFile(io.BytesIO(data))
    audio = load_audio(data)
    assert np.abs(audio.samples - sound.mean(axis=1)).max() < 1e-6
