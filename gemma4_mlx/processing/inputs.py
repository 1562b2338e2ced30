"""Text tokens and media joined into one prompt, and the media encoded once.

A chat template leaves one placeholder per picture, sound or video. :func:`expand` puts the soft
tokens there, between their markers, as transformers' processor does:

    <|image|>  ->  <|image> n x <|image|> <image|>
    <|audio|>  ->  <|audio> n x <|audio|> <audio|>
    <|video|>  ->  00:00 <|image> n x <|video|> <image|> 00:01 <|image> ... per frame

:func:`encode_media` then runs the towers, each medium at most once per cache, and
:meth:`ModelInputs.features` gives the rows that belong to any stretch of the prompt, so that a
prompt can be read in chunks.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import Gemma4Config
from ..errors import MediaError
from .audio import AudioInput
from .image import ImageInput
from .settings import MediaSettings, config_of
from .video import VideoInput, timestamp

TEXT, IMAGE, VIDEO, AUDIO = 0, 1, 2, 3

Medium = ImageInput | AudioInput | VideoInput | list[AudioInput]


@dataclass(frozen=True, eq=False)
class MediaSpan:
    """One picture, video frame or clip in a prompt.

    Attributes:
        kind: "image", "video" (one frame) or "audio".
        start, stop: positions of its soft tokens in the prompt, markers not included.
        data: what the model is given.
        key: hash of ``data``; equal keys make equal soft tokens.
        label: a name to show.
        medium: which of the prompt's media it belongs to, counting placeholders from 0; the
            frames of one video share it.
        seconds: when a video's frame is shown; None otherwise.
    """

    kind: str
    start: int
    stop: int
    data: ImageInput | AudioInput
    key: str
    label: str
    medium: int
    seconds: float | None = None

    @property
    def boxes(self) -> np.ndarray | None:
        """(n, 4) left, top, right, bottom of each soft token in the original picture's pixels."""
        return self.data.boxes if isinstance(self.data, ImageInput) else None

    @property
    def times(self) -> np.ndarray | None:
        """(n, 2) beginning and end in seconds of each soft token of a sound."""
        return self.data.times if isinstance(self.data, AudioInput) else None


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """A prompt as the model reads it.

    Attributes:
        tokens: token ids; soft tokens carry their placeholder's id.
        token_types: (n,) uint8: 0 text and markers, 1 image, 2 video, 3 audio.
        media: spans of soft tokens in order of position.
    """

    tokens: list[int]
    token_types: np.ndarray
    media: list[MediaSpan] = field(default_factory=list)

    @classmethod
    def of_tokens(cls, tokens: Sequence[int]) -> "ModelInputs":
        """A prompt of text alone."""
        return cls(list(tokens), np.zeros(len(tokens), np.uint8))

    def __len__(self) -> int:
        return len(self.tokens)

    def chunks(self, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive chunks of about ``size`` tokens from ``start`` on.

        A chunk never ends inside a picture: it is made shorter, or longer where the picture
        alone is longer than ``size``.

        Raises ValueError for a size below 1.
        """
        if size < 1:
            raise ValueError(f"a chunk holds at least one token, got {size}")
        pictures = [(s.start, s.stop) for s in self.media if s.kind != "audio"]
        while start < len(self):
            stop = min(start + size, len(self))
            for first, last in pictures:
                if first < stop < last:
                    stop = first if first > start else last
                    break
            yield start, stop
            start = stop

    def features(self, encoded: Sequence, start: int = 0, stop: int | None = None):
        """(m, H) rows for the soft tokens in [start, stop), in order, or None if there are none.

        ``encoded`` is what :func:`encode_media` gave for these inputs.
        """
        stop = len(self) if stop is None else stop
        rows = []
        for span, soft in zip(self.media, encoded):
            first, last = max(span.start, start), min(span.stop, stop)
            if first < last:
                rows.append(soft[first - span.start : last - span.start])
        if not rows:
            return None
        import mlx.core as mx

        return rows[0] if len(rows) == 1 else mx.concatenate(rows)


def expand(
    tokens: Sequence[int],
    media: Sequence[Medium],
    config: Gemma4Config,
    encode: Callable[[str], list[int]] | None = None,
) -> ModelInputs:
    """Replace each placeholder among ``tokens`` by its medium's markers and soft tokens.

    Args:
        tokens: ids with exactly one placeholder for each of ``media``.
        media: pictures, clips and videos in the order of their placeholders. A list of clips, as
            ``load_audio(..., split=True)`` gives, stands in one place, clip after clip.
        config: the model, or its configuration, for the ids of placeholders and markers.
        encode: text to ids, for a video's times; only needed where there is one.

    Raises:
        MediaError: another number or kind of placeholders than of media, media that the model
            cannot take, or a placeholder or marker behind the end of its vocabulary.
    """
    config = config_of(config)
    kinds = {
        config.image_token_id: (ImageInput, "image"),
        config.audio_token_id: (AudioInput, "audio"),
        config.video_token_id: (VideoInput, "video"),
    }
    tokens = list(map(int, tokens))
    places = [i for i, token in enumerate(tokens) if token in kinds]
    if len(places) != len(media):
        raise MediaError(
            f"the prompt has {len(places)} places for media, {len(media)} were given; an image, "
            "clip or video belongs to exactly one place"
        )
    out: list[int] = []
    types: list[int] = []
    spans: list[MediaSpan] = []

    def text(ids):
        out.extend(ids)
        types.extend([TEXT] * len(ids))

    def soft(data, kind, token, number, around, label, seconds=None):
        for needed in (token, *around):
            if not 0 <= needed < config.text.vocab_size:
                raise MediaError(
                    f"{kind} needs token {needed}, and this model has "
                    f"{config.text.vocab_size}: config.json's {kind}_token_id and its markers "
                    "(boi_token_id, eoi_token_id, ...) are missing or another vocabulary's"
                )
        text([around[0]])
        start = len(out)
        out.extend([token] * data.n_soft)
        types.extend([{"image": IMAGE, "video": VIDEO, "audio": AUDIO}[kind]] * data.n_soft)
        spans.append(MediaSpan(kind, start, len(out), data, data.key, label, number, seconds))
        text([around[1]])

    start = 0
    for number, (place, medium) in enumerate(zip(places, media)):
        text(tokens[start:place])
        start, token = place + 1, tokens[place]
        expected, kind = kinds[token]
        several = list(medium) if isinstance(medium, list | tuple) and medium else [medium]
        for one in several:
            if not isinstance(one, expected):
                raise MediaError(
                    f"place {number} of the prompt is for {kind}, a {type(one).__name__} was given"
                )
            _check_taken(one, kind, config)
        if kind == "image":
            around = (config.boi_token_id, config.eoi_token_id)
            for one in several:
                soft(one, kind, token, number, around, one.name)
        elif kind == "audio":
            around = (config.boa_token_id, config.eoa_token_id)
            for one in several:
                soft(one, kind, token, number, around, one.name)
        else:
            if encode is None:
                raise MediaError("a video needs `encode`, the tokenizer, for its times")
            around = (config.boi_token_id, config.eoi_token_id)
            frames = [pair for video in several for pair in zip(video.frames, video.times)]
            for i, (frame, seconds) in enumerate(frames):
                text(encode(f"{' ' if i else ''}{timestamp(seconds)} "))
                soft(frame, kind, token, number, around, frame.name, float(seconds))
    text(tokens[start:])
    return ModelInputs(out, np.asarray(types, np.uint8), spans)


def _check_taken(
    medium: ImageInput | AudioInput | VideoInput, kind: str, config: Gemma4Config
) -> None:
    """Raise MediaError if the model lacks the tower or cuts such media differently."""
    settings = MediaSettings.of(config)
    if kind == "audio":
        wanted, given = settings.need_audio(), medium.settings
        same = (wanted.raw, wanted.feature_size) == (given.raw, given.feature_size)
    else:
        wanted = settings.need_image()
        given = (medium.frames[0] if kind == "video" else medium).settings
        same = (wanted.merged, wanted.patch_size, wanted.pooling) == (
            given.merged,
            given.patch_size,
            given.pooling,
        )
    if not same:
        raise MediaError(f"this {kind} was prepared for another model; load it with this one")


class MediaCache(MutableMapping):
    """Soft tokens of media already encoded, by key; the least recently used go first.

    One belongs to one model. ``max_bytes``: how much is kept; the picture encoded last always is.
    """

    def __init__(self, max_bytes: int = 512 * 2**20):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Any] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self._kept.values())

    def __getitem__(self, key: str):
        self._kept.move_to_end(key)
        return self._kept[key]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __setitem__(self, key: str, value: Any) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        while self.nbytes > self.max_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)

    def __delitem__(self, key: str) -> None:
        del self._kept[key]

    def keep(self, keys: Container[str]) -> None:
        """Free everything but these."""
        for key in [key for key in self._kept if key not in keys]:
            del self._kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def encode_media(
    model: Any,
    inputs: ModelInputs,
    cache: MutableMapping | None = None,
    start: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list:
    """Soft tokens (n, H) of each of ``inputs.media``, in order.

    Args:
        model: has ``encode_image(patches, positions)`` and ``encode_audio(mel)``.
        cache: key -> soft tokens, such as a :class:`MediaCache`; a medium found there is not
            encoded again, and what is encoded is put there.
        start: media that end at or before this position are not needed (their keys and values
            are cached) and come out as None unless they lie in ``cache``.
        progress: called with (media done, media in all) after each one.

    Each medium is evaluated before the next, so that one tower's activations exist at a time.

    Raises:
        MediaError: the model cannot see or hear.
    """
    import mlx.core as mx

    encoded: list = []
    fresh: dict[str, Any] = {}
    for span in inputs.media:
        known = fresh.get(span.key)
        if known is None and cache is not None and span.key in cache:
            known = cache[span.key]
        if known is None and span.stop > start:
            if span.kind == "audio":
                known = model.encode_audio(mx.array(span.data.mel))
            else:
                known = model.encode_image(mx.array(span.data.patches), span.data.positions)
            mx.eval(known)
            if cache is not None:
                cache[span.key] = known
        if known is not None:
            fresh[span.key] = known
        encoded.append(known)
        if progress is not None:
            progress(len(encoded), len(inputs.media))
    return encoded
