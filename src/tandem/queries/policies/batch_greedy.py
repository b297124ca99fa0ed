"""Batches: questions that are asked together, before any of their answers is known."""

from dataclasses import dataclass

import numpy as np

from tandem.queries.policies.half_greedy import HalfSearch
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Integers
from tandem.queries.region import Region
from tandem.queries.table import Table, TooManyRowsError


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
    """

    size: int = 2
    restarts: int = 2

    def __post_init__(self):
        if not 1 <= self.size <= 4:
            raise ValueError(f"size={self.size} questions a round; use 1 to 4 (all at once: DyadicPolicy)")

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        batch: list[Region] = []
        for _ in range(self.size):
            rows = refined(posterior, batch)
            search = HalfSearch(rows, posterior.answers, groups_by_count(rows, batch))
            found = [search.ascend(state_A) for state_A in search.starts(self.restarts, rng)]
            state_A, bits = max(found, key=lambda pair: pair[1])
            if batch and bits < 1e-9:
                break
            batch.append(search.region(state_A))
        return batch


def refined(posterior: Posterior, regions: list[Region]) -> Rows:
    """The posterior's rows with every atom cut by these regions, whose answers are open."""
    table = posterior.engine
    try:
        if isinstance(table, Table):
            for region in regions:
                table = table.given(region, np.ones(posterior.prior.k + 1))
            return Rows(table.partition, table.ids_RK, table.weight_R)
    except TooManyRowsError:
        pass
    cells, partition = posterior.sample(1000), posterior.engine.partition
    for region in regions:
        partition = partition.cut(region)
    atom = partition.label[np.searchsorted(partition.edges, cells, side="right") - 1]
    used = np.unique(atom[cells >= 0])
    ids = np.sort(np.where(cells < 0, -1, np.searchsorted(used, atom)), axis=1)
    return Rows(partition.keep(used), ids, np.full(len(ids), 1 / len(ids)))


def groups_by_count(rows: Rows, regions: list[Region]) -> Integers:
    """Numbers rows alike when each region holds as many objects in them, shape (R,)."""
    first_A = np.zeros(rows.partition.atoms + 1, dtype=np.int64)  # one more, for objects that are not there
    first_A[rows.partition.label[::-1]] = rows.partition.edges[:-1][::-1]
    counts = [(region.contains(first_A[rows.ids_RK]) & (rows.ids_RK >= 0)).sum(1) for region in regions]
    if not counts:
        return np.zeros(len(rows.weight_R), dtype=np.int64)
    return np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)[1].ravel()
