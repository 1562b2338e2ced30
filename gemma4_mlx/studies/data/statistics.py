"""How unlikely a sum is by chance, and the correction for asking many questions at once."""

import numpy as np


def bennett_tail(t: np.ndarray, variance: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Most that the chance can be of a sum of ``t`` or more.

    The sum is of independent terms of mean 0, none above ``largest``, whose variances add up to
    ``variance``: ``exp(-(v / b^2) h(b t / v))`` with ``h(u) = (1 + u) ln(1 + u) - u``. It is a
    bound, not an approximation: it holds for few terms and for skewed ones. It holds as well for
    terms drawn from a list without putting them back (Hoeffding, "Probability Inequalities for Sums
    of Bounded Random Variables", 1963, section 6).

    Bennett, "Probability Inequalities for the Sum of Independent Random Variables" (1962).
    """
    t, v, b = np.broadcast_arrays(t, variance, largest)
    possible = (v > 0) & (b > 0) & (t > 0)
    v, b, t = (np.where(possible, x, 1.0) for x in (v, b, t))
    u = b * t / v
    return np.where(possible, np.exp(-(v / b**2) * ((1 + u) * np.log1p(u) - u)), 1.0)


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
