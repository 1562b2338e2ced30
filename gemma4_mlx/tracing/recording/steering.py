"""A direction in the residual stream from the difference of two sets of prompts.

After Turner et al., "Activation Addition: Steering Language Models Without Optimization" (2023),
with means over sets as in Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition"
(2024).
"""

import numpy as np

from ...errors import InterventionError
from .plans import ActivationPlan
from .run import trace


def steering_vector(model, prompts_a, prompts_b, layer: int, tokens: str = "last") -> np.ndarray:
    """Mean of A's activations after ``layer`` minus mean of B's: (H,) float32.

    ``prompts_a``, ``prompts_b``: what :func:`.run.trace` takes, several of each. ``tokens``:
    "last" takes each prompt's last token, "mean" the mean over its tokens. Use it as
    ``Steer(layer, vector)``.

    Raises InterventionError for an empty list or another word for ``tokens``, TraceError for a
    layer that does not exist, and what :func:`.run.trace` raises for a prompt.
    """
    if tokens not in ("last", "mean"):
        raise InterventionError(f"tokens {tokens!r}; there are 'last' and 'mean'")
    means = []
    for prompts in (prompts_a, prompts_b):
        if isinstance(prompts, str) or not len(prompts):
            raise InterventionError("a steering vector needs a list of prompts on each side")
        rows = []
        for prompt in prompts:
            plan = ActivationPlan(layers=(layer,))
            kept = trace(model, prompt, attention=None, routing=None, activations=plan)
            values = kept.activations.at("layer_output", layer)
            rows.append(values[-1] if tokens == "last" else values.mean(axis=0))
        means.append(np.mean(rows, axis=0, dtype=np.float64))
    return (means[0] - means[1]).astype(np.float32)
