"""Random halves: the plainest non-adaptive questions."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tandem.queries.constraints import Constraints, refuse
from tandem.queries.posterior import MAX_LISTED, Posterior
from tandem.queries.region import Region


@dataclass(frozen=True)
class RandomHalves:
    """Asks about a random half of all cells, whatever was answered: A uniform among the sets of ⌊n/2⌋ cells (of those that
    may be asked about, and as near to half as the sizes of `constraints` allow).

    Each answer is close to Binomial(k, ½), as with dyadic questions, but the supply never ends: M cells are told apart after
    some more questions than an adaptive policy needs.

    >>> from tandem.queries import Prior, Session
    >>> len(Session(Prior.uniform(64, k=2), policy=RandomHalves()).ask())
    32
    """

    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        cells = posterior.prior.cells
        if cells > MAX_LISTED:
            raise ValueError(f"n={cells} cells are too many to list half of them; use another policy")
        ranges = self.constraints.allowed(posterior.prior).ranges
        allowed = np.concatenate([np.arange(int(start), int(stop)) for start, stop in ranges])
        size = max(cells // 2, self.constraints.smallest)
        return [Region.of(rng.permutation(allowed)[: min(size, self.constraints.largest or cells)])]
