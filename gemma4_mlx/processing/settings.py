"""What a model expects of pictures, sounds and videos: patch sizes, token budgets, mel bands.

The numbers come from the checkpoint's ``config.json`` and, where present, its
``processor_config.json``; those left out are the released models'. Copies of the released
checkpoints exist whose ``processor_config.json`` lacks the audio part or holds a bogus ``size``;
both do no harm here.
"""

from dataclasses import dataclass
from typing import Any

from ..config import Gemma4Config, UnifiedAudioConfig, UnifiedVisionConfig
from ..errors import ConfigError, MediaError

#: Soft tokens a picture may cost at most; the caller chooses per picture.
BUDGETS = (70, 140, 280, 560, 1120)

#: Bounds on what a stranger's file may ask for: soft tokens of one picture or clip, and pixels of
#: a picture as it is resized.
_MOST_SOFT = 16_384
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageSettings:
    """How pictures are cut.

    Attributes:
        patch_size: side of a patch in pixels.
        pooling: patches on a side of one soft token's cell.
        budget: soft tokens of a picture at most, unless the caller says otherwise.
        frame_budget: the same for a frame of a video.
        frames: frames taken from a video.
        positions: patches a picture may be long, the size of the table of position embeddings.
        merged: a soft token's patches go to the model as one (the unified 12B).
    """

    patch_size: int = 16
    pooling: int = 3
    budget: int = 280
    frame_budget: int = 70
    frames: int = 32
    positions: int = 10_240
    merged: bool = False

    @property
    def cell(self) -> int:
        """Side of the square of (resized) pixels that becomes one soft token."""
        return self.patch_size * self.pooling

    def checked_budget(self, budget: int | None, default: int | None = None) -> int:
        """``budget``, or the default for None. Raises MediaError for one no model knows."""
        default = self.budget if default is None else default
        if budget is None or budget == default:
            return default
        if budget not in BUDGETS:
            raise MediaError(f"a budget is one of {BUDGETS} soft tokens, got {budget!r}")
        return budget


@dataclass(frozen=True)
class AudioSettings:
    """How sound is cut. Times in samples at ``sampling_rate`` (Hz).

    Attributes:
        feature_size: mel bands, or samples per soft token if ``raw``.
        raw: the model takes the samples themselves (the unified 12B), no spectrogram.
        longest: soft tokens of one clip at most; 750 are 30 seconds.
        ms_per_token: milliseconds that one soft token stands for.
    """

    sampling_rate: int = 16_000
    feature_size: int = 128
    frame_length: int = 320
    hop_length: int = 160
    fft_length: int = 512
    min_frequency: float = 0.0
    max_frequency: float = 8000.0
    mel_floor: float = 1e-3
    raw: bool = False
    longest: int = 750
    ms_per_token: int = 40

    @property
    def longest_seconds(self) -> float:
        return self.longest * self.ms_per_token / 1000

    @property
    def longest_samples(self) -> int:
        return self.longest * self.ms_per_token * self.sampling_rate // 1000


@dataclass(frozen=True)
class MediaSettings:
    """``image`` or ``audio`` is None for a model that cannot see or hear."""

    image: ImageSettings | None = None
    audio: AudioSettings | None = None

    @classmethod
    def of(cls, model: Any) -> "MediaSettings":
        """Settings of a loaded model, of its configuration, or of None: the released models'.

        Raises MediaError for what is none of these, ConfigError for a processor configuration that
        asks for what no released model does (dither, pre-emphasis, normalised pixels) or holds
        impossible values.
        """
        if model is None:
            return cls(ImageSettings(), AudioSettings())
        if isinstance(model, cls):
            return model
        config = config_of(model)
        processor = getattr(model, "processor_config", None) or {}
        return cls(_image(config, processor), _audio(config, processor))

    def need_image(self) -> ImageSettings:
        """The image settings. Raises MediaError if the model cannot see."""
        if self.image is None:
            raise MediaError(
                "this model has no vision tower: it takes text only. Load a checkpoint that holds "
                "one to send images or videos: Google's own, or a conversion by mlx-vlm (mlx-lm's "
                "leave the towers out)"
            )
        return self.image

    def need_audio(self) -> AudioSettings:
        """The audio settings. Raises MediaError if the model cannot hear."""
        if self.audio is None:
            raise MediaError(
                "this model has no audio tower: of the released models E2B, E4B and the 12B hear, "
                "26B-A4B and 31B do not, nor do conversions that left the towers out (mlx-lm's)"
            )
        return self.audio


def config_of(model: Any) -> Gemma4Config:
    """A loaded model's configuration, or the one given. Raises MediaError for what is neither."""
    config = getattr(model, "config", model)
    if not isinstance(config, Gemma4Config):
        raise MediaError(
            f"media are cut for a loaded model or its configuration; a {type(model).__name__} is "
            "neither"
        )
    return config


