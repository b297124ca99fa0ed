"""Numbers with their uncertainty: every result of an evaluation is an `Estimate`."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964  # two-sided 95 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number measured on n samples.

    Attributes:
        value: the number itself.
        n: samples it was measured on.
        error: its standard error, None where one sample does not tell.
        low, high: a 95 % interval, None like the error.
    """

    value: float
    n: int
    error: float | None = None
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent samples; the interval is ± 1.96 standard errors.

    >>> mean([1.0, 2.0, 3.0]).value
    2.0
    """
    middle = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(middle, len(values))
    return normal(middle, len(values), statistics.stdev(values) / math.sqrt(len(values)))


def share(hits: int, n: int) -> Estimate:
    """The share of n yes-or-no samples that are hits, with Wilson's interval, which holds at 0 and 1 too (Wilson 1927).

    >>> share(0, 50).high
    0.0713...
    """
    p, z = hits / n, _Z
    center, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n hits the bounds are exactly 0 and 1; rounding would put them just beside.
    low = 0.0 if hits == 0 else (center - spread) / scale
    high = 1.0 if hits == n else (center + spread) / scale
    return Estimate(p, n, math.sqrt(p * (1 - p) / n), low, high)


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
    """Σ tops / Σ bottoms over independent parts, with the error of a ratio estimator (Cochran 1977, §2.11).

    error² = n / (n − 1) · Σ (top − r · bottom)² / (Σ bottom)²

    >>> ratio([2.0, 4.0], [1.0, 2.0])
    Estimate(value=2.0, n=2, error=0.0, low=2.0, high=2.0)
    """
    n, whole = len(tops), math.fsum(bottoms)
    r = math.fsum(tops) / whole
    if n < 2:
        return Estimate(r, n)
    squares = math.fsum((top - r * bottom) ** 2 for top, bottom in zip(tops, bottoms, strict=True))
    return normal(r, n, math.sqrt(n / (n - 1) * squares) / whole)


def normal(value: float, n: int, error: float | None) -> Estimate:
    """A value whose standard error is known, with ± 1.96 of it as the interval."""
    if error is None:
        return Estimate(value, n)
    return Estimate(value, n, error, value - _Z * error, value + _Z * error)
