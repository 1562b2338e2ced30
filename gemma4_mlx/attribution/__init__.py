"""Attribution: from a token of an answer back to what made the model say it.

``data`` holds attributions as values and ``file`` their files, both with numpy alone;
``attribute`` makes them, and what of it needs MLX is imported when first used.
"""

from .data import Attribution, Effect, Part, open_attribution

__all__ = ["Attribution", "Effect", "Part", "align", "attribute", "open_attribution"]


def __getattr__(name: str):
    if name in ("align", "attribute"):
        from importlib import import_module

        return getattr(import_module(f".{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
