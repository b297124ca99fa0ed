"""Engine B: the posterior as a table of compositions. Exact for any questions; the number of cells does not matter.

A row says how many of the k objects each atom holds, written as the sorted list of the objects' atoms, and has a weight. A
question cuts atoms; in every row the c objects of a cut atom split as j ~ Bin(c, q), with q the share of the atom's mass that lies
inside, and rows whose sum the answer rules out are dropped. Two rows never become one: a new row names its old one.

Letters: R rows, K the largest number of objects (rows with fewer begin with atom -1), A atoms, C and X counts 0 … K.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.queries.measures import entropy_bits, log2_factorial, pascal, sums
from tandem.queries.partition import Partition
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region


class TooManyRowsError(Exception):
    """The table would not fit; another engine has to take over."""


@dataclass(frozen=True)
class Runs:
    """The atoms that rows name, each once a row: object positions `position` of row `row` on, `count` objects in `atom`."""

    row: Integers
    position: Integers
    atom: Integers
    count: Integers


def runs_of(ids_RK: Integers) -> Runs:
    """The runs of equal atoms in sorted rows; atom -1 is left out."""
    rows, k = ids_RK.shape
    if k == 0:
        none = np.empty(0, dtype=np.int64)
        return Runs(none, none, none, none)
    first = np.ones((rows, k), dtype=bool)
    first[:, 1:] = ids_RK[:, 1:] != ids_RK[:, :-1]
    flat = np.flatnonzero(first)
    count = np.diff(np.append(flat, rows * k))
    row, position = np.divmod(flat, k)
    atom = ids_RK[row, position]
    real = atom >= 0
    return Runs(row[real], position[real], atom[real], count[real])


@dataclass(frozen=True)
class Split:
    """How the objects of an atom part when a question cuts it: j of c inside with probability `pmf(atom, c)[j]`."""

    fraction_A: Floats
    distinct: tuple[Floats, Floats, Floats] | None
    k: int

    @classmethod
    def of(cls, before: Partition, after: Partition) -> "Split":
        """From a partition and the same after `cut`."""
        outside, inside = after.mass[::2], after.mass[1::2]
        total = outside + inside
        fraction = np.where(after.size[::2] == 0, 1.0, inside / np.where(total > 0, total, 1.0))
        if before.distinct is None or after.distinct is None:
            return cls(fraction, None, before.prior.k)
        return cls(fraction, (before.distinct, after.distinct[::2], after.distinct[1::2]), before.prior.k)

    def pmf(self, atom: Integers, count: Integers) -> Floats:
        """P(j of the count objects are inside), shape (len(atom), C); zeros beyond the count."""
        j = np.arange(self.k + 1)
        rest = np.maximum(count[:, None] - j, 0)
        q = self.fraction_A[atom][:, None]
        pmf = pascal(self.k)[count] * q**j * (1 - q) ** rest
        if self.distinct is None:
            return pmf
        whole, outside, inside = self.distinct
        return pmf * inside[atom] * outside[atom[:, None], rest] / whole[atom, count][:, None]


def split_rows(
    ids_RK: Integers, weight_R: Floats, split: Split, likelihood_X: Floats, limit: int
) -> tuple[Integers, Floats]:
    """Rows after a question and its answer: atom a becomes 2a outside and 2a + 1 inside; weights are not normalized.

    Raises:
        TooManyRowsError: more than `limit` rows on the way.
    """
    rows, k = ids_RK.shape
    runs = runs_of(ids_RK)
    q = split.fraction_A[runs.atom]
    parted = (q > 0) & (q < 1)
    row, position = runs.row[parted], runs.position[parted]
    count_RK, kind_RK = np.zeros((2, rows, k), dtype=np.int64)  # at the first object of each atom that is cut
    count_RK[row, position] = runs.count[parted]
    kind_RK[row, position], pmf_NC = _kinds(split, runs.atom[parted], runs.count[parted])
    in_whole = np.append(split.fraction_A, 0.0)[ids_RK] >= 1  # the last for atom -1
    reachable = _reachable(likelihood_X)
    origin, inside, weight = np.arange(rows), in_whole, weight_R
    total, free = in_whole.sum(1), count_RK.sum(1)
    place = np.arange(k)
    for position in (*np.flatnonzero(count_RK.any(0)), k):
        possible = reachable[total, free] & (weight > 0)
        if not possible.all():
            origin, inside, weight = origin[possible], inside[possible], weight[possible]
            total, free = total[possible], free[possible]
        if position == k or not len(origin):
            break
        count = count_RK[origin, position]
        if not count.any():
            continue
        end = np.cumsum(count + 1)
        if end[-1] > limit:
            raise TooManyRowsError
        source = np.repeat(np.arange(len(origin)), count + 1)
        taken = np.arange(len(source)) - (end - count - 1)[source]
        origin, count = origin[source], count[source]
        weight = weight[source] * pmf_NC[kind_RK[origin, position], taken]
        # The objects of an atom are alike: the last `taken` of them go inside, which keeps rows sorted.
        last = position + count[:, None]
        inside = inside[source] | ((place >= last - taken[:, None]) & (place < last))
        total, free = total[source] + taken, free[source] - count
    ids = ids_RK[origin]
    return np.where(ids < 0, -1, 2 * ids + inside), weight * likelihood_X[total]


def _kinds(split: Split, atom_T: Integers, count_T: Integers) -> tuple[Integers, Floats]:
    """The number of each pair of an atom and its count, equal for equal pairs, and `split.pmf` by number, shape (N, C).

    Number 0 is for no objects, of which none are inside.
    """
    key_T = atom_T * (split.k + 1) + count_T
    seen = np.zeros(len(split.fraction_A) * (split.k + 1), dtype=bool)
    seen[key_T] = True
    atom, count = np.divmod(np.flatnonzero(seen), split.k + 1)
    return np.cumsum(seen)[key_T], np.concatenate([np.eye(1, split.k + 1), split.pmf(atom, count)])


def _reachable(likelihood_X: Floats) -> NDArray[np.bool_]:
    """Whether a total of x and up to f more objects can meet the answer, shape (X, X)."""
    k = len(likelihood_X) - 1
    positive = np.concatenate([[0], np.cumsum(likelihood_X > 0)])
    x, f = np.arange(k + 1)[:, None], np.arange(k + 1)[None, :]
    return positive[np.minimum(x + f, k) + 1] > positive[x]


@dataclass(frozen=True)
class Table:
    """The composition table of a posterior; `start` makes the prior's and `given` conditions on an answer.

    Attributes:
        ids_RK, weight_R: the rows and their probabilities.
        dropped: upper bound of the posterior mass of rows that were dropped for being unlikely; 0 means exact.
        surprise: -log2 of the probability (or density) of all answers so far.
        limit: the most rows there may be. tolerance: the share of mass that an update by a noisy answer may drop.
    """

    partition: Partition
    ids_RK: Integers
    weight_R: Floats
    dropped: float
    surprise: float
    limit: int
    tolerance: float

    @classmethod
    def start(cls, prior: Prior, limit: int | None = None, tolerance: float = 1e-12) -> "Table":
        """The table of a prior; by default it may grow to 2**24 entries, 128 MiB."""
        numbers = np.array([number for number, share in sorted(prior.objects.items()) if share > 0])
        ids = np.where(np.arange(prior.k)[None, :] >= prior.k - numbers[:, None], 0, -1)
        weight = np.array([prior.objects[int(number)] for number in numbers])
        return cls(Partition.whole(prior), ids, weight, 0.0, 0.0, limit or 2**24 // max(prior.k, 1), tolerance)

    @property
    def prior(self) -> Prior:
        return self.partition.prior

    @property
    def exact(self) -> bool:
        return self.dropped == 0.0

    def given(self, region: Region, likelihood_X: Floats) -> "Table":
        """The table after an answer; one with no rows (and infinite surprise) if the answer is impossible.

        Raises:
            TooManyRowsError: the table would have more rows than `limit`.
        """
        after = self.partition.cut(region)
        ids, weight = split_rows(self.ids_RK, self.weight_R, Split.of(self.partition, after), likelihood_X, self.limit)
        evidence = float(weight.sum())
        if evidence <= 0:
            none = np.empty((0, ids.shape[1]), dtype=np.int64)
            return Table(after, none, np.empty(0), self.dropped, np.inf, self.limit, self.tolerance)
        lost = self.dropped / (1 - self.dropped) * float(likelihood_X.max()) / evidence
        weight = weight / evidence
        if np.count_nonzero(likelihood_X) > 1:
            ids, weight, cut_off = self._without_unlikely(ids, weight)
            lost += cut_off / (1 - cut_off)
        seen = np.zeros(after.atoms + 1, dtype=bool)  # the last for atom -1
        seen[ids] = True
        number = np.cumsum(seen) - 1
        number[-1] = -1
        used, ids = np.flatnonzero(seen[:-1]), number[ids]
        surprise = self.surprise - float(np.log2(evidence))
        return Table(after.keep(used), ids, weight, lost / (1 + lost), surprise, self.limit, self.tolerance)

    def _without_unlikely(self, ids: Integers, weight: Floats) -> tuple[Integers, Floats, float]:
        """Drops the least likely rows whose sum stays within the tolerance, and says what that sum is."""
        order = np.argsort(weight, kind="stable")
        running = np.cumsum(weight[order])
        few = int(np.searchsorted(running, self.tolerance, side="right"))
        if few == 0:
            return ids, weight, 0.0
        kept = np.sort(order[few:])
        return ids[kept], weight[kept] / weight[kept].sum(), float(running[few - 1])

    def count_distribution(self, region: Region) -> Floats:
        """P(X objects in the region), shape (X,)."""
        after = self.partition.cut(region)
        return self.weight_R @ self._pmf(Split.of(self.partition, after))

    def _pmf(self, split: Split) -> Floats:
        """P(X | row), shape (R, X): in each row the convolution of its atoms' splits."""
        rows, k = self.ids_RK.shape
        runs = runs_of(self.ids_RK)
        pmf_RX = np.zeros((rows, k + 1))
        pmf_RX[:, 0] = 1.0
        for position in range(k):
            here = runs.position == position
            row = runs.row[here]
            share = split.pmf(runs.atom[here], runs.count[here])
            before, after = pmf_RX[row], np.zeros((len(row), k + 1))
            for j in range(k + 1):
                after[:, j:] += share[:, j : j + 1] * before[:, : k + 1 - j]
            pmf_RX[row] = after
        return pmf_RX

    def atom_counts(self) -> Floats:
        """P(an atom holds c objects), shape (A, C)."""
        runs, k = runs_of(self.ids_RK), self.prior.k
        key = runs.atom * (k + 1) + runs.count
        mass = sums(key, self.weight_R[runs.row], self.partition.atoms * (k + 1))
        counts_AC = mass.reshape(-1, k + 1)
        counts_AC[:, 0] = np.maximum(1.0 - counts_AC[:, 1:].sum(1), 0.0)
        return counts_AC

    def entropy(self, ordered: bool) -> float:
        """Bits left, of the multiset of cells or of the list of labeled objects."""
        runs = runs_of(self.ids_RK)
        inner_AC = self.partition.inner_entropy(ordered)
        within_R = sums(runs.row, inner_AC[runs.atom, runs.count], len(self.weight_R))
        if ordered:
            orders = sums(runs.row, log2_factorial(runs.count), len(self.weight_R))
            within_R = within_R + log2_factorial((self.ids_RK >= 0).sum(1)) - orders
        return float(entropy_bits(self.weight_R) + self.weight_R @ within_R)

    def expected_pairs(self, items: Integers) -> Floats:
        """E[N_i (N_j - 1{i = j})] of these cells, shape (len(items),) twice."""
        table = self
        for item in items:
            table = table.given(Region([(int(item), int(item) + 1)]), np.ones(self.prior.k + 1))
        atom_of = table.partition.label[np.searchsorted(table.partition.edges, items, side="right") - 1]
        held_RI = np.stack(
            [(table.ids_RK == atom).sum(1) if atom >= 0 else np.zeros(len(table.ids_RK)) for atom in atom_of], 1
        )
        pairs = np.asarray((held_RI * table.weight_R[:, None]).T @ held_RI, dtype=np.float64)
        return pairs - np.where(items[:, None] == items[None, :], (table.weight_R @ held_RI)[:, None], 0.0)

    def sample(self, draws: int, rng: np.random.Generator) -> Integers:
        """Independent draws of the objects' cells, sorted, shape (draws, K); -1 where a draw has fewer objects."""
        ids = self.ids_RK[rng.choice(len(self.weight_R), size=draws, p=self.weight_R / self.weight_R.sum())]
        return cells_within(self.partition, ids, rng)


