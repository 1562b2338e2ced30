"""Reading checkpoints of every layout into a model, and planning what fits before a download.

``load`` reads, ``save`` writes, ``fit`` plans and needs no network.
"""

from ..lazy import lazily

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

__getattr__ = lazily(__name__, _HOMES)
