"""Quantiles of Student's t distribution, for intervals from few independent values."""

from __future__ import annotations

from statistics import NormalDist

__all__ = ["student_t"]

_NORMAL = NormalDist()


def student_t(level: float, degrees: float) -> float:
    """The quantile at ``level``, by the expansion of Abramowitz and Stegun, 26.7.5.

    At 0.975 within 0.1 % of the true one from 4 degrees of freedom.

    Args:
        level: 0 to 1, of a figure above the median: 0.975 of a two-sided 95 % interval.
        degrees: degrees of freedom; need not be whole.
    """
    z = _NORMAL.inv_cdf(level)
    terms = (
        z,
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160.0,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
