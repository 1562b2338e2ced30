"""A video from anywhere -> frames, each a picture with its time.

Thirty-two frames are taken at even distances, each cut like a picture at a budget of 70 soft
tokens, and in the prompt each stands behind its time: ``00:03 <image>...`` (transformers,
``processing_gemma4.py`` and ``default_sample_indices_fn`` in ``video_utils.py``). A video's sound
is not part of it: send it as audio beside it.

Video files are decoded by PyAV, an extra: ``pip install av``. Frames that are
already arrays or pictures need nothing.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from .containers import open_container
from .fetch import locate
from .image import MAX_PIXELS, ImageInput, open_image, prepare
from .settings import MediaSettings

#: A frame rate for frames that come without one, as in transformers.
DEFAULT_FPS = 24.0
#: Frames taken at most: 256 x 70 soft tokens are 17,920.
MAX_FRAMES = 256
#: Frames a file may hold: ten hours at 60 per second.
_MAX_TOTAL = 10 * 3600 * 60


@dataclass(frozen=True, eq=False)
class VideoInput:
    """A video, ready for the model.

    Attributes:
        frames: one :class:`~gemma4_mlx.processing.image.ImageInput` per frame taken.
        indices: (F,) number of each taken frame in the video, from 0.
        fps: frames per second of the video.
        total: frames in the video.
        name: file name or another short label.
    """

    frames: list[ImageInput]
    indices: np.ndarray
    fps: float
    total: int
    name: str

    @property
    def seconds(self) -> float:
        return self.total / self.fps

    @property
    def times(self) -> np.ndarray:
        """(F,) seconds into the video of each frame."""
        return self.indices / self.fps

    @property
    def n_soft(self) -> int:
        return sum(frame.n_soft for frame in self.frames)


def timestamp(seconds: float) -> str:
    """``mm:ss`` as it stands in the prompt, rounded down; minutes go on past 59."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def sample_indices(total: int, frames: int) -> np.ndarray:
    """Numbers of the frames to take: ``frames`` of ``total`` at even distances from the first
    on, or all where there are fewer (transformers refuses those)."""
    frames = min(frames, total)
    return np.arange(frames) * total // frames


def load_video(
    source: Any,
    model: Any = None,
    *,
    frames: int | None = None,
    budget: int | None = None,
    fps: float | None = None,
    name: str | None = None,
) -> VideoInput:
    """Read one video and cut its frames.

    Args:
        source: a path, http(s) or ``data:`` address, the file's bytes, an open binary file; or
            the frames: an array (T, H, W, 3), or a list of pictures as ``load_image`` takes.
        model: a model, its configuration or its :class:`MediaSettings`; None: the released
            models' sizes.
        frames: frames to take, at most 256; None: the model's number (32).
        budget: soft tokens per frame at most, one of 70, 140, 280, 560, 1120; None: 70.
        fps: frames per second of given frames; None: 24. A file knows its own.
        name: a label to show, in place of the file's name.

    Raises:
        MediaError: no video or one without pictures, a damaged one, impossible numbers, PyAV
            missing, or a model that cannot see.
        ConfigError: as of :meth:`.MediaSettings.of`.
    """
    settings = MediaSettings.of(model).need_image()
    budget = settings.checked_budget(budget, settings.frame_budget)
    count = settings.frames if frames is None else frames
    if not isinstance(count, Integral) or not 1 <= count <= MAX_FRAMES:
        raise MediaError(f"frames must be 1 to {MAX_FRAMES}, got {count!r}")
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        taken, indices, rate, total, found = _given_frames(source, count, fps)
    else:
        data, found = locate(source)
        taken, indices, rate, total = _decoded_frames(data, found, count)
    name = name or found
    cut = []
    for picture, index in zip(taken, indices):
        label = f"{name} {timestamp(index / rate)}"
        cut.append(prepare(picture, settings, budget, label, picture.size))
    return VideoInput(cut, np.asarray(indices[: len(cut)]), rate, total, name)


def _given_frames(source: Any, count: int, fps: float | None):
    total = len(source)
    if not total:
        raise MediaError("a video without frames")
    rate = DEFAULT_FPS if fps is None else fps
    if not (isinstance(rate, Real) and math.isfinite(rate) and rate > 0):
        raise MediaError(f"fps must be above 0, got {fps!r}")
    if not isinstance(source, list | tuple) and np.ndim(source) != 4:
        raise MediaError(f"an array of frames has shape (T, H, W, 3), not {np.shape(source)}")
    indices = sample_indices(total, count)
    return (open_image(source[i])[0] for i in indices), indices, float(rate), total, "frames"


def _decoded_frames(data: Path | bytes, name: str, count: int):
    """Frames of a file one after the other, their numbers, the frame rate and how many there are.

    One frame is decoded at a time and resized before the next.
    """
    try:
        import av
    except ImportError:
        raise MediaError(
            "reading video files needs PyAV: pip install av; or pass the frames as arrays"
        ) from None
    try:
        rate, total = _measure(data, name)
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MediaError(f"{name} is no video that can be read: {why}") from None
    indices = sample_indices(total, count)
    return _pictures(av, data, name, indices), indices, rate, total


def _measure(data: Path | bytes, name: str) -> tuple[float, int]:
    """(frames per second, number of frames). Counts packets where the file does not say."""
    with open_container(data, name) as reading:
        if not reading.container.streams.video:
            raise MediaError(f"{name} holds no pictures")
        stream = reading.container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise MediaError(f"{name} has frames of {stream.width} x {stream.height} pixels")
        rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        total = stream.frames
        if total <= 0:
            total = sum(1 for packet in reading.packets(stream) if packet.size)
    if total <= 0:
        raise MediaError(f"{name} is a video without frames")
    if total > _MAX_TOTAL or not rate > 0:
        raise MediaError(f"{name} claims {total:,} frames at {rate:g} per second")
    return rate, total


def _pictures(av, data: Path | bytes, name: str, indices: np.ndarray):
    """The frames at ``indices`` in order, as upright RGB ``PIL.Image``."""
    wanted, last = set(indices.tolist()), int(indices[-1])
    given = 0
    try:
        with open_container(data, name) as reading:
            reading.container.streams.video[0].thread_type = "AUTO"
            for i, frame in enumerate(reading.frames(video=0)):
                if i in wanted:
                    picture = frame.to_image()
                    if turned := getattr(frame, "rotation", 0):  # a phone held sideways
                        picture = picture.rotate(turned, expand=True)
                    yield picture
                    given += 1
                if i >= last:
                    return
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        if not given:
            raise MediaError(f"{name} is damaged: {error}") from None
        raise MediaError(f"{name} is damaged after {given} of {len(indices)} frames") from None
    # Files often claim a frame or two more than they hold; a file cut short claims many.
    if given < 0.9 * len(indices) - 1 or not given:
        raise MediaError(f"{name} is damaged: it holds {given} of the {len(indices)} frames asked")
