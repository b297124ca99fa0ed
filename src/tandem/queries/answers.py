"""What an oracle says about a region that holds X of the k objects: the count itself, or the count seen through an error.

One class a kind of answer. Each says how likely an answer y is at every count, f(y | X), and that is all that inference needs.

Letters: X counts 0 … k, Y possible answers (for continuous answers, points of a grid).
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from tandem.queries.measures import binomial_pmf, entropy_bits

Floats = NDArray[np.float64]


@runtime_checkable
class Answers(Protocol):
    """A channel from counts to answers."""

    @property
    def deterministic(self) -> bool:
        """Whether the count fixes the answer."""
        ...

    def matrix(self, k: int) -> Floats:
        """f_XY, rows that sum to 1: the probability of every answer (of every cell of a grid of answers) at each count."""
        ...

    def likelihood(self, answer: float, k: int) -> Floats:
        """f(answer | X) for X = 0 … k; all zeros when no count can give the answer.

        Raises:
            ValueError: no question about k objects has this answer.
        """
        ...


def information(f_XY: Floats, pmf: Floats, noise_X: Floats | None = None) -> Floats:
    """I(X; Y) = H(Y) - Σ P(x) H(Y | x) in bits, for counts distributed as the last axis of `pmf` says.

    `noise_X` is H(Y | x), for those who ask often.
    """
    noise_X = entropy_bits(f_XY) if noise_X is None else noise_X
    flat = pmf.reshape(-1, pmf.shape[-1])  # one product of matrices, not one for each of the leading axes
    return (entropy_bits(flat @ f_XY) - flat @ noise_X).reshape(pmf.shape[:-1])


def _whole(answer: float, low: int, high: int | None, k: int) -> int:
    """Checks an answer that must be an integer in a range."""
    top = "" if high is None else f" to {high}"
    if answer != int(answer) or answer < low or (high is not None and answer > high):
        raise ValueError(f"answer={answer} about {k} objects is impossible; it has to be an integer from {low}{top}")
    return int(answer)


@dataclass(frozen=True)
class ExactAnswers:
    """The count: f(y | x) = 1 if y = x.

    >>> ExactAnswers().likelihood(1, k=3).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """

    deterministic = True

    def matrix(self, k: int) -> Floats:
        return np.eye(k + 1)

    def likelihood(self, answer: float, k: int) -> Floats:
        return np.eye(k + 1)[_whole(answer, 0, k, k)]


@dataclass(frozen=True)
class SaturatedAnswers:
    """The count up to a limit: y = min(x, limit). A limit of 1 is group testing: "any of them here?".

    >>> SaturatedAnswers(1).likelihood(1, k=3).tolist()
    [0.0, 1.0, 1.0, 1.0]
    """

    limit: int

    deterministic = True

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError(f"limit={self.limit} leaves nothing to answer; use 1 or more")

    def matrix(self, k: int) -> Floats:
        top = min(self.limit, k)
        return np.eye(top + 1)[np.minimum(np.arange(k + 1), top)]

    def likelihood(self, answer: float, k: int) -> Floats:
        return self.matrix(k)[:, _whole(answer, 0, min(self.limit, k), k)]


@dataclass(frozen=True)
class NoisyAnswers:
    """The count plus an independent integer error: y = x + e with probability `errors[e]`; y may be negative or exceed k.

    >>> NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1}).likelihood(1, k=2).tolist()
    [0.1, 0.8, 0.1]
    """

    errors: dict[int, float]

    deterministic = False

    def __post_init__(self):
        if not np.isclose(sum(self.errors.values()), 1.0) or min(self.errors.values()) < 0:
            raise ValueError(f"errors={self.errors} is no distribution; its values have to be ≥ 0 and add up to 1")

    def matrix(self, k: int) -> Floats:
        lowest, highest = min(self.errors), max(self.errors)
        f_XY = np.zeros((k + 1, k + 1 + highest - lowest))
        for error, probability in self.errors.items():
            f_XY[np.arange(k + 1), np.arange(k + 1) + error - lowest] = probability
        return f_XY

    def likelihood(self, answer: float, k: int) -> Floats:
        y = _whole(answer, min(self.errors), k + max(self.errors), k)
        return np.array([self.errors.get(y - x, 0.0) for x in range(k + 1)])


@dataclass(frozen=True, eq=False)
class ConfusedAnswers:
    """Any confusion of finitely many answers: `confusion[x][y]` is the probability of answer y at count x.

    >>> ConfusedAnswers([[0.9, 0.1], [0.2, 0.8]]).likelihood(1, k=1).tolist()
    [0.1, 0.8]
    """

    confusion: list[list[float]]

    deterministic = False

    def __post_init__(self):
        table = np.asarray(self.confusion, dtype=np.float64)
        if table.ndim != 2 or np.any(table < 0) or not np.allclose(table.sum(1), 1.0):
            raise ValueError(
                "confusion is no table of distributions; give one row a count, each ≥ 0 and adding up to 1"
            )

    def matrix(self, k: int) -> Floats:
        if len(self.confusion) <= k:
            raise ValueError(f"confusion has {len(self.confusion)} rows for up to {k} objects; give {k + 1}")
        return np.asarray(self.confusion[: k + 1], dtype=np.float64)

    def likelihood(self, answer: float, k: int) -> Floats:
        f_XY = self.matrix(k)
        return f_XY[:, _whole(answer, 0, f_XY.shape[1] - 1, k)]


@dataclass(frozen=True)
class MissedAnswers:
    """Each object in the region is seen with probability `seen`, independently: y ~ Bin(x, seen).

    >>> MissedAnswers(0.5).likelihood(1, k=2).tolist()
    [0.0, 0.5, 0.5]
    """

    seen: float

    deterministic = False

    def __post_init__(self):
        if not 0 < self.seen <= 1:
            raise ValueError(f"seen={self.seen} is no probability above 0; use a number in (0, 1]")

    def matrix(self, k: int) -> Floats:
        f_XY = np.zeros((k + 1, k + 1))
        for x in range(k + 1):
            f_XY[x, : x + 1] = binomial_pmf(x, self.seen)
        return f_XY

    def likelihood(self, answer: float, k: int) -> Floats:
        return self.matrix(k)[:, _whole(answer, 0, k, k)]


@dataclass(frozen=True)
class PoissonAnswers:
    """Counts of events: y ~ Poisson(background + rate · x), as from a detector that objects shine into.

    >>> PoissonAnswers(rate=2.0).likelihood(0, k=1).round(3).tolist()
    [1.0, 0.135]
    """

    rate: float
    background: float = 0.0

    deterministic = False

    def __post_init__(self):
        if self.rate <= 0 or self.background < 0:
            raise ValueError(f"rate={self.rate} and background={self.background}; rate has to be > 0, background ≥ 0")

    def matrix(self, k: int) -> Floats:
        mean = self.background + self.rate * k
        top = int(mean + 12 * np.sqrt(mean) + 30)  # what lies beyond has a probability below 1e-16
        f_XY = np.stack([self._pmf(np.full(k + 1, float(y)), k) for y in range(top + 1)], axis=1)
        return f_XY / f_XY.sum(1, keepdims=True)

    def likelihood(self, answer: float, k: int) -> Floats:
        return self._pmf(np.full(k + 1, float(_whole(answer, 0, None, k))), k)

    def _pmf(self, y_X: Floats, k: int) -> Floats:
        mean_X = self.background + self.rate * np.arange(k + 1)
        return np.exp(xlogy(y_X, mean_X) - mean_X - gammaln(y_X + 1))


@dataclass(frozen=True)
class GaussianAnswers:
    """The count plus Gaussian noise: y ~ N(x, sigma²); any real number can be an answer.

    >>> GaussianAnswers(1.0).likelihood(0.5, k=1).round(4).tolist()
    [0.3521, 0.3521]
    """

    sigma: float

    deterministic = False

    def __post_init__(self):
        if self.sigma <= 0:
            raise ValueError(f"sigma={self.sigma} is no width; use a number above 0, or ExactAnswers")

    def matrix(self, k: int) -> Floats:
        # Steps of an eighth: the trapezoid rule on Gaussians of this width is exact to float64.
        y_Y = np.arange(-9 * self.sigma, k + 9 * self.sigma, self.sigma / 8)
        f_XY = self._density(y_Y[None, :] - np.arange(k + 1.0)[:, None])
        return f_XY / f_XY.sum(1, keepdims=True)

    def likelihood(self, answer: float, k: int) -> Floats:
        if not np.isfinite(answer):
            raise ValueError(f"answer={answer} is not a finite number")
        return self._density(answer - np.arange(k + 1.0))

    def _density(self, error: NDArray[Any]) -> Floats:
        return np.exp(-0.5 * (error / self.sigma) ** 2) / (self.sigma * np.sqrt(2 * np.pi))