def cells_within(partition: Partition, ids_SK: Integers, rng: np.random.Generator) -> Integers:
    """A cell for each object, drawn from the prior within its atom, sorted along each draw; -1 stays -1."""
    cells = _independent(partition, ids_SK, rng)
    if partition.distinct is None:
        return cells
    for _ in range(20):
        shared = _with_repeats(cells)
        if not len(shared):
            return cells
        cells[shared] = _independent(partition, ids_SK[shared], rng)
    for draw in _with_repeats(cells):  # atoms about full, which hardly ever come out distinct
        runs = runs_of(ids_SK[draw : draw + 1])
        full = [_one_by_one(partition, int(a), int(c), rng) for a, c in zip(runs.atom, runs.count, strict=True)]
        absent = np.full(int((ids_SK[draw] < 0).sum()), -1)
        cells[draw] = np.sort(np.concatenate([absent, *full]))
    return cells


def _with_repeats(cells_SK: Integers) -> Integers:
    """Which draws have two objects in one cell."""
    return np.flatnonzero(((cells_SK[:, 1:] == cells_SK[:, :-1]) & (cells_SK[:, 1:] >= 0)).any(1))


def _independent(partition: Partition, ids_SK: Integers, rng: np.random.Generator) -> Integers:
    cells = np.full(ids_SK.shape, -1)
    for atom in np.unique(ids_SK[ids_SK >= 0]):
        where = ids_SK == atom
        cells[where] = _draw(partition, int(atom), int(where.sum()), rng)
    return np.sort(cells, axis=1)


