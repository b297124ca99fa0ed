"""Limits of size and forbidden cells, for policies that take some cells of each atom.

Letters: A atoms.
"""

import numpy as np

from tandem.queries.constraints import Constraints, common
from tandem.queries.partition import Partition
from tandem.queries.policies.refine import refined
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Integers
from tandem.queries.region import Region


class Limits:
    """Constraints as bounds on how many cells a question takes of each atom.

    Cells known to be empty cost nothing and reveal nothing: they fill up a question that would be too small.

    Attributes:
        most_A: cells that may be taken of each atom, shape (A,); 0 for a forbidden one.
        least, most: bounds of their sum.
    """

    def __init__(self, constraints: Constraints, partition: Partition):
        self.partition = partition
        self.allowed = constraints.allowed(partition.prior)
        self.most_A = np.where(self.allowed.contains(partition.first_cells()[:-1]), partition.size, 0)
        self.smallest = constraints.smallest
        self.most = min(constraints.largest or partition.prior.cells, len(self.allowed))
        self.filling = common(self.allowed, partition.region(np.array([-1])))
        self.least = max(constraints.smallest - len(self.filling), 0)

    def fitted(self, cells_A: Integers, order_A: Integers) -> Integers:
        """The same numbers of cells, taken down or up, atom after atom, until they keep the limits."""
        cells_A = np.minimum(cells_A, self.most_A)
        for atom in order_A:
            total = int(cells_A.sum())
            if total > self.most:
                cells_A[atom] -= min(total - self.most, int(cells_A[atom]))
            elif total < self.least:
                cells_A[atom] += min(self.least - total, int(self.most_A[atom] - cells_A[atom]))
        return cells_A

    def region(self, cells_A: Integers) -> Region:
        """The last `cells_A[a]` cells of each atom, filled up to the smallest size."""
        region = self.partition.part(cells_A)
        missing = self.smallest - len(region)
        if missing <= 0:
            return region
        return Region([*region.ranges, *self.filling.first(missing).ranges])


def limited(posterior: Posterior, asked: list[Region], constraints: Constraints) -> tuple[Rows, Limits]:
    """Rows cut by the regions `asked`, with the limits; atoms are cut where only part of one may be taken or left."""
    cuts = [*asked, constraints.forbidden] if constraints.forbidden else [*asked]
    rows = refined(posterior, cuts) if cuts else posterior.rows()
    limits = Limits(constraints, rows.partition)
    spare = int(limits.most_A.sum()) - limits.least
    for room in (limits.most, spare):  # a piece that can be taken whole, and one that can be left out whole
        too_large = (limits.most_A > room) & (room > 0)
        if too_large.any():
            size = rows.partition.size
            taken = room if room == limits.most else size - room
            cuts = [*cuts, rows.partition.part(np.where(too_large, taken, 0))]
            rows = refined(posterior, cuts)
            limits = Limits(constraints, rows.partition)
    return rows, limits
