"""The ``.g4why`` file: an attribution's arrays and the rest as JSON, laid out as a trace's.

Version 2 added positions, tokens and media; files of version 1 open as before, without them.
"""

from pathlib import Path

import numpy as np

from ..errors import AttributionError
from ..tracing.data import fileformat
from ..tracing.data.tokens import Tokens

#: Names of the arrays' axes; ``rank`` 0 is the expert with the greatest weight.
AXES = {
    "heads": ("layer", "head"),
    "experts": ("layer", "rank"),
    "expert_ids": ("layer", "rank"),
    "expert_weights": ("layer", "rank"),
    "mlp": ("layer",),
    "per_layer": ("layer",),
    "positions": ("position",),
    "stream": ("layer", "position"),
}
FILE = fileformat.Kind("g4why", "an attribution's file", 2, AttributionError)
#: Numbers and words that the description holds as they are.
PLAIN = ("target", "against", "position", "total", "embedding", "base", "stop", "method", "model")


def write(path, values: dict) -> Path:
    """Write an attribution's attributes; returns the path.

    Raises AttributionError if the file cannot be written.
    """
    arrays = {name: values[name] for name in AXES if values[name] is not None}
    description = {name: values[name] for name in PLAIN}
    description["interventions"] = list(values["interventions"])
    if values["tokens"] is not None:
        own, description["tokens"] = values["tokens"].to_arrays()
        arrays |= {f"tokens.{name}": np.asarray(array) for name, array in own.items()}
    arrays |= {f"media.{i}": np.asarray(medium) for i, medium in enumerate(values["media"])}
    return fileformat.save(path, arrays, description, FILE)


def read(path) -> dict:
    """The attributes that :func:`write` wrote.

    Raises AttributionError if the file is missing, damaged, cut short or of a newer version.
    """
    return fileformat.opened(path, _attributes, FILE)


def _attributes(arrays: dict, description: dict) -> dict:
    def named(prefix: str) -> dict:
        return {
            name.removeprefix(prefix): arrays.pop(name)
            for name in list(arrays)
            if name.startswith(prefix)
        }

    media, own = named("media."), named("tokens.")
    there = own or "tokens" in description  # version 1 had none
    tokens = Tokens.from_arrays(own, description["tokens"]) if there else None
    _check_arrays(arrays, tokens)
    if sorted(media) != sorted(map(str, range(len(media)))):
        raise ValueError(f"media {', '.join(media)}")
    if tokens is not None and tokens.media.max(initial=-1) >= len(media):
        raise ValueError(f"tokens of medium {tokens.media.max()}, there are {len(media)}")
    position, against = int(description["position"]), description["against"]
    return {
        **arrays,
        "target": _token(description["target"], spans=True),
        "against": None if against is None else _token(against),
        "position": position,
        "total": float(description["total"]),
        "embedding": _number(description["embedding"]),
        "base": _number(description.get("base")),
        "stop": int(description.get("stop", position + 1)),
        "tokens": tokens,
        "media": [media[str(i)] for i in range(len(media))],
        "method": str(description["method"]),
        "model": dict(description["model"]),
        "interventions": tuple(map(str, description["interventions"])),
    }


def _check_arrays(arrays: dict, tokens: Tokens | None) -> None:
    """Raise ValueError for arrays that do not fit together."""
    if unknown := arrays.keys() - AXES.keys():
        raise ValueError(f"an array {min(unknown)!r}")
    sizes = {} if tokens is None else {"position": len(tokens)}
    for name, array in arrays.items():
        if array.ndim != len(AXES[name]):
            raise ValueError(f"{name} of shape {array.shape}")
        for axis, size in zip(AXES[name], array.shape):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has {size} along {axis}, others {sizes[axis]}")
    for together in (("heads", "mlp"), ("experts", "expert_ids", "expert_weights")):
        there = [name for name in together if name in arrays]
        if there and len(there) < len(together):
            raise ValueError(f"of {', '.join(together)} only {', '.join(there)}")
    if arrays.keys() & {"experts", "per_layer"} and "heads" not in arrays:
        raise ValueError("shares of layers without those of their heads")


def _token(said, spans: bool = False) -> tuple[int | None, str]:
    number, text = said
    return (None if spans and number is None else int(number)), str(text)


def _number(said) -> float | None:
    return None if said is None else float(said)
