"""From bytes to arrays: text, pictures, sounds and videos as the model takes them.

Names are imported on first use, for a text-only session needs no picture code.
"""

from ..lazy import lazily

_HOMES = {
    "Tokenizer": "tokenizer",
    "render": "template",
    "load_image": "image",
    "ImageInput": "image",
    "load_audio": "audio",
    "AudioInput": "audio",
    "load_video": "video",
    "VideoInput": "video",
    "MediaSettings": "settings",
    "ModelInputs": "inputs",
    "MediaSpan": "inputs",
    "MediaCache": "inputs",
    "expand": "inputs",
    "encode_media": "inputs",
}

__all__ = [*_HOMES]  # noqa: PLE0604  (strings, from the table above)

__getattr__ = lazily(__name__, _HOMES)


def __dir__():
    return sorted([*globals(), *__all__])
