"""Studies: what holds over many prompts.

``data`` holds studies as values, which are merged, opened and analysed with numpy alone;
``building`` reads corpora with a model, and what of it needs MLX is imported when first used.
"""

from . import corpora
from .data.atlas import Atlas, open_atlas
from .data.contexts import Context
from .data.labels import Lifts
from .data.vocabulary import Vocabulary
from .interventions import LabelExperts, boost, drop

__all__ = [
    "Atlas",
    "Context",
    "LabelExperts",
    "Lifts",
    "Vocabulary",
    "atlas",
    "boost",
    "corpora",
    "drop",
    "open_atlas",
]


def __getattr__(name: str):
    if name == "atlas":
        from .building.build import atlas

        return atlas
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
