"""Gemma 4 on MLX, made to be looked into.

``model = gemma4_mlx.load()`` gives the embedded teaching model, ``load("google/gemma-4-E2B-it")``
a real one. Names are imported on first use, so importing the package costs next to nothing.
"""

from . import _blas

_blas.preload()  # before anything imports mlx.core

__version__ = "0.1.0"

_HOMES = {
    "load": "checkpoints",
    "fit": "checkpoints",
    "save": "checkpoints",
    "cluster": "machines",
    "Chat": "chat",
    "SamplingOptions": "generation",
    "stream": "generation",
    "PromptCache": "generation",
    "trace": "tracing",
    "open_trace": "tracing",
    "Trace": "tracing",
    "AttentionPlan": "tracing",
    "RoutingPlan": "tracing",
    "LensPlan": "tracing",
    "ActivationPlan": "tracing",
    "TracePlan": "tracing",
    "Ablate": "tracing",
    "Force": "tracing",
    "Boost": "tracing",
    "Swap": "tracing",
    "ScaleHeads": "tracing",
    "Scale": "tracing",
    "Steer": "tracing",
    "Patch": "tracing",
    "Knockout": "tracing",
    "Attend": "tracing",
    "steering_vector": "tracing",
    "attribute": "attribution",
    "open_attribution": "attribution",
    "Attribution": "attribution",
    "sweep": "attribution",
    "open_sweep": "attribution",
    "Sweep": "attribution",
    "head_roles": "attribution",
    "open_head_roles": "attribution",
    "HeadRoles": "attribution",
    "Needle": "attribution",
    "atlas": "studies",
    "open_atlas": "studies",
    "Atlas": "studies",
}
_ROOMS = (
    "widgets", "studies", "attribution", "tracing", "chat", "generation", "checkpoints",
    "processing", "verify", "teaching", "errors",
)  # fmt: skip

__all__ = [*_HOMES, *_ROOMS]  # noqa: PLE0604  (strings, from the two tables above)


def __getattr__(name: str):
    from importlib import import_module

    if name in _HOMES:
        try:
            value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        except ImportError as error:
            from .errors import MissingError

            raise MissingError.of(f"gemma4_mlx.{name}", error) or error from None
    elif name in _ROOMS:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
