"""What questions are worth: entropy left after each by policy, and how the entropy after dyadic questions is spread.

Start at `bits_by_question` and `dyadic_spread`. Letters: D draws, K objects, N questions, C cells of the finest digit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import binom
from scipy.stats import entropy, kstest

from tandem.queries import Policy, Posterior, Prior, Session, dyadic_entropy

Floats = NDArray[np.float64]

MANY_VALUES = 60  # up to so many different entropies, each has a bar of its own


def bits_by_question(policy: Policy, k: int, cells: int, trials: int, seed: int = 0) -> dict[str, Any]:
    """Random searches: bits that 1, 2, … questions have removed, and how many questions there were.

    A question counts with its expected bits, H(X | answers so far), and not with what its answer happened to reveal: the
    mean is the same, with far less spread. A search whose exact posterior would outgrow its memory ends there, and the
    means then reach as far as the shortest such search.

    Returns:
        `bits` and `error`: mean and standard error after each question; `questions`: of each search that found its objects;
        `cut`: how many had to end before; `entropy`: of the prior, as multisets; `cells`.
    """
    prior = Prior.uniform(cells, k=k)
    curves: list[list[float]] = []
    questions: list[int] = []
    cut: list[int] = []
    for trial in range(trials):
        session = Session(prior, policy=policy, seed=trial)
        curves.append(_gains(session, np.random.default_rng([seed, k, trial]).integers(cells, size=k)))
        (questions if session.posterior.exact else cut).append(session.questions)
    longest = max(map(len, curves))
    total = np.cumsum([gains + [0.0] * (longest - len(gains)) for gains in curves], axis=1)[
        :, : min(cut, default=longest)
    ]
    error = total.std(0, ddof=1) / np.sqrt(trials) if trials > 1 else np.zeros(total.shape[1])
    return {
        "bits": total.mean(0).tolist(),
        "error": error.tolist(),
        "questions": questions,
        "cut": len(cut),
        "entropy": Posterior(prior).entropy(),
        "cells": cells,
    }


def _gains(session: Session, truth: NDArray[np.int64]) -> list[float]:
    """Expected bits of each question of a search."""
    gains = []
    while session.posterior.exact and not session.done:
        region = session.ask()
        gains.append(float(entropy(session.posterior.count_distribution(region), base=2)))
        session.tell(region.count(truth))
    return gains


@dataclass(frozen=True)
class Density:
    """A density of the objects on (0, 1).

    Attributes:
        entropy: of one object, in bits.
    """

    name: str
    entropy: float

    def log_mean(self, digits: int) -> Floats | None:
        """Mean of log2 f0 in each of the 2**digits cells of equal mass, shape (C,); None where it is 0 throughout."""
        if self.name == "1":
            return None
        # f0 = 2u has quantiles √v, so that log2 f0 = 1 + ½ log2 v; the mean of ln v over (a, b) is [v ln v - v] / (b - a).
        edges = np.arange(2**digits + 1) / 2**digits
        integral = edges * np.log(np.maximum(edges, 1e-300)) - edges
        return 1 + np.diff(integral) * 2**digits / (2 * np.log(2.0))


UNIFORM = Density("1", 0.0)
RISING = Density("2u", float((0.5 - np.log(2.0)) / np.log(2.0)))


def dyadic_spread(k: int, n: int, draws: int, density: Density = UNIFORM, seed: int = 0) -> dict[str, Any]:
    """The posterior's differential entropy after n dyadic questions about k random objects, beside its normal approximation.

    Returns:
        `mean`, `variance` and what the theory says of them; `distance`: of Kolmogorov and Smirnov from the normal
        distribution; `within`: share inside 1.96 standard deviations; `edges` and `heights` of a histogram of (H - mean) / deviation.
    """
    entropy_D = posterior_entropies(k, n, draws, density, np.random.default_rng([seed, k, n]))
    mean, variance = dyadic_entropy(k, n, k * density.entropy)
    z_D = (entropy_D - mean) / np.sqrt(variance)
    heights, edges = np.histogram(z_D, bins=_edges(z_D), density=True)
    return {
        "k": k,
        "n": n,
        "density": density.name,
        "draws": draws,
        "mean": float(entropy_D.mean()),
        "variance": float(entropy_D.var(ddof=1)),
        "theory": [mean, variance],
        "distance": float(kstest(z_D, "norm").statistic),
        "within": float(np.mean(np.abs(z_D) < 1.96)),
        "edges": edges.tolist(),
        "heights": heights.tolist(),
    }


def posterior_entropies(k: int, n: int, draws: int, density: Density, rng: np.random.Generator) -> Floats:
    """H(p_n) = -k ∫ m_n log2 f0 - Σ (k - log2 C(k, x_n)) of random objects, shape (D,), m_n one object's density."""
    counts_DN = np.concatenate([_digit_counts(k, n, part, rng) for part in _parts(draws)])
    entropy_D = (np.log2(binom(k, counts_DN)) - k).sum(1)
    log_C = density.log_mean(n)
    if log_C is None:
        return entropy_D
    return entropy_D - k * np.concatenate([_mean_log(counts_N / k, log_C) for counts_N in counts_DN[:, None]])


def _parts(draws: int, most: int = 5000) -> list[int]:
    return [most] * (draws // most) + ([draws % most] if draws % most else [])


def _digit_counts(k: int, n: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of k random objects have each of their first n binary digits set, shape (D, N)."""
    quantile_DK = rng.integers(2**n, size=(draws, k))
    return ((quantile_DK[:, :, None] >> np.arange(n - 1, -1, -1)) & 1).sum(1)


def _mean_log(share_1N: Floats, log_C: Floats) -> Floats:
    """Mean of log2 f0 at an object whose digits are set with these probabilities, digit after digit from the last."""
    for share in share_1N[0][::-1]:
        log_C = log_C[::2] * (1 - share) + log_C[1::2] * share
    return log_C


def _edges(z_D: Floats) -> Floats | int:
    """Bins around each value where there are few; 40 otherwise."""
    values = np.unique(np.round(z_D, 9))
    if len(values) > MANY_VALUES or len(values) < 2:
        return 40
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])
