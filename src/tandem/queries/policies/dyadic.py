"""Dyadic questions: one binary digit of the objects' quantiles after the other."""

from dataclasses import dataclass, field

import numpy as np

from tandem.queries.policies.half_greedy import HalfGreedyPolicy
from tandem.queries.policies.policy import Policy
from tandem.queries.posterior import Posterior
from tandem.queries.prior import Prior
from tandem.queries.region import Region


@dataclass(frozen=True)
class DyadicPolicy:
    """Asks which objects have digit n of their quantile set: A_n = {u : ⌊2ⁿ F₀(u)⌋ odd}.

    Non-adaptive, so that all questions can be asked at once; each answer is Binomial(k, ½), so N questions remove exactly
    N·H(Bin(k, ½)) bits (paper eq. 9-10). 2^L cells have L digits, which leave k objects with L(k - D_k) bits on average;
    from there on another policy asks.

    >>> from tandem.queries import Prior, Session
    >>> session = Session(Prior.uniform(8, k=2), policy=DyadicPolicy())
    >>> sorted(session.ask())
    [4, 5, 6, 7]
    >>> [region.ranges for region in DyadicPolicy().batch(Prior.uniform(4, k=2))]
    [((2, 4),), ((1, 2), (3, 4))]
    """

    then: Policy = field(default_factory=HalfGreedyPolicy)

    def batch(self, prior: Prior) -> list[Region]:
        """All dyadic questions there are."""
        return [prior.dyadic(digit) for digit in range(1, (prior.cells - 1).bit_length() + 1)]

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        left = self.batch(posterior.prior)[len(posterior.history) :]
        return left or self.then.questions(posterior, rng)
