"""Entropy pursuit: one cell at a time, as a detector looks at an image."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tandem.queries.answers import information
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.measures import binomial_pmf
from tandem.queries.posterior import Posterior
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region


@dataclass(frozen=True)
class EntropyPursuit:
    """Asks about the single cell whose count is least certain: C = argmax I(N(C); Y | y_1 … y_n) (Han et al., ICML 2015, §4).

    Every reply is conditioned on. Cells that tie are taken in their order; information is rounded to 9 digits for that.

    >>> from tandem.queries import Prior, Session
    >>> Session(Prior.weights([1, 2, 1], k=1), policy=EntropyPursuit()).ask().ranges
    ((1, 2),)
    """

    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"range", "box", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        cells, count_IX = cell_counts(posterior, self.constraints.forbidden)
        bits_I = np.round(information(posterior.answers.matrix(posterior.prior.k), count_IX), 9)
        bits_I = np.where(self.constraints.forbidden.contains(cells), 0.0, bits_I)
        if self.constraints.forbidden and bits_I.max() == 0:
            raise NothingToAskError("no cell that may be asked about tells apart what is still possible")
        best = int(cells[np.argmax(bits_I)])
        return [Region([(best, best + 1)])]


def cell_counts(posterior: Posterior, forbidden: Region) -> tuple[Integers, Floats]:
    """Cells and P(N objects are in each), shape (I, X): all cells, or where cells of an atom are alike the first of each,
    and the first that is not forbidden.
    """
    prior, partition = posterior.prior, posterior.engine.partition
    if prior.at_most_one:
        taken = posterior.occupied()
        zeros = np.zeros((prior.cells, prior.k - 1))
        return np.arange(prior.cells), np.concatenate([1 - taken[:, None], taken[:, None], zeros], axis=1)
    if prior.cumulative is None:
        parted = partition.cut(forbidden)
        atoms, first = np.unique(parted.label, return_index=True)
        cells = np.sort(parted.edges[:-1][first[atoms >= 0]])
    else:
        cells = np.concatenate([partition.cells_of(atom) for atom in range(partition.atoms)])
        cells = np.sort(cells)
    atom = partition.label[np.searchsorted(partition.edges, cells, side="right") - 1]
    share = np.minimum(prior.mass(cells, cells + 1) / partition.mass[atom], 1.0)
    held_IC, count_IX = posterior.engine.atom_counts()[atom], np.zeros((len(cells), prior.k + 1))
    for count in range(prior.k + 1):
        count_IX[:, : count + 1] += held_IC[:, count : count + 1] * binomial_pmf(count, share)
    return cells, count_IX
