"""Batches: questions that are asked together, before any of their answers is known."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.policies.half_greedy import best_beside
from tandem.queries.posterior import Posterior
from tandem.queries.region import Region


@dataclass(frozen=True)
class BatchGreedyPolicy:
    """Asks `size` questions a round: A_b = argmax H(X | X_{A_1} … X_{A_{b-1}}), one after the other among whole and halved atoms.

    Joint entropy is monotone and submodular, so that picking one set after the other reaches at least 1 - 1/e of the best
    batch. With noisy answers the sets are still told apart by the counts behind the earlier answers of the batch.

    >>> from tandem.queries import Prior, Session
    >>> session = Session(Prior.uniform(16, k=2), policy=BatchGreedyPolicy(size=2))
    >>> [len(region) for region in session.ask_all()]
    [8, 8]

    Attributes:
        size: questions of a round, at most 4. restarts: random starts of the search for each.
        constraints: sizes and forbidden cells are kept.
    """

    size: int = 2
    restarts: int = 2
    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)
        if not 1 <= self.size <= 4:
            raise ValueError(f"size={self.size} questions a round; use 1 to 4 (all at once: DyadicPolicy)")

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        batch: list[Region] = []
        for _ in range(self.size):
            region = self.beside(posterior, batch, rng)
            if region is None:
                break
            batch.append(region)
        if not batch:
            raise NothingToAskError("no question tells apart what is still possible; such answers cannot say more")
        return batch

    def beside(self, posterior: Posterior, asked: list[Region], rng: np.random.Generator) -> Region | None:
        """One question more, while those asked have no answer yet; None when it would reveal nothing."""
        return best_beside(posterior, asked, self.constraints, self.restarts, rng)
