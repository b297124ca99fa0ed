"""Engine C: fixed questions by generating function. Exact for few questions about many objects.

With m_s the mass of the cells that lie in the questions s ∈ {0, 1}ⁿ, G(z) = Σ_s m_s z^s and P(X = x) = [z^x] G(z)^k. Powers are
made by adding shifted arrays, no more of them than the answers can reach: sums of positive terms keep their relative precision, which
a Fourier transform loses at improbable answers.

Letters: A atoms (one a signature), N questions, C and X counts 0 … K, K the largest number of objects.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tandem.queries.measures import LOG2, log2_factorial, pascal
from tandem.queries.partition import Partition
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region
from tandem.queries.table import cells_within

MAX_OBJECTS = 24  # counts of one atom are alternating sums that lose k of 53 bits
MAX_WORK = 2_000_000_000  # entries of arrays added up


class TooManyTermsError(Exception):
    """The generating function would not fit; another engine has to take over."""


@dataclass(frozen=True)
class GeneratingFunction:
    """The posterior of fixed questions; `regions` and `likelihoods` are those asked so far.

    Raises:
        ValueError: the prior allows at most one object a cell; objects are then no independent factors.
    """

    prior: Prior
    regions: tuple[Region, ...] = ()
    likelihoods: tuple[Floats, ...] = ()

    def __post_init__(self):
        if self.prior.at_most_one:
            raise ValueError(f"{self.prior} has dependent objects; a generating function needs at_most_one=False")

    exact = True
    dropped = 0.0

    def given(self, region: Region, likelihood_X: Floats) -> "GeneratingFunction":
        """The posterior after an answer.

        Raises:
            TooManyTermsError: more objects or terms than the sums are made for.
        """
        more = GeneratingFunction(self.prior, (*self.regions, region), (*self.likelihoods, likelihood_X))
        if self.prior.k > MAX_OBJECTS or more.work > MAX_WORK:
            raise TooManyTermsError
        return more

    @property
    def work(self) -> float:
        """How many entries all powers add up."""
        return float(np.prod([float(size) for size in self._shape])) * self.partition.atoms * self.prior.k

    @cached_property
    def _cut(self) -> tuple[Partition, Integers]:
        """Atoms of positive mass and their signatures, shape (A, N)."""
        partition, signature = Partition.whole(self.prior), np.zeros((1, 0), dtype=np.int64)
        for region in self.regions:
            after = partition.cut(region)
            kept = np.flatnonzero(after.mass > 0)
            partition = after.keep(kept)
            signature = np.concatenate([signature[kept // 2], kept[:, None] % 2], axis=1)
        return partition, signature

    @property
    def partition(self) -> Partition:
        return self._cut[0]

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """One more than the highest count that each answer allows."""
        return tuple(int(np.flatnonzero(known)[-1]) + 1 if known.any() else 1 for known in self.likelihoods)

    @cached_property
    def _powers(self) -> list[Floats]:
        """G⁰ … G^K as arrays of coefficients, up to `_shape`."""
        partition, signature = self._cut
        power = np.zeros(self._shape)
        power[(0,) * len(self._shape)] = 1.0
        powers = [power]
        for _ in range(self.prior.k):
            power = sum(
                (mass * _shifted(powers[-1], by, 1) for mass, by in zip(partition.mass, signature, strict=True))
            )
            powers.append(np.asarray(power))
        return powers

    @cached_property
    def _weight(self) -> Floats:
        """Π_n f(y_n | x_n), an array like the powers."""
        weight = np.ones(())
        for known, size in zip(self.likelihoods, self._shape, strict=True):
            weight = weight[..., None] * known[:size]
        return weight

    @cached_property
    def _joint(self) -> dict[int, float]:
        """P(k, y) of each possible number of objects."""
        return {
            number: share * float((self._powers[number] * self._weight).sum())
            for number, share in self.prior.objects.items()
            if share > 0
        }

    @property
    def surprise(self) -> float:
        """-log2 of the probability (or density) of all answers so far."""
        total = sum(self._joint.values())
        return -float(np.log2(total)) if total > 0 else np.inf

    def _moment(self, signature: Integers, taken: int) -> Floats:
        """For each k, P(k) Σ_x f(y | x + taken · s) [z^x] G^{k - taken}, and 0 where k < taken."""
        later = _shifted(self._weight, signature, -taken)
        moments = np.zeros(self.prior.k + 1)
        for number in self._joint:
            if number >= taken:
                moments[number] = self.prior.objects[number] * float((self._powers[number - taken] * later).sum())
        return moments

    def atom_counts(self) -> Floats:
        """P(an atom holds c objects), shape (A, C), from its binomial moments E[C(N, r)] = C(k, r) m^r [z^{x-rs}] G^{k-r}."""
        partition, signature = self._cut
        k, total = self.prior.k, sum(self._joint.values())
        choose, sign = pascal(k), (-1.0) ** np.add.outer(np.arange(k + 1), np.arange(k + 1))
        moments = np.array(
            [
                [mass**r * (choose[:, r] @ self._moment(by, r)) / total for r in range(k + 1)]
                for mass, by in zip(partition.mass, signature, strict=True)
            ]
        )
        return np.clip(moments @ (choose * sign), 0.0, 1.0)

    def count_distribution(self, region: Region) -> Floats:
        """P(X objects in any region), shape (X,): one more question whose answer is left open.

        Raises:
            TooManyTermsError: the question makes the sums too long.
        """
        more = self.given(region, np.ones(self.prior.k + 1))
        axes = tuple(range(len(self.regions)))
        counts = sum(
            self.prior.objects[number] * (more._powers[number] * more._weight).sum(axis=axes) for number in more._joint
        )
        return np.asarray(counts) / np.sum(counts)

    def entropy(self, ordered: bool) -> float:
        """Bits left: log2 P(y) - E log2 of prior and likelihood, over labeled objects; less E log2 k!/ΠN! without order."""
        total, counts_AC = sum(self._joint.values()), self.atom_counts()
        surprise = -sum(
            float(self._number_weighted(axis) @ _log2_or_zero(known)) for axis, known in enumerate(self.likelihoods)
        )
        bits = float(np.log2(total)) + surprise
        for number, joint in self._joint.items():
            if joint > 0:
                bits -= joint / total * float(np.log2(self.prior.objects[number]))
        labeled, inner = self.partition.inner_entropy(True), self.partition.inner_entropy(ordered)
        count = np.arange(self.prior.k + 1)
        bits += float((counts_AC * (labeled - count * np.log2(self.partition.mass)[:, None])).sum())
        if ordered:
            return bits
        orders = sum(joint / total * float(log2_factorial(number)) for number, joint in self._joint.items())
        return bits - orders + float((counts_AC * (inner - labeled + log2_factorial(count))).sum())

    def _number_weighted(self, axis: int) -> Floats:
        """P(x_n | y) of one question, shape (X,)."""
        others = tuple(other for other in range(len(self.regions)) if other != axis)
        joint = sum(self.prior.objects[number] * self._powers[number] for number in self._joint) * self._weight
        pmf = np.zeros(self.prior.k + 1)
        pmf[: self._shape[axis]] = np.asarray(joint).sum(axis=others)
        return pmf / pmf.sum()

    def expected_pairs(self, items: Integers) -> Floats:
        """E[N_i (N_j - 1{i = j})] of these cells: k (k - 1) m_i m_j [z^{x - s_i - s_j}] G^{k-2}."""
        partition, signature = self._cut
        atom = partition.label[np.searchsorted(partition.edges, items, side="right") - 1]
        mass = np.where(atom >= 0, self.prior.mass(items, items + 1), 0.0)
        pairs, total = np.zeros((len(items), len(items))), sum(self._joint.values())
        for i, j in zip(*np.triu_indices(len(items)), strict=True):
            later = _shifted(_shifted(self._weight, signature[atom[i]], -1), signature[atom[j]], -1)
            for number in self._joint:
                if number >= 2:
                    share = self.prior.objects[number] * float((self._powers[number - 2] * later).sum()) / total
                    pairs[i, j] += number * (number - 1) * share * mass[i] * mass[j]
        return np.maximum(pairs, pairs.T)

    def sample(self, draws: int, rng: np.random.Generator) -> Integers:
        """Independent draws of the objects' cells, sorted, shape (draws, K), one object after the other."""
        numbers, k = np.array(list(self._joint)), self.prior.k
        share = np.array(list(self._joint.values()))
        left_S = rng.choice(numbers, size=draws, p=share / share.sum())
        atoms, held = np.full((draws, k), -1), np.zeros((draws, len(self.regions)), dtype=np.int64)
        for position in range(k):
            state = np.concatenate([left_S[:, None], held], axis=1)
            for group in np.unique(state, axis=0):
                here = np.flatnonzero((state == group).all(1))
                if group[0] > 0:
                    chance = self._next(int(group[0]), group[1:])
                    atoms[here, position] = rng.choice(len(chance), size=len(here), p=chance)
            placed = atoms[:, position] >= 0
            held[placed] += self._cut[1][atoms[placed, position]]
            left_S = left_S - placed
        return cells_within(self.partition, np.sort(atoms, axis=1), rng)

    def _next(self, left: int, held: Integers) -> Floats:
        """P(atom of the next object | `left` objects to place, questions hold `held` of those placed), shape (A,)."""
        partition, signature = self._cut
        after = [float((self._powers[left - 1] * _shifted(self._weight, held + by, -1)).sum()) for by in signature]
        chance = np.array(after) * partition.mass
        return chance / chance.sum()


def _shifted(array: Floats, by: Integers, times: int) -> Floats:
    """The array moved by `times * by` along its axes, zeros coming in."""
    moved = np.zeros_like(array)
    shift = [int(step) * times for step in by]
    if any(abs(step) >= size for step, size in zip(shift, array.shape, strict=True)):
        return moved
    source = tuple(slice(max(-step, 0), size - max(step, 0)) for step, size in zip(shift, array.shape, strict=True))
    target = tuple(slice(max(step, 0), size - max(-step, 0)) for step, size in zip(shift, array.shape, strict=True))
    moved[target] = array[source]
    return moved


def _log2_or_zero(values: Floats) -> Floats:
    return np.log(np.where(values > 0, values, 1.0)) / LOG2
