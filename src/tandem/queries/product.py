"""Engine A: the product posterior of dyadic questions (paper Theorem 3; notes 3.2-3.7). Any k, any memoryless noise.

The binary digits of the objects' quantiles are fair coins, independent between digits and between objects, and question n reads
digit n alone. So given the answers the digits stay independent, and digit n is a uniformly random set of z_n of the k objects with
P(z_n | y_n) ∝ Bin(z_n; k, ½) f(y_n | z_n). With several possible k, P(k | y) ∝ P(k) Π_n P(y_n | k).

Letters: X counts 0 … K, C counts of objects in a cell, I cells, S draws, K the largest number of objects.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tandem.queries.measures import binomial_pmf, entropy_bits, log2_binomial, log2_factorial, pascal
from tandem.queries.partition import Partition
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region

MAX_ATOMS = 2**22


class NotDyadicError(Exception):
    """The question does not read one binary digit, so that the posterior is no product."""


@dataclass(frozen=True)
class Product:
    """The product posterior; `digits[n]` is the likelihood of the answers about digit n (1 is the first), shape (X,)."""

    prior: Prior
    digits: dict[int, Floats] = field(default_factory=dict)

    def __post_init__(self):
        if self.prior.digits is None:
            raise ValueError(
                f"{self.prior} has no independent fair digits; the product posterior needs 2**L cells of equal mass "
                "and objects that may share one"
            )

    exact = True
    dropped = 0.0

    def given(self, region: Region, likelihood_X: Floats) -> "Product":
        """The posterior after an answer to a dyadic question.

        Raises:
            NotDyadicError: the region is not a dyadic set of the prior.
        """
        digit = self._digit_of(region)
        if digit is None:
            raise NotDyadicError
        known = self.digits.get(digit, np.ones(self.prior.k + 1))
        return Product(self.prior, {**self.digits, digit: known * likelihood_X})

    def _digit_of(self, region: Region) -> int | None:
        digit = len(region.starts).bit_length()
        possible = 1 <= digit <= (self.prior.digits or 0) and len(region.starts) == 2 ** (digit - 1)
        return digit if possible and region == self.prior.dyadic(digit) else None

    @cached_property
    def _numbers(self) -> dict[int, float]:
        """P(k | y) of each possible number of objects."""
        joint = {
            number: share * 2.0 ** -self._surprise_given(number)
            for number, share in self.prior.objects.items()
            if share
        }
        total = sum(joint.values())
        return {number: share / total for number, share in joint.items() if share} if total else {}

    def _surprise_given(self, number: int) -> float:
        evidence = [float(binomial_pmf(number, 0.5) @ known[: number + 1]) for known in self.digits.values()]
        return -sum(np.log2(value) if value > 0 else -np.inf for value in evidence)

    @property
    def surprise(self) -> float:
        """-log2 of the probability (or density) of all answers so far."""
        total = sum(
            share * 2.0 ** -self._surprise_given(number) for number, share in self.prior.objects.items() if share
        )
        return -float(np.log2(total)) if total > 0 else np.inf

    def digit_counts(self, digit: int, number: int) -> Floats:
        """P(z of `number` objects have this digit | y), shape (number + 1,)."""
        known = self.digits.get(digit)
        joint = binomial_pmf(number, 0.5) * (1.0 if known is None else known[: number + 1])
        return joint / joint.sum()

    def _thinning(self, digit: int, number: int) -> tuple[Floats, Floats]:
        """Of c objects that agree with a cell so far, how many agree in this digit, being 0 or 1: two matrices (C, C).

        The z objects with the digit are a random subset, so j of the c have it with C(z, j) C(k - z, c - j) / C(k, c).
        """
        choose, count = pascal(number), np.arange(number + 1)
        have = np.zeros((number + 1, number + 1))
        for z, share in enumerate(self.digit_counts(digit, number)):
            for c in count:
                j = count[: c + 1]
                have[c, : c + 1] += share * choose[z, j] * choose[number - z, c - j] / choose[number, c]
        lack = np.zeros_like(have)
        for c in count:
            lack[c, : c + 1] = have[c, : c + 1][::-1]
        return lack, have

    @property
    def partition(self) -> Partition:
        """Cells down to the last digit asked about.

        Raises:
            ValueError: they are more than 2**22.
        """
        return self._cells

    @cached_property
    def _cells(self) -> Partition:
        depth = max(self.digits, default=0)
        if 2**depth > MAX_ATOMS:
            raise ValueError(
                f"digit {depth} makes {2**depth} cells, too many to list; ask for samples or single digits"
            )
        edges = np.arange(2**depth + 1) * (self.prior.cells >> depth)
        return Partition(self.prior, edges, np.arange(2**depth), 2**depth)

    def atom_counts(self) -> Floats:
        """P(a cell holds c objects), shape (atoms, C), digit after digit: an agreement of c objects is thinned by each."""
        counts_AC = np.zeros((self.partition.atoms, self.prior.k + 1))
        for number, share in self._numbers.items():
            state = np.eye(1, number + 1, number)
            for digit in range(1, max(self.digits, default=0) + 1):
                lack, have = self._thinning(digit, number)
                state = np.stack([state @ lack, state @ have], axis=1).reshape(-1, number + 1)
            counts_AC[:, : number + 1] += share * state
        return counts_AC

    def count_distribution(self, region: Region) -> Floats:
        """P(X objects in a dyadic set), shape (X,).

        Raises:
            NotDyadicError: the region is not a dyadic set of the prior.
        """
        digit = self._digit_of(region)
        if digit is None:
            raise NotDyadicError
        counts = np.zeros(self.prior.k + 1)
        for number, share in self._numbers.items():
            counts[: number + 1] += share * self.digit_counts(digit, number)
        return counts

    def entropy(self, ordered: bool) -> float:
        """Bits left, Σ_n H(z_n) + E log2 C(k, z_n) and a bit for each digit not asked; less E log2 k!/ΠN! without order."""
        total = float(entropy_bits(np.array(list(self._numbers.values()))))
        for number, share in self._numbers.items():
            bits = number * ((self.prior.digits or 0) - len(self.digits))
            for digit in self.digits:
                pmf = self.digit_counts(digit, number)
                bits += float(entropy_bits(pmf) + pmf @ log2_binomial(number, np.arange(number + 1)))
            total += share * (bits - (0.0 if ordered else self._orders(number)))
        return total

    def _orders(self, number: int) -> float:
        """E log2 of how many lists have the objects' multiset: log2 k! - E Σ log2 N! over all cells, summed digit by digit."""
        state = np.eye(1, number + 1, number)
        for digit in range(1, (self.prior.digits or 0) + 1):
            lack, have = self._thinning(digit, number)
            state = state @ (lack + have)
            state[:, :2] = 0.0  # a cell with one object or none adds log2 1, and leads only to such cells
        return float(log2_factorial(number) - state[0] @ log2_factorial(np.arange(number + 1)))

    def expected_pairs(self, items: Integers) -> Floats:
        """E[N_i (N_j - 1{i = j})] of these cells: k (k - 1) times a product over digits (notes 3.5)."""
        pairs = np.zeros((len(items), len(items)))
        for number, share in self._numbers.items():
            if number < 2:
                continue
            joint = np.full(pairs.shape, float(number * (number - 1)))
            for digit in range(1, (self.prior.digits or 0) + 1):
                bit = (items >> ((self.prior.digits or 0) - digit)) & 1
                z, pmf = np.arange(number + 1), self.digit_counts(digit, number)
                have = np.where(bit[:, None] == 1, z, number - z)  # objects that have the item's digit, for each z
                same = bit[:, None] == bit[None, :]
                both = have[:, None, :] * np.where(same[..., None], have[None, :, :] - 1, have[None, :, :])
                joint *= (both / (number * (number - 1))) @ pmf
            pairs += share * joint
        return pairs

    def sample(self, draws: int, rng: np.random.Generator) -> Integers:
        """Independent draws of the objects' cells, sorted, shape (S, K): each digit goes to a random subset of z objects."""
        k, numbers = self.prior.k, np.array(list(self._numbers))
        number_S = rng.choice(numbers, size=draws, p=np.array(list(self._numbers.values())))
        cells = np.full((draws, k), -1)
        for number in np.unique(number_S):
            chosen = np.flatnonzero(number_S == number)
            cell = np.zeros((len(chosen), number), dtype=np.int64)
            for digit in range(1, (self.prior.digits or 0) + 1):
                z = rng.choice(number + 1, size=len(chosen), p=self.digit_counts(digit, int(number)))
                rank = rng.random(cell.shape).argsort(axis=1).argsort(axis=1)
                cell = 2 * cell + (rank < z[:, None])
            cells[chosen, k - number :] = np.sort(cell, axis=1)
        return cells
