"""Sequential bifurcation: divide and conquer, the benchmark of the literature."""

from dataclasses import dataclass

import numpy as np

from tandem.queries.posterior import Posterior
from tandem.queries.region import Region


@dataclass(frozen=True)
class SequentialBifurcation:
    """Keeps disjoint segments with known counts and asks about one half of one of them; the other half follows by subtraction.

    A question about a segment with c objects reveals H(Bin(c, ½)) bits. Identifying k objects among 2^L equal cells takes
    Σ_{l<L} 2^l (1 - (1 - 2^-l)^k) questions on average, whatever the order of segments. Needs exact answers, and asks for the number
    of objects first if it is not known.

    >>> from tandem.queries import Prior, Session
    >>> session = Session(Prior.uniform(8, k=3), policy=SequentialBifurcation())
    >>> session.tell(session.ask().count([1, 6, 7]))
    >>> session.ask().ranges        # two of three objects are in the upper half
    ((6, 8),)

    Attributes:
        largest_first: take the largest segment (breadth first) instead of the one with most objects.
    """

    largest_first: bool = False

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        rows = posterior.rows()
        if not posterior.prior.k_known and not posterior.history:
            return [Region([(0, posterior.prior.cells)])]
        if len(rows.weight_R) != 1:
            raise ValueError(
                "sequential bifurcation needs the exact count of every segment; use another policy for such answers"
            )
        atoms, counts = np.unique(rows.ids_RK[0][rows.ids_RK[0] >= 0], return_counts=True)
        sizes = rows.partition.size[atoms]
        keys = (-counts, -sizes) if self.largest_first else (-sizes, -counts)
        order = np.lexsort((atoms, *keys))
        atom = atoms[order[sizes[order] > 1][0]]
        part = np.zeros(rows.partition.atoms, dtype=np.int64)
        part[atom] = rows.partition.upper[atom]
        return [rows.partition.part(part)]
