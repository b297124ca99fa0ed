"""Other laws of the loss, to fit beside `PrecisionLaw`: two that know no formats, and one that counts bits as parameters.

Symbols: N parameters, D tokens, E exponent bits, M mantissa bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Chinchilla:
    """L = n/N^α + d/D^β + ε (Hoffmann et al. 2022, arXiv 2203.15556, eq. 2)."""

    n: float
    alpha: float
    d: float
    beta: float
    epsilon: float

    def predict(self, N: Any, D: Any, E: Any = 8, M: Any = 7, log2_block: Any = 0) -> Any:
        """The loss, of numbers or of arrays, whatever the format."""
        return self.n / N**self.alpha + self.d / D**self.beta + self.epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Kaplan:
    """L = [(n/N)^(α/β) + d/D]^β + ε (Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, there with ε = 0)."""

    n: float
    alpha: float
    d: float
    beta: float
    epsilon: float

    def predict(self, N: Any, D: Any, E: Any = 8, M: Any = 7, log2_block: Any = 0) -> Any:
        """The loss, of numbers or of arrays, whatever the format."""
        return ((self.n / N) ** (self.alpha / self.beta) + self.d / D) ** self.beta + self.epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Kumar:
    """L = n/[N (1 - e^(-P/γ))]^α + d/D^β + ε with P = E + M + 1 bits (Kumar et al. 2024, arXiv 2411.04330)."""

    n: float
    alpha: float
    d: float
    beta: float
    epsilon: float
    gamma: float

    def predict(self, N: Any, D: Any, E: Any, M: Any, log2_block: Any = 0) -> Any:
        """The loss, of numbers or of arrays, whatever the block."""
        effective = N * -np.expm1(-(E + M + 1) / self.gamma)
        return self.n / effective**self.alpha + self.d / D**self.beta + self.epsilon
