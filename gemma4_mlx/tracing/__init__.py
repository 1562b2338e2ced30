"""Tracing: observe a run, keep it as a value, and change what a run computes.

``data`` holds traces as values, which are opened, analysed and exported with numpy alone.
``recording`` drives a model (:func:`trace`, :class:`Recorder`, the interventions); what of it needs
MLX is imported when first used.
"""

from ..lazy import lazily
from .data.attention import SUMMARIES, AttentionData, HeadMass, Link
from .data.comparison import RoutingComparison, compare_routing
from .data.head_maps import OffsetMap, SpanMass
from .data.layer_attention import LayerAttention
from .data.lens import LensData
from .data.routing import RoutingData
from .data.selection import Selection
from .data.tiles import Tile
from .data.tokens import TokenInfo, Tokens
from .data.trace import Activations, Timings, Trace, open_trace
from .recording.plans import (
    ActivationPlan,
    AttentionPlan,
    LensPlan,
    PlanCost,
    RoutingPlan,
    TracePlan,
)

_WITH_MLX = {
    "trace": "recording.run",
    "Recorder": "recording.recorder",
    "Ablate": "recording.interventions",
    "Force": "recording.interventions",
    "Boost": "recording.interventions",
    "Swap": "recording.interventions",
    "ScaleHeads": "recording.interventions",
    "Scale": "recording.scale",
    "Steer": "recording.interventions",
    "Patch": "recording.patch",
    "Knockout": "recording.knockout",
    "Attend": "recording.knockout",
    "steering_vector": "recording.steering",
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

__getattr__ = lazily(__name__, _WITH_MLX)
