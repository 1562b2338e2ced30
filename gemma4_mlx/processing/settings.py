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
        asks for what no released model does (dither, pre-emphasis, normalised pixels).
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
                "this model has no vision tower: it takes text only. Load a checkpoint whose "
                "config.json has a vision_config to send images or videos"
            )
        return self.image

    def need_audio(self) -> AudioSettings:
        """The audio settings. Raises MediaError if the model cannot hear."""
        if self.audio is None:
            raise MediaError(
                "this model has no audio tower: of the released models E2B, E4B and the 12B hear, "
                "26B-A4B and 31B do not"
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
    still = processor.get("image_processor") or {}
    video = processor.get("video_processor") or {}
    if still.get("do_normalize") and (
        any(still.get("image_mean") or ()) or any(s != 1 for s in still.get("image_std") or ())
    ):
        raise ConfigError("processor_config.json: normalised pixels are unknown to Gemma 4")
    default = vision.num_soft_tokens if merged else vision.default_output_length
    pooling = vision.pooling_kernel_size
    return ImageSettings(
        patch_size=vision.patch_size,
        pooling=pooling,
        budget=int(still.get("max_soft_tokens") or default),
        frame_budget=int(video.get("max_soft_tokens") or 70),
        frames=int(video.get("num_frames") or 32),
        positions=vision.mm_posemb_size * pooling if merged else vision.position_embedding_size,
        merged=merged,
    )


def _audio(config: Gemma4Config, processor: dict) -> AudioSettings | None:
    audio = config.audio
    if audio is None:
        return None
    common = {
        "longest": int(processor.get("audio_seq_length") or 750),
        "ms_per_token": int(processor.get("audio_ms_per_token") or 40),
    }
    given = processor.get("feature_extractor") or {}
    if isinstance(audio, UnifiedAudioConfig):
        size = audio.audio_samples_per_token
        return AudioSettings(feature_size=size, raw=True, **common)
    for name, usual in (("dither", 0), ("preemphasis", 0), ("input_scale_factor", 1)):
        if given.get(name, usual) != usual:
            raise ConfigError(f"processor_config.json: {name} {given[name]!r} is unknown here")
    if given.get("per_bin_mean") or given.get("per_bin_stddev") or given.get("fft_overdrive"):
        raise ConfigError("processor_config.json: normalised mel bands are unknown here")
    names = ("sampling_rate", "feature_size", "frame_length", "hop_length", "fft_length")
    names += ("min_frequency", "max_frequency", "mel_floor")
    values = {name: given[name] for name in names if given.get(name) is not None}
    # The tower's first convolution has as many channels as there are mel bands.
    values.setdefault("feature_size", audio.subsampling_conv_channels[0])
    if values["feature_size"] != audio.subsampling_conv_channels[0]:
        raise ConfigError(
            f"processor_config.json: feature_size {values['feature_size']}, but the audio tower "
            f"takes {audio.subsampling_conv_channels[0]} mel bands"
        )
    return AudioSettings(**values, **common)
