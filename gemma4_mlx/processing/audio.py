"""A sound from anywhere -> the frames that the audio tower takes.

    open -> mono -> 16 kHz -> log-mel frames (T, 128), one each 10 ms

Each frame is 20 ms of sound: Hann window, Fourier transform, magnitudes, 128 triangular bands on
the mel scale, logarithm. Four frames become one soft token of 40 ms. Worked example: 1 s = 16,000
samples -> 99 frames -> 25 soft tokens; the longest clip, 30 s, makes 750. Follows transformers
(``feature_extraction_gemma4.py``). The unified 12B takes 640 raw samples per token instead.
"""

import contextlib
import hashlib
import io
import math
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from .containers import open_container
from .fetch import locate
from .settings import AudioSettings, MediaSettings

#: A recording sent with ``split=True`` may be this long: 90 clips, 67,500 soft tokens.
MAX_SECONDS = 3600
#: libsndfile's names of the formats that are read. It knows older ones, which nobody needs here.
SOUND_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU")
#: A clip is cut at its quietest moment within this many seconds before the longest length.
_CUT_WITHIN = 3.0


@dataclass(frozen=True, eq=False)
class AudioInput:
    """One clip, ready for the model.

    Attributes:
        samples: (N,) float32 mono at the model's rate.
        mel: (T, bands) float32 log-mel frames; for the unified 12B (n, 640) samples.
        n_soft: soft tokens the clip costs.
        settings: how the sound is cut.
        start: seconds into the recording at which the clip begins, if it was split.
        name: file name or another short label.
        key: SHA-256 of the samples and settings: equal keys make equal soft tokens.
    """

    samples: np.ndarray
    mel: np.ndarray
    n_soft: int
    settings: AudioSettings
    start: float
    name: str
    key: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.settings.sampling_rate

    @property
    def times(self) -> np.ndarray:
        """(n_soft, 2) float32: beginning and end of each soft token in seconds of the recording.

        These are the 40 ms a token stands for; through the tower's convolutions and attention it
        hears about half a second before them as well.
        """
        step = self.settings.ms_per_token / 1000
        begin = np.arange(self.n_soft) * step
        end = np.minimum(begin + step, max(self.seconds, step * (self.n_soft - 1)))
        return (np.stack([begin, end], axis=-1) + self.start).astype(np.float32)


def load_audio(
    source: Any,
    model: Any = None,
    *,
    rate: int | None = None,
    split: bool = False,
    name: str | None = None,
) -> "AudioInput | list[AudioInput]":
    """Read one sound and make its frames.

    Args:
        source: a path, http(s) or ``data:`` address, the file's bytes, an open binary file, or
            an array (N,), (N, channels) or (channels, N) of floats in [-1, 1] or of integers.
        model: a model, its configuration or its :class:`MediaSettings`; None: the released
            models' sizes.
        rate: samples per second of an array; a file knows its own.
        split: give a list of clips, cutting a recording longer than the model's longest clip
            (30 s) at quiet moments, no sample lost or doubled. Without it such a recording is an
            error: it is never cut short silently.
        name: a label to show, in place of the file's name.

    Raises:
        MediaError: no sound, a damaged, too long or too short one, an impossible rate, or a
            model that cannot hear.
        ConfigError: as of :meth:`.MediaSettings.of`.
    """
    settings = MediaSettings.of(model).need_audio()
    limit = MAX_SECONDS if split else settings.longest_seconds
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        if rate is None:
            raise MediaError("an array of samples needs its rate: load_audio(samples, rate=44100)")
        samples, found = _from_array(np.asarray(source)), "array"
    else:
        data, found = locate(source)
        samples, rate = read_file(data, found, limit)
    name = name or found
    if not isinstance(rate, Real) or not 1000 <= rate <= 768_000:
        raise MediaError(f"{name}: a rate of {rate!r} samples per second cannot be right")
    _check_length(len(samples) / rate, limit, name, split)
    if not np.isfinite(samples).all():
        raise MediaError(f"{name} holds NaN or infinite samples")
    samples = resample(samples, rate, settings.sampling_rate)
    if not split:
        return make_input(samples[: settings.longest_samples], settings, name)
    clips, start = [], 0
    for piece in split_quietly(samples, settings):
        clips.append(make_input(piece, settings, name, start / settings.sampling_rate))
        start += len(piece)
    return clips


def _check_length(seconds: float, limit: float, name: str, split: bool) -> None:
    if seconds <= limit + 1e-4:  # resampling may add a sample
        return
    if split:
        raise MediaError(f"{name} is {seconds:.0f} s long, more than {limit} s; cut it first")
    raise MediaError(
        f"{name} is {seconds:.1f} s long, the model's longest clip is {limit:g} s: pass "
        "split=True to send it as several clips (in a chat: Audio(..., split=True)), or cut it"
    )


