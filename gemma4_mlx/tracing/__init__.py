"""Tracing: observe a run, keep it as a value, and change what a run computes.

The data half (opening, analysing, saving and exporting traces) imports numpy only. What drives a
model (:func:`trace`, :class:`Recorder`, the interventions) is imported when first used.
"""

from .attention import SUMMARIES, AttentionData, HeadMass, Link
from .comparison import RoutingComparison, compare_routing
from .data import Activations, Timings, Trace, open_trace
from .head_maps import OffsetMap, SpanMass
from .layer_attention import LayerAttention
from .lens import LensData
from .plans import ActivationPlan, AttentionPlan, LensPlan, PlanCost, RoutingPlan, TracePlan
from .routing import RoutingData
from .selection import Selection
from .tiles import Tile
from .tokens import TokenInfo, Tokens

_WITH_MLX = {
    "trace": "run",
    "Recorder": "recorder",
    "Ablate": "interventions",
    "Force": "interventions",
    "Boost": "interventions",
    "Swap": "interventions",
    "ScaleHeads": "interventions",
    "Steer": "interventions",
    "Patch": "interventions",
    "steering_vector": "steering",
}

__all__ = [
    "SUMMARIES",
    "ActivationPlan",
    "Activations",
    "AttentionData",
    "AttentionPlan",
    "HeadMass",
    "LayerAttention",
    "LensData",
    "LensPlan",
    "Link",
    "OffsetMap",
    "PlanCost",
    "RoutingComparison",
    "RoutingData",
    "RoutingPlan",
    "Selection",
    "SpanMass",
    "Tile",
    "Timings",
    "TokenInfo",
    "Tokens",
    "Trace",
    "TracePlan",
    "compare_routing",
    "open_trace",
]
__all__ += [*_WITH_MLX]  # noqa: PLE0604


def __getattr__(name: str):
    if name in _WITH_MLX:
        from importlib import import_module

        return getattr(import_module(f".{_WITH_MLX[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
