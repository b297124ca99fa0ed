"""Entropies and binomial tables, in bits and float64.

Letters: X values of a count, 0 … k; Y values of an answer.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

LOG2 = float(np.log(2.0))


def entropy_bits(pmf: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """−Σ p log2 p along an axis; zeros add nothing.

    >>> float(entropy_bits(np.array([0.5, 0.25, 0.25])))
    1.5
    """
    return np.asarray(-xlogy(pmf, pmf).sum(axis) / LOG2)


def sums(key: NDArray[np.int64], weight: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Adds up the weights that have the same key, shape (size,)."""
    return np.asarray(np.bincount(key, weights=weight, minlength=size), dtype=np.float64)


def log2_factorial(count: NDArray[np.integer] | np.integer | int) -> NDArray[np.float64]:
    """log2 of count!."""
    return np.asarray(gammaln(np.asarray(count) + 1.0) / LOG2)


def log2_binomial(
    n: NDArray[np.integer] | np.integer | int, count: NDArray[np.integer] | np.integer | int
) -> NDArray[np.float64]:
    """log2 of n choose count, for 0 ≤ count ≤ n."""
    return np.asarray(log2_factorial(n) - log2_factorial(count) - log2_factorial(np.asarray(n) - np.asarray(count)))


MOST_OBJECTS = 1029
"""The largest k whose binomials are finite in float64."""


@cache
def pascal(k: int) -> NDArray[np.float64]:
    """The triangle of n choose j for n and j up to k, shape (k + 1, k + 1), with zeros above its diagonal.

    Sums of integers, so that small entries are exact; `gammaln` would lose the last digits.

    Raises:
        ValueError: entries would overflow float64.
    """
    if k > MOST_OBJECTS:
        raise ValueError(f"k={k} is more objects than the binomials of float64 reach; use at most {MOST_OBJECTS}")
    triangle = np.zeros((k + 1, k + 1))
    triangle[:, 0] = 1.0
    for n in range(1, k + 1):
        triangle[n, 1:] = triangle[n - 1, 1:] + triangle[n - 1, :-1]
    return triangle


def binomial_pmf(k: int, probability: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """P(X = 0 … k) of k trials, along a new last axis.

    >>> binomial_pmf(2, 0.5).tolist()
    [0.25, 0.5, 0.25]
    """
    p = np.asarray(probability, dtype=np.float64)[..., None]
    j = np.arange(k + 1)
    return pascal(k)[k] * np.exp(xlogy(j, p) + xlog1py(k - j, -p))


@cache
def dyadic_bits(k: int) -> float:
    """D_k = H(Bin(k, ½)): what one dyadic question about k objects reveals, in bits.

    >>> dyadic_bits(1), dyadic_bits(2)
    (1.0, 1.5)
    """
    return float(entropy_bits(binomial_pmf(k, 0.5)))