def make_input(
    samples: np.ndarray, settings: AudioSettings, name: str, start: float = 0.0
) -> AudioInput:
    """Frames of one clip of samples (N,) at the model's rate. Raises MediaError if too short."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if settings.raw:
        size = settings.feature_size
        mel = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
        n_soft = len(mel)
    else:
        mel = log_mel(samples, settings)
        n_soft = (len(mel) + 3) // 4  # halved twice, rounding up each time
    if n_soft == 0:
        need = settings.frame_length // 2 + 1
        raise MediaError(
            f"{name} is {len(samples)} samples long at {settings.sampling_rate} Hz; the model "
            f"needs at least {1 if settings.raw else need}"
        )
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(samples)
    return AudioInput(samples, mel, n_soft, settings, start, name, digest.hexdigest())


def log_mel(samples: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Log-mel frames (T, feature_size) float32 of samples (N,) in [-1, 1].

    The signal is preceded by half a frame of silence; a frame counts only if it and the sample
    after it lie within the signal: T = (N - 161) // 160 + 1, and 0 for N < 161.
    """
    frame, hop = settings.frame_length, settings.hop_length
    padded = np.concatenate([np.zeros(frame // 2, np.float32), samples])
    T = (len(padded) - frame - 1) // hop + 1
    if T <= 0:
        return np.zeros((0, settings.feature_size), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop][:T]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(frames * window, n=settings.fft_length, axis=-1))
    return np.log(spectrum @ mel_bands(settings) + settings.mel_floor).astype(np.float32)


@lru_cache(maxsize=8)
def mel_bands(settings: AudioSettings) -> np.ndarray:
    """(fft_length / 2 + 1, feature_size): triangles equally wide in mel (HTK's formula), whose
    sides are straight in Hz, each of height 1. The last, narrower than a frequency bin, is empty
    at the released sizes."""
    low, high = (
        2595 * math.log10(1 + f / 700) for f in (settings.min_frequency, settings.max_frequency)
    )
    corners = 700 * (10 ** (np.linspace(low, high, settings.feature_size + 2) / 2595) - 1)
    bins = np.linspace(0, settings.sampling_rate // 2, settings.fft_length // 2 + 1)
    distance = corners[None] - bins[:, None]  # (bins, bands + 2)
    width = np.diff(corners)
    rising = -distance[:, :-2] / width[:-1]
    falling = distance[:, 2:] / width[1:]
    return np.maximum(0, np.minimum(rising, falling))


def resample(samples: np.ndarray, rate: float, target: int) -> np.ndarray:
    """Samples (N,) at ``rate`` -> (ceil(N * target / rate),) at ``target``: the SoX resampler at
    its high quality, as librosa uses it by default."""
    if rate == target:
        return samples
    import soxr

    n = math.ceil(len(samples) * target / rate)
    out = soxr.resample(samples, rate, target, quality="HQ")[:n]
    return np.pad(out, (0, n - len(out))).astype(np.float32)


def split_quietly(samples: np.ndarray, settings: AudioSettings) -> list[np.ndarray]:
    """Pieces of at most the longest clip, each cut where the last seconds before it are quietest.

    The pieces joined are ``samples``; none but a whole recording is shorter than half a second.
    """
    rate, longest = settings.sampling_rate, settings.longest_samples
    step = rate // 50  # energy in steps of 20 ms
    pieces = []
    while len(samples) > longest:
        latest = min(longest, len(samples) - rate // 2)
        earliest = max(rate // 2, latest - int(_CUT_WITHIN * rate))
        steps = (latest - earliest) // step
        span = samples[earliest : earliest + steps * step].reshape(steps, step)
        quiet = int(np.argmin((span.astype(np.float64) ** 2).sum(axis=-1)))
        cut = earliest + quiet * step + step // 2
        pieces.append(samples[:cut])
        samples = samples[cut:]
    return [*pieces, samples]


def read_file(data: Path | bytes, name: str, limit: float) -> tuple[np.ndarray, int]:
    """Mono float32 samples (N,) and their rate, of at most ``limit`` seconds.

    libsndfile reads WAV, FLAC, OGG, Opus, MP3 and more; what it cannot read (M4A, WebM) is tried
    with PyAV where installed (the ``video`` extra), then with librosa's own fallback.

    Raises MediaError for what no reader can decode, and for a sound longer than ``limit``.
    """
    import soundfile

    try:
        with _sound_file(data, name) as file:
            rate = file.samplerate
            known = file.frames / rate if file.frames < 1 << 60 else 0  # a stream may not say
            _check_length(known, limit, name, split=limit == MAX_SECONDS)
            parts, total = [], 0
            for block in file.blocks(1 << 20, dtype="float32", always_2d=True):
                parts.append(block.mean(axis=1))
                total += len(block)
                if total > (limit + 1) * rate:  # a header may lie about the length
                    break
    except MediaError:
        raise
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, RuntimeError) as error:
        parts, rate = _other_reader(data, name, limit, error)
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(samples):
        raise MediaError(f"{name} holds no sound")
    return samples.astype(np.float32, copy=False), rate


@contextlib.contextmanager
def _sound_file(data: Path | bytes, name: str):
    """libsndfile's reader of a file, if its format is one of those that are read."""
    import soundfile

    # Open files, not paths: for a path libsndfile looks for a second file beside it (SD2).
    with (
        io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as stream,
        soundfile.SoundFile(stream) as file,
    ):
        if file.format not in SOUND_FORMATS:
            raise MediaError(f"{name} is {file.format_info}, which is not read here")
        yield file


def check_sound(data: Path | bytes, name: str) -> None:
    """Raise MediaError unless this begins like a sound that can be read; nothing is decoded."""
    import soundfile

    try:
        with _sound_file(data, name):
            return
    except MediaError:
        raise
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, RuntimeError) as error:
        _other_reader(data, name, 0.0, error)


def _other_reader(data, name: str, limit: float, first_error: Exception) -> tuple[list, int]:
    """Blocks of mono samples and the rate, through PyAV or librosa's ``audioread``."""
    try:
        import av
    except ImportError:
        return _audioread(data, name, limit, first_error)
    try:
        with open_container(data, name) as reading:
            streams = reading.container.streams.audio
            # A damaged header may leave a stream that FFmpeg has no decoder for.
            rate = getattr(streams[0], "rate", 0) if streams else 0
            if not rate:
                raise MediaError(f"{name} holds no sound")
            # Channels are averaged here: FFmpeg's own way to mono is louder by half. They come
            # interleaved: from eight planes on PyAV reads past their end, which ends the process.
            to_float = av.AudioResampler(format="flt", rate=rate)

            def mono(piece):
                return piece.to_ndarray().reshape(piece.samples, -1).mean(axis=1)

            parts, total = [], 0
            for frame in reading.frames(audio=0):
                for piece in to_float.resample(frame):
                    parts.append(mono(piece))
                    total += len(parts[-1])
                if total > (limit + 1) * rate:
                    break
            parts += [mono(piece) for piece in to_float.resample(None)]
            return parts, rate
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{name} is no sound that can be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def _audioread(data, name: str, limit: float, first_error: Exception) -> tuple[list, int]:
    problem = f"{name} is no sound that can be read: {first_error}"
    if isinstance(data, bytes):
        raise MediaError(f"{problem} (with PyAV more formats are read: pip install av)")
    try:
        import audioread
        import librosa

        # macOS's own decoder. Not the backends that run FFmpeg or GStreamer: what these may open
        # cannot be limited from here.
        own = [b for b in audioread.available_backends() if b.__name__ == "ExtAudioFile"]
        with audioread.audio_open(str(data), own) as file:
            samples, rate = librosa.load(file, sr=None, mono=True, duration=limit + 1)
    except Exception:
        raise MediaError(f"{problem} (with PyAV more formats are read: pip install av)") from None
    return [samples], int(rate)


def _from_array(array: np.ndarray) -> np.ndarray:
    """Mono float32 samples (N,) of an array. Raises MediaError."""
    if array.size == 0:
        raise MediaError("an array of samples is empty")
    if array.ndim not in (1, 2):
        raise MediaError(f"an array of samples has shape (N,) or (N, channels), not {array.shape}")
    if array.dtype == np.uint8:  # 8-bit sound is unsigned
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        array = array.astype(np.float32) / (np.iinfo(array.dtype).max + 1)
    elif array.dtype.kind != "f":
        raise MediaError(f"samples are floats in -1 to 1 or integers, not {array.dtype}")
    array = array.astype(np.float32)
    if array.ndim == 2:
        axis = 0 if array.shape[0] < array.shape[1] else 1
        if array.shape[axis] > 64:
            raise MediaError(f"an array of samples has shape (N, channels), not {array.shape}")
        array = array.mean(axis=axis)
    if not np.isfinite(array).all():
        raise MediaError("an array of samples holds NaN or infinite values")
    if (peak := float(np.abs(array).max())) > 16:
        raise MediaError(f"float samples lie in -1 to 1, found {peak:g}; divide, or pass integers")
    return array
