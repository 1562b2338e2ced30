"""How unlikely a sum is by chance, and the correction for asking many questions at once."""

import numpy as np

#: Where the bound on a tail is looked for, in units of one over the standard deviation.
_TILTS = np.geomspace(0.05, 8, 24)


class SumTail:
    """How unlikely sums of ``drawn`` of ``values`` are, taken at random without putting them back.

    ``min over s of exp(drawn log mean exp(s (x - mean)) - s excess)``: Chernoff's bound for draws
    with putting back, which is one without, too (Hoeffding, "Probability Inequalities for Sums of
    Bounded Random Variables", 1963, theorem 4). Every s of either sign gives a bound; it is looked
    for among some. It is no approximation: no distribution is assumed, and values may be as skewed
    as they like. The means do not depend on the draw: they are worked out once, for many questions.

    Args:
        values: (m, ...) float32.
    """

    def __init__(self, values: np.ndarray):
        centred = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._spread = np.sqrt((centred**2).mean(axis=0, dtype=np.float64))
        self._scale = np.where(self._spread > 0, self._spread, 1)
        self._means = {}
        for sign in (-1.0, 1.0):
            for tilt in _TILTS:
                scaled = (sign * tilt / self._scale).astype(np.float32) * centred
                highest = scaled.max(axis=0)
                scaled -= highest
                mean = np.exp(scaled, out=scaled).mean(axis=0, dtype=np.float64)
                self._means[sign, tilt] = highest + np.log(mean)

    def chance(self, drawn: int, excess: np.ndarray) -> np.ndarray:
        """Most that the chance can be of a sum this far from its expectation, on its side.

        ``excess`` (...): the sum less ``drawn`` times the mean of the values. 1 where all values
        are equal, and where the sum is as expected.
        """
        least = np.zeros(excess.shape)
        for (sign, tilt), mean in self._means.items():
            bound = drawn * mean - sign * tilt / self._scale * excess
            least = np.where(np.sign(excess) == sign, np.minimum(least, bound), least)
        return np.where(self._spread > 0, np.exp(least), 1.0)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """The smallest share of false discoveries at which each hypothesis would be rejected.

    ``q_i = min over j with p_j >= p_i of (m p_j / rank_j)``, for m hypotheses, at most 1. Rejecting
    what has ``q <= 0.05`` keeps the expected share of false ones among the rejected below 5%, where
    the hypotheses are independent or positively dependent. nan is no hypothesis and stays nan.

    Benjamini and Hochberg, "Controlling the False Discovery Rate" (1995).
    """
    q = np.full(p.shape, np.nan)
    asked = ~np.isnan(p)
    values = p[asked]
    order = np.argsort(values, kind="stable")
    m = len(values)
    scaled = values[order] * m / np.arange(1, m + 1)
    found = np.empty(m)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    q[asked] = found
    return q