def _image(config: Gemma4Config, processor: dict) -> ImageSettings | None:
    vision = config.vision
    if vision is None:
        return None
    merged = isinstance(vision, UnifiedVisionConfig)
    still, video = _part(processor, "image_processor"), _part(processor, "video_processor")
    if still.get("do_normalize") and (still.get("image_mean") or still.get("image_std")):
        mean, std = (still.get(name) or [] for name in ("image_mean", "image_std"))
        if [x for x in _listed(mean) if x != 0] or [x for x in _listed(std) if x != 1]:
            raise ConfigError("processor_config.json: normalised pixels are unknown to Gemma 4")
    for part in (still, video):  # said once more, and wrong in some copies; the tower's count
        for name in ("patch_size", "pooling_kernel_size"):
            _number(part, name, None, 1, 64)
    pooling = vision.pooling_kernel_size
    default = vision.num_soft_tokens if merged else vision.default_output_length
    settings = ImageSettings(
        patch_size=vision.patch_size,
        pooling=pooling,
        budget=_number(still, "max_soft_tokens", default, 1, _MOST_SOFT),
        frame_budget=_number(video, "max_soft_tokens", 70, 1, _MOST_SOFT),
        frames=_number(video, "num_frames", 32, 1, 256),
        positions=vision.mm_posemb_size * pooling if merged else vision.position_embedding_size,
        merged=merged,
    )
    if (pixels := max(settings.budget, *BUDGETS) * settings.cell**2) > _MOST_PIXELS:
        raise ConfigError(
            f"config.json: cells of {settings.cell} x {settings.cell} pixels make a picture of "
            f"{pixels:,} pixels; the released models' have 48 x 48"
        )
    return settings


def _audio(config: Gemma4Config, processor: dict) -> AudioSettings | None:
    audio = config.audio
    if audio is None:
        return None
    common = {
        "longest": _number(processor, "audio_seq_length", 750, 1, _MOST_SOFT),
        "ms_per_token": _number(processor, "audio_ms_per_token", 40, 1, 1000),
    }
    given = _part(processor, "feature_extractor")
    if isinstance(audio, UnifiedAudioConfig):
        return AudioSettings(feature_size=audio.audio_embed_dim, raw=True, **common)
    for name, usual in (("dither", 0), ("preemphasis", 0), ("input_scale_factor", 1)):
        if given.get(name, usual) != usual:
            raise ConfigError(f"processor_config.json: {name} {given[name]!r} is unknown here")
    if given.get("per_bin_mean") or given.get("per_bin_stddev") or given.get("fft_overdrive"):
        raise ConfigError("processor_config.json: normalised mel bands are unknown here")
    # The tower's first convolution has as many channels as there are mel bands.
    bands = audio.subsampling_conv_channels[0]
    if given.get("feature_size") not in (None, bands):
        raise ConfigError(
            f"processor_config.json: feature_size {given['feature_size']!r}, but the audio tower "
            f"takes {bands} mel bands"
        )
    usual = AudioSettings()
    rate = _number(given, "sampling_rate", usual.sampling_rate, 1000, 192_000)
    frame = _number(given, "frame_length", usual.frame_length, 2, rate)
    highest = _number(given, "max_frequency", usual.max_frequency, 1.0, rate / 2)
    return AudioSettings(
        sampling_rate=rate,
        feature_size=bands,
        frame_length=frame,
        hop_length=_number(given, "hop_length", usual.hop_length, max(1, rate // 10_000), frame),
        fft_length=_number(given, "fft_length", usual.fft_length, frame, 4 * rate),
        min_frequency=_number(given, "min_frequency", usual.min_frequency, 0.0, highest - 1),
        max_frequency=highest,
        mel_floor=_number(given, "mel_floor", usual.mel_floor, 1e-30, 1.0),
        **common,
    )


def _part(processor: dict, name: str) -> dict:
    part = processor.get(name)
    if not isinstance(part, dict | None):
        raise ConfigError(f"processor_config.json: {name} is {str(part)[:40]!r}, not an object")
    return part or {}


def _listed(values: Any) -> list:
    return list(values) if isinstance(values, list) else [values]


def _number(part: dict, name: str, usual: Any, low: Any, high: Any) -> Any:
    """The number ``name``, of the type of ``low``; ``usual`` where the file has none."""
    value = part.get(name)
    if value is None:
        return usual
    if isinstance(value, float) and isinstance(low, int) and value.is_integer():
        value = int(value)
    kinds = int if isinstance(low, int) else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ConfigError(
            f"processor_config.json: {name} is {str(value)[:40]}, it must be {low} to {high}"
        )
    return type(low)(value)
