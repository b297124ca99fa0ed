"""Rows of a posterior in which atoms are cut further than answers have cut them."""

from dataclasses import replace

import numpy as np

from tandem.queries.posterior import Posterior, Rows, rows_of
from tandem.queries.prior import Integers
from tandem.queries.region import Region
from tandem.queries.table import Table, TooManyRowsError

MAX_ROWS = 50_000  # on the way to `most`; drawing is faster beyond


def refined(posterior: Posterior, regions: list[Region], most: int = 5000) -> Rows:
    """The posterior's rows with every atom cut by these regions, whose answers are open; draws where there are more than `most`."""
    table = posterior.engine
    try:
        if isinstance(table, Table):
            table = replace(table, limit=min(table.limit, MAX_ROWS))
            for region in regions:
                table = table.given(region, np.ones(posterior.prior.k + 1))
            return rows_of(table, most, np.random.default_rng(0))
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
    first_A = rows.partition.first_cells()
    counts = [(region.contains(first_A[rows.ids_RK]) & (rows.ids_RK >= 0)).sum(1) for region in regions]
    if not counts:
        return np.zeros(len(rows.weight_R), dtype=np.int64)
    return np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)[1].ravel()