def _draw(partition: Partition, atom: int, count: int, rng: np.random.Generator) -> Integers:
    prior = partition.prior
    segments = np.flatnonzero(partition.label == atom)
    starts, stops = partition.edges[segments], partition.edges[segments + 1]
    running = np.cumsum(prior.mass(starts, stops))
    segment = np.searchsorted(running, rng.random(count) * running[-1], side="right").clip(max=len(segments) - 1)
    if prior.cumulative is None:
        return rng.integers(starts[segment], stops[segment])
    low, high = prior.cumulative[starts[segment]], prior.cumulative[stops[segment]]
    drawn = np.searchsorted(prior.cumulative, low + rng.random(count) * (high - low), side="right") - 1
    return np.clip(drawn, starts[segment], stops[segment] - 1)


def _one_by_one(partition: Partition, atom: int, count: int, rng: np.random.Generator) -> Integers:
    """Decides cell after cell whether it is taken, with the chance that the cells behind it leave it."""
    cells, share = partition.cells_of(atom), partition.cell_masses(atom)
    behind = np.zeros((len(cells) + 1, count + 1))  # elementary symmetric sums of the shares of the cells behind
    behind[-1, 0] = 1.0
    for i in range(len(cells) - 1, -1, -1):
        behind[i] = behind[i + 1]
        behind[i, 1:] += share[i] * behind[i + 1, :-1]
    chosen: list[int] = []
    for i, cell in enumerate(cells):
        left = count - len(chosen)
        if left and rng.random() * behind[i, left] < share[i] * behind[i + 1, left - 1]:
            chosen.append(int(cell))
    return np.array(chosen)
