"""Which heads are unusual, and which are alike: numbers for the map of heads.

A head is a point whose coordinates are its summaries (:data:`gemma4_mlx.tracing.SUMMARIES`): square
roots of masses, the logarithm of the mean distance, the entropy. Each coordinate is centred on its
median and divided by its spread, so that none counts for more than another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Summary -> what the view calls it.
SUMMARY_NAMES = {
    "first": "on the first token (sink)",
    "entropy": "entropy",
    "distance": "mean distance",
    "previous": "on the previous token",
    "same": "on the same token earlier",
    "induction": "after the same token earlier (induction)",
    "image": "on image tokens",
    "video": "on video tokens",
    "audio": "on audio tokens",
}
MEDIA = ("image", "video", "audio")
GROUPS = 6  # at most: as many as colours that are told apart
METHOD = (
    "k-means on the heads' summaries (square roots of masses, logarithm of the distance, entropy), "
    "each in units of its spread"
)


@dataclass(frozen=True)
class HeadStats:
    """Numbers of all traced heads, in the order of layers and heads.

    ``names``: the summaries there are. ``values`` (heads, names) float32. ``unlike`` (heads,): the
    largest of a head's distances from the median of heads of its kind (full or sliding), in
    spreads, and ``reason`` (heads,), the column it is in. ``group`` (heads,) int; ``groups``: for
    each its ``name`` and ``central``, the heads nearest its middle.
    """

    names: tuple[str, ...]
    values: np.ndarray
    unlike: np.ndarray
    reason: np.ndarray
    group: np.ndarray
    groups: tuple[dict, ...]


def head_stats(data, tokens) -> HeadStats:
    """The statistics of an ``AttentionData``; media that ``tokens`` lack are left out."""
    parts = [data.layer(index) for index in data.layers]
    names = [
        name
        for name in SUMMARY_NAMES
        if any(name in part.statistics for part in parts)
        and (name not in MEDIA or tokens.of_kind(name).any())
    ]
    tables = [data.summary_map(name) for name in names]  # (layers, heads)
    rows = [(k, list(part.heads)) for k, part in enumerate(parts)]
    columns = [np.concatenate([table[row] for row in rows]) for table in tables]
    count = sum(len(part.heads) for part in parts)
    values = np.stack(columns, 1) if columns else np.zeros((count, 0), np.float32)
    sliding = np.concatenate([np.full(len(p.heads), p.window is not None) for p in parts])
    place = _places(values, names)
    apart = np.zeros_like(place)
    for kind in (False, True):
        apart[sliding == kind] = _standardized(place[sliding == kind])
    reason = np.abs(apart).argmax(1) if names else np.zeros(len(values), int)
    unlike = np.abs(apart).max(1, initial=0)
    everywhere = _standardized(place)
    group = _groups(everywhere)
    groups = tuple(_described(everywhere, group, names, sliding))
    return HeadStats(tuple(names), values, unlike, reason, group, groups)


def on_scale(name: str, values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Where values stand between their lowest (0) and highest (1), and these two.

    The same scale as ``headscale.js``: square roots of masses, the logarithm of distances.
    """
    bend = {"distance": np.log1p, "entropy": np.asarray, "unlike": np.asarray}.get(name, np.sqrt)
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    low = 0.0 if name == "unlike" else low
    first, last = bend(np.float64(low)), bend(np.float64(high))
    place = (bend(values.astype(np.float64)) - first) / ((last - first) or 1.0)
    return np.clip(place, 0, 1), (low, high)


def say(name: str, value: float) -> str:
    """A summary's value in words, as ``headscale.js`` says it."""
    unit = {"entropy": f"{value:.2f} nats", "distance": f"{value:,.0f} tokens"}
    return unit.get(name, f"{value:.1f} spreads" if name == "unlike" else f"{100 * value:.0f} %")


def _places(values: np.ndarray, names) -> np.ndarray:
    """Summaries on scales on which heads can be compared: (heads, names), what is missing 0."""
    out = np.sqrt(np.maximum(np.nan_to_num(values), 0))
    for column, name in enumerate(names):
        if name == "distance":
            out[:, column] = np.log1p(np.maximum(np.nan_to_num(values[:, column]), 0))
        elif name == "entropy":
            out[:, column] = np.nan_to_num(values[:, column])
    return out


def _standardized(place: np.ndarray) -> np.ndarray:
    """Centred on the median, in units of the interquartile range of a normal distribution."""
    if not place.size:
        return place
    low, middle, high = np.quantile(place, (0.25, 0.5, 0.75), axis=0)
    spread = (high - low) / 1.349
    spread = np.where(spread > 1e-6, spread, place.std(0))
    return np.where(spread > 1e-6, (place - middle) / np.maximum(spread, 1e-6), 0)


def _groups(points: np.ndarray, rounds: int = 50) -> np.ndarray:
    """k-means from the middle outwards: the same groups every time, largest first, (heads,)."""
    count = min(GROUPS, max(1, len(points) // 12))
    points = np.clip(points, -4, 4)  # one extreme head is not a group
    centres = [np.zeros(points.shape[1])]
    while len(centres) < count:
        away = np.min([((points - c) ** 2).sum(1) for c in centres], axis=0)
        centres.append(points[away.argmax()])
    centres, group = np.array(centres), None
    for _ in range(rounds):
        nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        if group is not None and np.array_equal(nearest, group):
            break
        group = nearest
        for g in np.unique(group):
            centres[g] = points[group == g].mean(0)
    found, sizes = np.unique(group, return_counts=True)
    rank = np.zeros(count, int)
    rank[found[np.argsort(-sizes, kind="stable")]] = np.arange(len(found))
    return rank[group]


def _described(points: np.ndarray, group: np.ndarray, names, sliding) -> list[dict]:
    """What most sets each group apart in words ("high on the previous token, low entropy"), and
    its four middlemost heads."""
    out = []
    for g in range(int(group.max(initial=-1)) + 1):
        members = np.flatnonzero(group == g)
        middle = points[members].mean(0)
        told = [
            f"{'high' if middle[c] > 0 else 'low'} {SUMMARY_NAMES[names[c]].split(' (')[0]}"
            for c in np.argsort(-np.abs(middle))[:2]
            if abs(middle[c]) > 0.5
        ]
        away = ((points[members] - middle) ** 2).sum(1)
        central = members[np.argsort(away, kind="stable")[:4]].tolist()
        share = sliding[members].mean()
        kind = "full: " if share < 0.1 else "sliding: " if share > 0.9 else ""
        out.append({"name": kind + (", ".join(told) or "like most heads"), "central": central})
    return out
