"""From bytes to arrays: text, pictures, sounds and videos as the model takes them.

Names are imported on first use, for a text-only session needs no picture code.
"""

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


def __getattr__(name: str):
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
