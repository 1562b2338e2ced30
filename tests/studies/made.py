"""Traces of a planted router: which tokens go to which expert is known."""

import numpy as np

from gemma4_mlx.tracing import RoutingData, Tokens, Trace
from gemma4_mlx.tracing.data.tokens import KINDS

E, K, LAYERS, VOCABULARY = 12, 3, (1, 2, 4), 50
ROLES = ["", "system", "user", "thinking", "model", "pirate"]


def trace(rng, n, favourites=(), ids=None, norms=True, pull=4.0, scale=None) -> Trace:
    """n tokens; layer i of ``favourites`` {layer index: expert} draws tokens to an expert.

    Tokens of one document are alike: it has a taste of its own beside the label's.
    """
    noise = rng.gumbel(size=(len(LAYERS), n, E)) + 2 * rng.normal(size=(len(LAYERS), 1, E))
    for i, expert in dict(favourites).items():
        noise[i, :, expert] += pull
    chosen = np.argsort(-noise, axis=-1)[..., :K].astype(np.uint8)
    share = np.sort(rng.dirichlet(np.ones(K), (len(LAYERS), n)), axis=-1)[..., ::-1]
    scale = np.ones((len(LAYERS), E), np.float32) if scale is None else scale
    picked = np.take_along_axis(scale[:, None], chosen.astype(np.int64), axis=-1)
    ids = rng.integers(0, VOCABULARY, n) if ids is None else ids
    kinds = np.where(rng.random(n) < 0.1, KINDS.index("image"), 0)
    roles = [ROLES[i] for i in np.sort(rng.integers(0, len(ROLES), n))]
    tokens = Tokens(ids, [f"t{i}" for i in ids], kinds, roles)
    outputs = rng.gamma(2, 3, chosen.shape).astype(np.float32) if norms else None
    weights = (share * picked).astype(np.float32)
    routing = RoutingData(LAYERS, chosen, weights, E, tokens, None, scale, outputs)
    return Trace(tokens, routing, model={"fingerprint": "planted", "source": "planted"})


def corpus(seed, documents=20, labels=("code", "law", "sums"), **options) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    return {
        label: [trace(rng, int(n), **options) for n in rng.integers(1, 60, documents)]
        for label in labels
    }


def concatenated(traces) -> RoutingData:
    """All tokens of some traces as one."""
    parts = [trace.routing for trace in traces]
    tokens = Tokens(
        np.concatenate([t.tokens.ids for t in traces]),
        [text for t in traces for text in t.tokens.texts],
        np.concatenate([t.tokens.kinds for t in traces]),
        [role for t in traces for role in t.tokens.roles],
    )
    norms = [part.norms for part in parts]
    return RoutingData(
        parts[0].layers,
        np.concatenate([part.experts for part in parts], axis=1),
        np.concatenate([part.weights for part in parts], axis=1),
        parts[0].num_experts,
        tokens,
        None,
        parts[0].scale,
        None if norms[0] is None else np.concatenate(norms, axis=1),
    )
