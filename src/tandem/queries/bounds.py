"""How far questions can get: bounds on entropy, and how many questions to plan for."""

from math import ceil, log2, sqrt

import numpy as np
from scipy.stats import norm

from tandem.queries.answers import Answers, ExactAnswers
from tandem.queries.measures import binomial_pmf, dyadic_bits, entropy_bits, log2_binomial


def lower_bound(k: int, n: int, entropy: float = 0.0, adaptive: bool = True) -> float:
    """The least expected entropy in bits after n exact answers about k independent, alike objects.

    Adaptive policies: H0 - 2 D_k - (n - 2) log2(k + 1), because given the first answer the objects are independent, so that the
    second reveals at most D_k = H(Bin(k, ½)) as well (H0 - n D_k for n ≤ 2, which dyadic questions attain). It is tighter
    than the H0 - n log2(k + 1) that capacity gives (Rajan et al. 2015, Theorem 1). Non-adaptive ones: H0 - n D_k, which
    dyadic questions attain.

    >>> lower_bound(k=2, n=3, entropy=10.0, adaptive=False)
    5.5

    Args:
        entropy: H0, of the prior. Differential entropies are fine, and the bound may be negative.
    Raises:
        ValueError: k or n is negative.
    """
    if k < 0 or n < 0:
        raise ValueError(f"k={k} and n={n} have to be numbers ≥ 0")
    if not adaptive:
        return entropy - n * dyadic_bits(k)
    return entropy - min(n, 2) * dyadic_bits(k) - max(n - 2, 0) * log2(k + 1)


def capacity(answers: Answers, k: int, tolerance: float = 1e-10) -> float:
    """The most that one answer can reveal about a count of up to k, in bits, by Blahut and Arimoto's iteration.

    >>> round(capacity(ExactAnswers(), 3), 6)
    2.0
    """
    f_XY = answers.matrix(k)
    p_X = np.full(k + 1, 1 / (k + 1))
    noise_X, gain_X = entropy_bits(f_XY), np.zeros(k + 1)
    for _ in range(100_000):
        answer_Y = p_X @ f_XY
        gain_X = -f_XY @ np.log2(np.maximum(answer_Y, 1e-300)) - noise_X
        if gain_X.max() - p_X @ gain_X < tolerance:
            break
        p_X = p_X * 2.0**gain_X
        p_X /= p_X.sum()
    return float(gain_X.max())


def dyadic_information(k: int, answers: Answers | None = None) -> float:
    """What each dyadic question reveals, in bits: D_k, or less for answers with errors (paper Theorem 2)."""
    f_XY = (ExactAnswers() if answers is None else answers).matrix(k)
    p_X = binomial_pmf(k, 0.5)
    return float(entropy_bits(p_X @ f_XY) - p_X @ entropy_bits(f_XY))


def dyadic_entropy(k: int, n: int, entropy: float = 0.0) -> tuple[float, float]:
    """Mean and variance of the posterior entropy after n dyadic questions; for a uniform prior both are exact, and the
    distribution is close to normal (notes 3.8).

    >>> tuple(round(value, 4) for value in dyadic_entropy(3, 30))
    (-54.3383, 14.1306)
    """
    p_X = binomial_pmf(k, 0.5)
    orders_X = log2_binomial(k, np.arange(k + 1))
    variance = float(p_X @ orders_X**2 - (p_X @ orders_X) ** 2)
    return entropy - n * dyadic_bits(k), n * variance


def dyadic_questions(k: int, bits: float, confidence: float = 0.95) -> int:
    """How many dyadic questions remove at least `bits` with this confidence, in the normal approximation.

    >>> dyadic_questions(1, 20)
    20

    Raises:
        ValueError: k is 0, bits is negative, or confidence is not in (0, 1).
    """
    if k < 1 or bits < 0 or not 0 < confidence < 1:
        raise ValueError(
            f"k={k}, bits={bits}, confidence={confidence}; use k ≥ 1, bits ≥ 0 and a confidence between 0 and 1"
        )
    mean, variance = -dyadic_entropy(k, 1)[0], dyadic_entropy(k, 1)[1]
    # n mean - z sqrt(n variance) = bits, a quadratic in sqrt(n).
    half = float(norm.ppf(confidence)) * sqrt(variance) / (2 * mean)
    return ceil((half + sqrt(half**2 + bits / mean)) ** 2 - 1e-9)
