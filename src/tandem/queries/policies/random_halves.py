"""Random halves: the plainest non-adaptive questions."""

from dataclasses import dataclass

import numpy as np

from tandem.queries.posterior import MAX_LISTED, Posterior
from tandem.queries.region import Region


@dataclass(frozen=True)
class RandomHalves:
    """Asks about a random half of all cells, whatever was answered: A uniform among the sets of ⌊n/2⌋ cells.

    Each answer is close to Binomial(k, ½), as with dyadic questions, but the supply never ends: M cells are told apart after
    some more questions than an adaptive policy needs.

    >>> from tandem.queries import Prior, Session
    >>> len(Session(Prior.uniform(64, k=2), policy=RandomHalves()).ask())
    32
    """

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        cells = posterior.prior.cells
        if cells > MAX_LISTED:
            raise ValueError(f"n={cells} cells are too many to list half of them; use another policy")
        return [Region.of(rng.permutation(cells)[: cells // 2])]
