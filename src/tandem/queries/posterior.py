"""What the answers so far say about the objects: one face for all engines, and the choice between them.

The table is tried first: it is exact and takes any question. Where it would grow too large, the product posterior takes
over if all questions were dyadic, else the generating function if it fits, else particles, which are approximate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlog1py

from tandem.queries.answers import Answers, ExactAnswers
from tandem.queries.generating import GeneratingFunction, TooManyTermsError
from tandem.queries.measures import sums
from tandem.queries.particles import Particles
from tandem.queries.partition import Partition, inclusion
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.product import NotDyadicError, Product
from tandem.queries.region import Region
from tandem.queries.table import Table, TooManyRowsError, runs_of

MAX_LISTED = 2**26  # cells that a map of all cells may have


Engine = Table | Product | GeneratingFunction | Particles


class ContradictionError(ValueError):
    """Answers that cannot all be true; `questions` are the numbers, from 1, of a smallest set of them."""

    def __init__(self, questions: tuple[int, ...], answer: float):
        numbers = ", ".join(map(str, questions))
        super().__init__(
            f"answer={answer} contradicts what was answered before: the answers to questions {numbers} cannot all be true; "
            "correct this answer or retract one of those"
        )
        self.questions = questions


class LostObjectsError(ValueError):
    """Particles, which are approximate, have nothing left that fits an answer; that does not prove it wrong."""

    def __init__(self, answer: float):
        super().__init__(
            f"answer={answer} fits no particle of an approximate posterior; it may be wrong, or the particles have lost the objects: "
            "use fewer objects, or Posterior(prior, engine=Table.start(prior, limit=...)) with more memory"
        )


@dataclass(frozen=True)
class Rows:
    """A posterior as weighted compositions: in row r the objects lie in the atoms `ids_RK[r]` (-1: no object)."""

    partition: Partition
    ids_RK: Integers
    weight_R: Floats


class Posterior:
    """The objects' distribution given questions and answers. It does not change: `given` returns another one.

    >>> posterior = Posterior(Prior.uniform(8, k=4))
    >>> for digit, answer in enumerate([1, 3, 2], start=1):
    ...     posterior = posterior.given(posterior.prior.dyadic(digit), answer)
    >>> posterior.expected_counts().round(3).tolist()
    [0.375, 0.375, 1.125, 1.125, 0.125, 0.125, 0.375, 0.375]

    Args:
        answers: what the oracle says about a count; the count itself by default.
        engine: where to start instead of at the table, such as `Product(prior)`; it is then never exchanged.
    """

    def __init__(self, prior: Prior, answers: Answers | None = None, engine: Engine | None = None):
        self.prior = prior
        self.answers: Answers = ExactAnswers() if answers is None else answers
        self.history: tuple[tuple[Region, float], ...] = ()
        self.engine: Engine = Table.start(prior) if engine is None else engine
        self._fixed = engine is not None

    def given(self, region: Region, answer: float) -> "Posterior":
        """The posterior after one more question, about a region of cells, and its answer.

        Raises:
            ContradictionError: the answer is impossible given the earlier ones; it names those that cannot all be true.
            LostObjectsError: no particle of an approximate posterior fits the answer.
            ValueError: the answer is impossible by itself, or an engine that was asked for cannot take the question.
        """
        likelihood_X = self.answers.likelihood(answer, self.prior.k)
        later = Posterior(self.prior, self.answers, self.engine)
        later._fixed = self._fixed
        later.history = (*self.history, (region, float(answer)))
        later.engine = self._given(region, likelihood_X, later.history)
        if not np.isfinite(later.engine.surprise) and isinstance(later.engine, Particles):
            raise LostObjectsError(answer)
        if not np.isfinite(later.engine.surprise):
            raise ContradictionError(self._culprits(later.history), answer)
        return later

    def _given(self, region: Region, likelihood_X: Floats, history: Sequence[tuple[Region, float]]) -> Engine:
        try:
            return self.engine.given(region, likelihood_X)
        except NotDyadicError:
            if self._fixed:
                raise ValueError(
                    f"{region} is not a dyadic set, which the product posterior needs; use engine=None"
                ) from None
        except (TooManyRowsError, TooManyTermsError):
            if self._fixed:
                raise ValueError(
                    f"the exact posterior after {len(history)} questions is too large; use engine=None"
                ) from None
        exact = self._replayed(history, _others(self.prior))
        if exact is not None:
            return exact
        return Particles.of(self.engine, self._evidence(self.history)).given(region, likelihood_X)

    def _evidence(self, history: Sequence[tuple[Region, float]]) -> list[tuple[Region, Floats]]:
        return [(region, self.answers.likelihood(answer, self.prior.k)) for region, answer in history]

    def _replayed(self, history: Sequence[tuple[Region, float]], engines: Sequence[Engine]) -> Engine | None:
        """The first engine that can take all questions, after them."""
        for engine in engines:
            try:
                for region, likelihood_X in self._evidence(history):
                    engine = engine.given(region, likelihood_X)
                return engine
            except (TooManyRowsError, TooManyTermsError, NotDyadicError):
                continue
        return None

    def _culprits(self, history: Sequence[tuple[Region, float]]) -> tuple[int, ...]:
        """Drops every answer without which the rest is still impossible; what stays is a smallest contradiction."""
        kept = list(range(len(history)))
        for question in range(len(history) - 1):
            fewer = [number for number in kept if number != question]
            engine = self._replayed([history[number] for number in fewer], [Table.start(self.prior)])
            if engine is not None and not np.isfinite(engine.surprise):
                kept = fewer
        return tuple(number + 1 for number in kept)

    @property
    def exact(self) -> bool:
        """Whether every number is exact up to rounding; otherwise see `dropped`, or `engine` is `Particles`."""
        return self.engine.exact

    @property
    def dropped(self) -> float:
        """Upper bound of the posterior mass that was left out for being unlikely."""
        return self.engine.dropped

    def count_distribution(self, region: Region) -> Floats:
        """P(X objects in a region of cells) for X = 0 … k.

        Raises:
            ValueError: no exact engine can say; ask for samples.
        """
        try:
            return self.engine.count_distribution(region)
        except (NotDyadicError, TooManyTermsError):
            engines = [Table.start(self.prior), *_others(self.prior)[-1:]]
            other = self._replayed(self.history, engines)
        if other is None or isinstance(other, Product):
            raise ValueError(
                f"P(count in {region}) has no exact form of a reasonable size here; estimate it from sample()"
            )
        return other.count_distribution(region)

    def expected_count(self, region: Region) -> float:
        """E[objects in a region of cells]."""
        return float(self.count_distribution(region) @ np.arange(self.prior.k + 1))

    def expected_counts(self) -> Floats:
        """E[objects in each cell], shape (cells,)."""
        atom_I = self._atom_of_cells()
        counts_AC, count = self.engine.atom_counts(), np.arange(self.prior.k + 1)
        if self.prior.at_most_one:
            return self.occupied()
        expected_A = counts_AC @ count / np.maximum(self.engine.partition.mass, np.finfo(np.float64).tiny)
        return np.append(expected_A, 0.0)[atom_I] * self._cell_mass()  # the last for cells that hold nothing, atom -1

    def occupied(self) -> Floats:
        """P(at least one object in each cell), shape (cells,)."""
        atom_I, partition = self._atom_of_cells(), self.engine.partition
        counts_AC, occupied = self.engine.atom_counts(), np.zeros(self.prior.cells)
        share_I = self._cell_mass() / np.append(partition.mass, 1.0)[atom_I]
        for count in range(1, self.prior.k + 1):
            if partition.distinct is None:
                hit = -np.expm1(xlog1py(count, -np.minimum(share_I, 1.0)))
                occupied += np.append(counts_AC[:, count], 0.0)[atom_I] * hit
        if partition.distinct is not None:
            for atom in np.flatnonzero(counts_AC[:, 1:].sum(1) > 0):
                here = atom_I == atom
                occupied[here] = counts_AC[atom] @ inclusion(share_I[here], partition.distinct[atom])
        return occupied

    def expected_pairs(self, items: ArrayLike) -> Floats:
        """E[N_i (N_j - 1{i = j})] for these cells: how many ordered pairs of objects lie in i and j. Over k (k - 1), the
        probability that two given objects do.
        """
        return self.engine.expected_pairs(np.asarray(items, dtype=np.int64))

    def entropy(self, ordered: bool = False) -> float:
        """Bits left about where the objects are (and how many): of the multiset of cells, or of the list of labeled objects."""
        return max(self.engine.entropy(ordered), 0.0)

    def sample(self, draws: int, seed: int = 0) -> Integers:
        """Draws of the objects' cells, each sorted, shape (draws, K); -1 stands for an object that is not there."""
        return self.engine.sample(draws, np.random.default_rng(seed))

    def rows(self, most: int = 5000, seed: int = 0) -> Rows:
        """The posterior as weighted compositions: the whole table, or `most` draws from it where it has more rows or is none."""
        if isinstance(self.engine, Table):
            return rows_of(self.engine, most, np.random.default_rng(seed))
        cells, partition = self.sample(most, seed), self.engine.partition
        atom = partition.label[np.searchsorted(partition.edges, cells, side="right") - 1]
        used = np.unique(atom[cells >= 0])
        ids = np.where(cells < 0, -1, np.searchsorted(used, atom))
        return Rows(partition.keep(used), np.sort(ids, axis=1), np.full(most, 1 / most))

    def best(self) -> tuple[tuple[int, ...], float]:
        """The cells of the most likely row, and its probability; none and 0 while it does not say which cells they are."""
        return self._best

    @cached_property
    def _best(self) -> tuple[tuple[int, ...], float]:
        if self.prior.k == 0:
            return (), 1.0
        if isinstance(self.engine, Table):  # its rows differ from each other
            rows, ids, weight = self.engine, self.engine.ids_RK, self.engine.weight_R
        else:
            rows = self.rows()
            ids, inverse = np.unique(rows.ids_RK, axis=0, return_inverse=True)
            weight = sums(inverse.ravel(), rows.weight_R, len(ids))
        likeliest = np.flatnonzero(weight == weight.max())
        row = int(likeliest[np.lexsort(ids[likeliest].T[::-1])[0]])
        cells: list[int] = []
        held = runs_of(ids[row : row + 1])
        for atom, count in zip(held.atom, held.count, strict=True):
            size = int(rows.partition.size[atom])
            full = self.prior.at_most_one and count == size
            if size > 1 and not full:
                return (), 0.0
            cells += rows.partition.cells_of(int(atom)).tolist() * (1 if full else int(count))
        return tuple(sorted(cells)), float(weight[row])

    def credible_region(self, level: float = 0.95) -> Region:
        """Cells that hold all objects with at least this probability: the atoms of the most likely rows.

        Raises:
            ValueError: level is not in (0, 1].
        """
        if not 0 < level <= 1:
            raise ValueError(f"level={level} is no probability; use a number in (0, 1]")
        rows = self.rows()
        order = np.argsort(-rows.weight_R, kind="stable")
        enough = int(np.searchsorted(np.cumsum(rows.weight_R[order]), level - 1e-12)) + 1
        return rows.partition.region(np.unique(rows.ids_RK[order[:enough]]))

    def _atom_of_cells(self) -> Integers:
        if self.prior.cells > MAX_LISTED:
            raise ValueError(f"n={self.prior.cells} cells are too many for a map; ask for expected_count of regions")
        partition = self.engine.partition
        return np.repeat(partition.label, np.diff(partition.edges))

    def _cell_mass(self) -> Floats:
        cells = np.arange(self.prior.cells)
        return self.prior.mass(cells, cells + 1)


def rows_of(table: Table, most: int, rng: np.random.Generator) -> Rows:
    """The rows of a table, or `most` draws from it where it has more."""
    rows = len(table.weight_R)
    if rows <= most:
        return Rows(table.partition, table.ids_RK, table.weight_R)
    drawn = np.sort(rng.choice(rows, size=most, p=table.weight_R / table.weight_R.sum()))
    ids = table.ids_RK[drawn]
    used = np.unique(ids[ids >= 0])
    compact = np.where(ids < 0, -1, np.searchsorted(used, ids))
    return Rows(table.partition.keep(used), compact, np.full(most, 1 / most))


def _others(prior: Prior) -> list[Engine]:
    """The exact engines beside the table that this prior allows."""
    engines: list[Engine] = []
    if prior.digits is not None:
        engines.append(Product(prior))
    if not prior.at_most_one:
        engines.append(GeneratingFunction(prior))
    return engines
