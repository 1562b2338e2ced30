"""Several machines that compute one model together, through MLX's own ``mx.distributed``."""

from ..lazy import lazily

_HOMES = {"cluster": "starting", "Cluster": "leader"}

__all__ = list(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
