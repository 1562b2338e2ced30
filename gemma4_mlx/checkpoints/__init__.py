"""Reading checkpoints of every layout into a model, and planning what fits before a download.

``load`` reads, ``save`` writes, ``fit`` plans and needs no network.
"""

_HOMES = {
    "load": "loading",
    "save": "saving",
    "fit": "planner",
    "Fit": "planner",
    "FitTable": "table",
    "fit_table": "table",
    "machine_report": "report",
    "print_fit": "report",
    "RELEASED": "released",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
