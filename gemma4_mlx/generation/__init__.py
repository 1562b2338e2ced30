"""From logits to a stream of events: sampling, stopping, caches, constraints, and the one thread
that owns MLX."""

from .caches import PromptCache
from .constrained import Constraint
from .engine import Engine, Job, engine, run_on_engine
from .events import Alternative, Finish, Progress, Token
from .guides import ThinkingBudget
from .sampling import SamplingOptions
from .stream import stream

__all__ = [
    "Alternative",
    "Constraint",
    "Engine",
    "Finish",
    "Job",
    "Progress",
    "PromptCache",
    "SamplingOptions",
    "ThinkingBudget",
    "Token",
    "engine",
    "run_on_engine",
    "stream",
]
