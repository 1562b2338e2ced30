"""Tables for pandas, polars or Arrow; each is imported only when it is asked for."""

import numpy as np

from ...errors import TraceError
from .tokens import KINDS


def to_frame(columns: dict, library: str):
    """Equal-length columns as a frame of "pandas", "polars" or "arrow".

    Raises TraceError if that library is not installed or not known.
    """
    try:
        if library == "pandas":
            import pandas

            return pandas.DataFrame(columns)
        if library == "polars":
            import polars

            return polars.DataFrame(columns)
        if library == "arrow":
            import pyarrow

            return pyarrow.table(columns)
    except ImportError as missing:
        raise TraceError(f"{library} is missing ({missing}): pip install {missing.name}") from None
    raise TraceError(f"no frame library {library!r}; there are 'pandas', 'polars' and 'arrow'")


def routing_frame(routing, library: str = "pandas"):
    """One row for each (layer, token, rank).

    Columns: layer, token, rank (0 the strongest), expert, weight, id, text, kind, role.

    Raises TraceError if that library is not installed or not known.
    """
    layers, n, k = routing.experts.shape
    tokens = routing.tokens
    repeat = np.tile(np.repeat(np.arange(n), k), layers)
    return to_frame(
        {
            "layer": np.repeat(np.array(routing.layers, np.int32), n * k),
            "token": repeat.astype(np.int32),
            "rank": np.tile(np.arange(k, dtype=np.int8), layers * n),
            "expert": np.asarray(routing.experts).ravel(),
            "weight": np.asarray(routing.weights).ravel(),
            "id": tokens.ids[repeat],
            "text": np.array(tokens.texts, object)[repeat].tolist(),
            "kind": np.array(KINDS, object)[tokens.kinds][repeat].tolist(),
            "role": np.array(tokens.roles, object)[repeat].tolist(),
        },
        library,
    )


def heads_frame(attention, library: str = "pandas"):
    """One row for each traced head: layer, head, type and the summaries.

    Raises TraceError if that library is not installed or not known.
    """
    rows = attention.summaries()
    return to_frame({name: [row[name] for row in rows] for name in rows[0]}, library)
