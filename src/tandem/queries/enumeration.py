"""All questions about few cells: what the exact optimum and the exact greedy choice go through.

A question takes h of the alike cells of each atom. Letters: Q questions, A atoms, C counts of an atom, J how many of them are inside,
X counts 0 … K.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tandem.queries.answers import Answers, ExactAnswers, information
from tandem.queries.measures import entropy_bits
from tandem.queries.partition import Partition
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region
from tandem.queries.table import Split, Table, runs_of

MAX_QUESTIONS = 20_000


def questions_of(rows: Rows) -> Integers | None:
    """How many cells each question takes of each atom, shape (Q, A); None if too many."""
    sizes = rows.partition.size
    if np.log(sizes + 1.0).sum() > np.log(MAX_QUESTIONS):
        return None
    return np.array(list(product(*(range(int(size) + 1) for size in sizes))), dtype=np.int64)


def count_distributions(rows: Rows, cells_QA: Integers) -> Floats:
    """P(X objects are inside) for each question, shape (Q, X)."""
    partition, k = rows.partition, rows.partition.prior.k
    inside_HACJ = np.stack([_inside(partition, cells) for cells in range(int(cells_QA.max(initial=0)) + 1)])
    runs, count_QX = runs_of(rows.ids_RK), np.zeros((len(cells_QA), k + 1))
    for row, weight in enumerate(rows.weight_R):
        pmf_QX = np.zeros_like(count_QX)
        pmf_QX[:, 0] = weight
        here = runs.row == row
        for atom, count in zip(runs.atom[here], runs.count[here], strict=True):
            inside_QJ, before_QX = inside_HACJ[cells_QA[:, atom], atom, count], pmf_QX
            pmf_QX = np.zeros_like(before_QX)
            for j in range(count + 1):
                pmf_QX[:, j:] += inside_QJ[:, j : j + 1] * before_QX[:, : k + 1 - j]
        count_QX += pmf_QX
    return count_QX


def _inside(partition: Partition, cells: int) -> Floats:
    """P(j of c objects of an atom are in its last `cells` cells), shape (A, C, J)."""
    split = Split.of(partition, partition.cut(partition.part(np.minimum(cells, partition.size))))
    k = partition.prior.k
    atom, count = np.divmod(np.arange(partition.atoms * (k + 1)), k + 1)
    possible = np.ones(len(atom), dtype=bool) if split.distinct is None else split.distinct[0][atom, count] > 0
    pmf = np.zeros((len(atom), k + 1))
    pmf[possible] = split.pmf(atom[possible], count[possible])
    return pmf.reshape(partition.atoms, k + 1, k + 1)


def best_question(rows: Rows, answers: Answers) -> tuple[Region, float] | None:
    """The question that reveals most, the first of those that tie, and its bits; None if there are too many to go through."""
    cells_QA = questions_of(rows)
    if cells_QA is None:
        return None
    bits_Q = information(answers.matrix(rows.partition.prior.k), count_distributions(rows, cells_QA))
    best = int(np.argmax(np.round(bits_Q, 12)))
    return rows.partition.part(cells_QA[best]), float(bits_Q[best])


@dataclass
class Optimum:
    """Dynamic programming over posteriors, for a handful of cells: the largest expected entropy loss of any adaptive policy.

    >>> round(Optimum(Prior.uniform(8, k=2)).reduction(4), 6)
    5.125
    """

    prior: Prior

    def __post_init__(self):
        self._known: dict[Any, float] = {}

    def reduction(self, questions: int) -> float:
        """Bits that the best adaptive policy removes on average, of exact answers to this many questions.

        Raises:
            ValueError: there are too many questions to go through them all.
        """
        return self._value(Table.start(self.prior), questions)

    def _value(self, table: Table, questions: int) -> float:
        if questions == 0 or (len(table.weight_R) == 1 and np.all(table.partition.size == 1)):
            return 0.0
        key = (questions, canonical(table))
        if key not in self._known:
            self._known[key] = self._maximum(table, questions)
        return self._known[key]

    def _maximum(self, table: Table, questions: int) -> float:
        rows = Rows(table.partition, table.ids_RK, table.weight_R)
        cells_QA = questions_of(rows)
        if cells_QA is None:
            raise ValueError(
                f"{self.prior} with {questions} questions left has too many questions to go through; use fewer cells"
            )
        count_QX = count_distributions(rows, cells_QA)
        bits_Q = entropy_bits(count_QX)
        if questions == 1:
            return float(bits_Q.max())
        left, most, best = table.entropy(False), (questions - 1) * float(np.log2(self.prior.k + 1)), 0.0
        for q in np.argsort(-bits_Q, kind="stable"):
            if min(bits_Q[q] + most, left) <= best + 1e-12:
                break
            region = rows.partition.part(cells_QA[q])
            value = bits_Q[q]
            for x in np.flatnonzero(count_QX[q] > 1e-15):
                likelihood_X = ExactAnswers().likelihood(int(x), self.prior.k)
                value += count_QX[q, x] * self._value(table.given(region, likelihood_X), questions - 1)
            best = max(best, float(value))
        return best


def canonical(table: Table) -> tuple[Any, ...]:
    """A name that posteriors share when they differ by the order of atoms alone (equal cells; other orders may differ too)."""
    held_RA = np.stack([(table.ids_RK == atom).sum(1) for atom in range(table.partition.atoms)], axis=1)
    weight = [round(float(value), 10) for value in table.weight_R]
    profiles = [
        (int(size), round(float(mass), 12), tuple(sorted(zip(weight, column.tolist(), strict=True))))
        for size, mass, column in zip(table.partition.size, table.partition.mass, held_RA.T, strict=True)
    ]
    order = sorted(range(len(profiles)), key=lambda atom: profiles[atom])
    rows = sorted(zip(weight, map(tuple, held_RA[:, order].tolist()), strict=True))
    return tuple((profiles[atom][0], profiles[atom][1]) for atom in order), tuple(rows)


def expected_reduction(
    policy: Any, prior: Prior, questions: int, answers: Answers | None = None, seed: int = 0
) -> Floats:
    """Bits that a policy removes on average with 1, 2, … questions, over all answers, shape (questions,).

    Args:
        policy: a `Policy`; one that draws random questions gets the same generator at the same number of answers.
    """
    gain = np.zeros(questions)
    _add_gain(gain, policy, Posterior(prior, answers), [], 1.0, seed)
    return np.cumsum(gain)


def _add_gain(gain: Floats, policy: Any, posterior: Posterior, queue: list[Region], share: float, seed: int) -> None:
    depth = len(posterior.history)
    if depth == len(gain) or posterior.best()[1] >= 1 - 1e-12:
        return
    if not queue:
        queue = policy.questions(posterior, np.random.default_rng([seed, depth]))
    f_XY = posterior.answers.matrix(posterior.prior.k)
    count_X = posterior.count_distribution(queue[0])
    gain[depth] += share * float(information(f_XY, count_X))
    for y, probability in enumerate(count_X @ f_XY):
        if probability > 1e-15:
            _add_gain(gain, policy, posterior.given(queue[0], y), queue[1:], share * float(probability), seed)
