"""Several machines that compute one model together, through MLX's own ``mx.distributed``."""

_HOMES = {"cluster": "starting", "Cluster": "leader"}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
