"""Engine E: particles moved by Markov chains, where nothing exact fits (many objects after adaptive questions). Approximate.

A particle is one composition: the atom of each object. An answer weighs particles by its likelihood, they are drawn again, and
moves that leave the posterior as it is spread them out: one object to another atom; two objects to atoms whose questions
add up to the same counts, so that exact answers stay true; and the same with a third object displaced.

Letters: S particles, K objects, A atoms, N questions, X counts 0 … K.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.queries.measures import log2_factorial, sums
from tandem.queries.partition import Partition
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region
from tandem.queries.table import cells_within, runs_of

IMPOSSIBLE = -1e9  # log of 0, kept finite so that products with 0 stay 0
CANDIDATES = 1024  # atoms a move chooses among


@dataclass(frozen=True)
class Particles:
    """Compositions that stand for the posterior; `of` takes them from an exact engine that grew too large.

    Attributes:
        cells_SK: the objects' cells in each particle, sorted; -1 for objects that are not there.
        sweeps: moves of each kind per object after an answer.
        surprise: estimate of -log2 of the probability (or density) of all answers so far.
    """

    prior: Prior
    evidence: tuple[tuple[Region, Floats], ...]
    cells_SK: Integers
    surprise: float
    seed: int = 0
    sweeps: int = 2

    exact = False
    dropped = 0.0

    @classmethod
    def of(
        cls, engine: Any, evidence: list[tuple[Region, Floats]], particles: int = 1000, seed: int = 0
    ) -> "Particles":
        """Independent draws from another engine that has seen the same evidence."""
        cells = engine.sample(particles, np.random.default_rng(seed))
        return cls(engine.prior, tuple(evidence), cells, engine.surprise, seed)

    @cached_property
    def _cut(self) -> tuple[Partition, NDArray[np.int64]]:
        """Atoms that can hold an object and their signatures, shape (A, N)."""
        partition, signature = Partition.whole(self.prior), np.zeros((1, 0), dtype=np.int64)
        for region, likelihood_X in self.evidence:
            after = partition.cut(region)
            allowed = (np.arange(after.atoms) % 2 == 0) | likelihood_X[1:].any()
            kept = np.flatnonzero((after.mass > 0) & allowed)
            partition = after.keep(kept)
            signature = np.concatenate([signature[kept // 2], kept[:, None] % 2], axis=1)
        return partition, signature

    @property
    def partition(self) -> Partition:
        return self._cut[0]

    @cached_property
    def ids_SK(self) -> Integers:
        """The objects' atoms, sorted."""
        edges, label = self.partition.edges, self.partition.label
        return np.sort(
            np.where(self.cells_SK < 0, -1, label[np.searchsorted(edges, self.cells_SK, side="right") - 1]), axis=1
        )

    def given(self, region: Region, likelihood_X: Floats) -> "Particles":
        """The particles after an answer; infinite surprise when none of many redraws could meet it."""
        rng = np.random.default_rng([self.seed, len(self.evidence)])
        drawn: list[Integers] = []
        weights: list[Floats] = []
        for _ in range(50):
            drawn.append(cells_within(self.partition, self.ids_SK, rng))
            weights.append(likelihood_X[region.contains(drawn[-1]).sum(1)])
            if sum(np.count_nonzero(weight) for weight in weights) >= len(self.cells_SK) // 4:
                break
        cells, weight = np.concatenate(drawn), np.concatenate(weights)
        evidence = (*self.evidence, (region, likelihood_X))
        if weight.sum() == 0:
            return Particles(self.prior, evidence, self.cells_SK, np.inf, self.seed, self.sweeps)
        chosen = rng.choice(len(cells), size=len(self.cells_SK), p=weight / weight.sum())
        surprise = self.surprise - float(np.log2(weight.mean()))
        later = Particles(self.prior, evidence, cells[chosen], surprise, self.seed, self.sweeps)
        moved = Moves(later, rng).run(self.sweeps)
        return Particles(
            self.prior, evidence, cells_within(later.partition, moved, rng), surprise, self.seed, self.sweeps
        )

    def atom_counts(self) -> Floats:
        """P(an atom holds c objects), shape (A, C)."""
        runs, k = runs_of(self.ids_SK), self.prior.k
        key = runs.atom * (k + 1) + runs.count
        counts_AC = np.bincount(key, minlength=self.partition.atoms * (k + 1)).reshape(-1, k + 1) / len(self.ids_SK)
        counts_AC[:, 0] = 1.0 - counts_AC[:, 1:].sum(1)
        return counts_AC

    def count_distribution(self, region: Region) -> Floats:
        """P(X objects in the region), shape (X,), over several redraws within atoms."""
        rng, k = np.random.default_rng(self.seed), self.prior.k
        counts = [region.contains(cells_within(self.partition, self.ids_SK, rng)).sum(1) for _ in range(8)]
        return np.bincount(np.concatenate(counts), minlength=k + 1) / (8 * len(self.ids_SK))

    def entropy(self, ordered: bool) -> float:
        """Bits left, log2 P(y) - E log2 of prior and likelihood: P(y) as estimated answer by answer, the mean over particles."""
        cells, number_S = self.cells_SK, (self.cells_SK >= 0).sum(1)
        present = cells >= 0
        mass = self.prior.mass(np.maximum(cells, 0), np.maximum(cells, 0) + 1)
        bits_S = np.where(present, -np.log2(np.where(present, mass, 1.0)), 0.0).sum(1)
        bits_S -= np.log2([self.prior.objects[int(number)] for number in number_S])
        for region, likelihood_X in self.evidence:
            bits_S -= np.log2(likelihood_X[(region.contains(cells) & present).sum(1)])
        if not ordered:
            runs = runs_of(cells)
            repeats = sums(runs.row, log2_factorial(runs.count), len(cells))
            bits_S -= log2_factorial(number_S) - repeats
        return float(bits_S.mean()) - self.surprise + self._distinct_bits()

    def _distinct_bits(self) -> float:
        """log2 P(independent objects are in different cells): the prior is conditioned on it."""
        whole = Partition.whole(self.prior).distinct
        if whole is None:
            return 0.0
        return float(np.mean(np.log2(whole[0][(self.cells_SK >= 0).sum(1)])))

    def expected_pairs(self, items: Integers) -> Floats:
        """E[N_i (N_j - 1{i = j})] of these cells, over particles."""
        held_SI = (self.cells_SK[:, :, None] == items[None, None, :]).sum(1)
        pairs = held_SI.T @ held_SI / len(held_SI)
        return pairs - np.where(items[:, None] == items[None, :], held_SI.mean(0)[:, None], 0.0)

    def sample(self, draws: int, rng: np.random.Generator) -> Integers:
        """Particles drawn with repeats, their objects redrawn within atoms, shape (draws, K)."""
        return cells_within(self.partition, self.ids_SK[rng.integers(len(self.ids_SK), size=draws)], rng)


class Moves:
    """Random moves of all particles at once that leave the posterior over compositions as it is."""

    def __init__(self, particles: Particles, rng: np.random.Generator):
        self.partition, self.signature_AN = particles._cut
        self.ids_SK, self.rng = particles.ids_SK.copy(), rng
        self.first_S = (self.ids_SK < 0).sum(1)  # objects begin here
        self.mass_A = self.partition.mass
        known = [likelihood_X for _, likelihood_X in particles.evidence]
        safe = [np.where(row > 0, np.log(np.where(row > 0, row, 1.0)), IMPOSSIBLE) for row in known]
        self.log_likelihood_NX = np.array(safe).reshape(len(known), -1)
        # A signature is summed up in one random number per question, so that a sum of two signatures is found by one search.
        self.hash_A = self.signature_AN.astype(np.uint64) @ rng.integers(2**63, size=len(known), dtype=np.uint64)
        self.order_A = np.argsort(self.hash_A)
        self.sorted_A = self.hash_A[self.order_A]

    def run(self, sweeps: int) -> Integers:
        """Each kind of move `sweeps` times per object; returns the objects' atoms, sorted."""
        k = self.ids_SK.shape[1]
        for _ in range(sweeps * k):
            self._one()
            if k >= 2:
                self._two()
            if k >= 3:
                self._three()
        return np.sort(self.ids_SK, axis=1)

    def _objects(self, count: int) -> tuple[Integers, Integers]:
        """Particles with at least `count` objects and, for each, places of that many different ones, shape (count, S)."""
        k = self.ids_SK.shape[1]
        order = np.where(np.arange(k) < self.first_S[:, None], 2.0, self.rng.random(self.ids_SK.shape)).argsort(axis=1)
        rows = np.flatnonzero(k - self.first_S >= count)
        return rows, order[rows, :count].T

    def _candidates(self, current_S: Integers) -> Integers:
        """Atoms to choose among: all, or many random ones and the current one, shape (S, candidates)."""
        if self.partition.atoms <= CANDIDATES:
            return np.broadcast_to(np.arange(self.partition.atoms), (len(current_S), self.partition.atoms))
        others = self.rng.integers(self.partition.atoms, size=(len(current_S), CANDIDATES))
        return np.concatenate([current_S[:, None], others], axis=1)

    def _choose(self, weight_SA: Floats) -> Integers:
        running = np.cumsum(weight_SA, axis=1)
        return (
            (running < self.rng.random((len(weight_SA), 1)) * running[:, -1:]).sum(1).clip(max=weight_SA.shape[1] - 1)
        )

    def _one(self) -> None:
        """One object to an atom drawn from its distribution given the others."""
        rows, (place,) = self._objects(1)
        current = self.ids_SK[rows, place]
        others = self.signature_AN[self.ids_SK[rows]] * (self.ids_SK[rows] >= 0)[..., None]
        x_SN = others.sum(1) - self.signature_AN[current]
        question = np.arange(x_SN.shape[1])
        base = self.log_likelihood_NX[question, x_SN]
        gain = self.log_likelihood_NX[question, np.minimum(x_SN + 1, self.log_likelihood_NX.shape[1] - 1)] - base
        candidates = self._candidates(current)
        if self.partition.atoms <= CANDIDATES:
            log_weight = gain @ self.signature_AN.T
        else:
            log_weight = np.einsum("sn,scn->sc", gain, self.signature_AN[candidates])
        log_weight = log_weight + np.log(self.mass_A[candidates])
        chosen = self._choose(np.exp(log_weight - log_weight.max(axis=1, keepdims=True)))
        self._accept(rows, [(place, np.take_along_axis(candidates, chosen[:, None], axis=1)[:, 0])], np.ones(len(rows)))

    def _partners(self, total_S: NDArray[np.uint64], candidates: Integers) -> tuple[Integers, Floats]:
        """For each candidate the atom that completes the sum of signatures, and the weight of both (0 if there is none)."""
        wanted = total_S[:, None] - self.hash_A[candidates]
        at = np.searchsorted(self.sorted_A, wanted).clip(max=len(self.sorted_A) - 1)
        partner = self.order_A[at]
        return partner, np.where(self.hash_A[partner] == wanted, self.mass_A[candidates] * self.mass_A[partner], 0.0)

    def _pair(self, total_S: NDArray[np.uint64], candidates: Integers) -> tuple[Integers, Integers, Floats]:
        """Two atoms whose signatures have the sum, drawn by mass, and the weight of all such pairs."""
        partner, weight = self._partners(total_S, candidates)
        chosen = self._choose(weight)[:, None]
        one, other = np.take_along_axis(candidates, chosen, axis=1), np.take_along_axis(partner, chosen, axis=1)
        return one[:, 0], other[:, 0], weight.sum(1)

    def _two(self) -> None:
        """Two objects to a pair of atoms in which every question counts the same."""
        rows, (i, j) = self._objects(2)
        a, b = self.ids_SK[rows, i], self.ids_SK[rows, j]
        new_a, new_b, _ = self._pair(self.hash_A[a] + self.hash_A[b], self._candidates(a))
        self._accept(rows, [(i, new_a), (j, new_b)], np.ones(len(rows)))

    def _three(self) -> None:
        """A third object to an atom drawn from the prior, two others to a pair that makes up for it (Metropolis-Hastings)."""
        if self.partition.atoms > CANDIDATES:
            return  # the weight of all pairs, which acceptance needs, is only known when all are listed
        rows, (i, j, third) = self._objects(3)
        a, b, c = self.ids_SK[rows, i], self.ids_SK[rows, j], self.ids_SK[rows, third]
        new_c = self.rng.choice(self.partition.atoms, size=len(rows), p=self.mass_A / self.mass_A.sum())
        pair = self.hash_A[a] + self.hash_A[b]
        candidates = self._candidates(a)
        _, now = self._partners(pair, candidates)
        new_a, new_b, then = self._pair(pair + self.hash_A[c] - self.hash_A[new_c], candidates)
        self._accept(rows, [(i, new_a), (j, new_b), (third, new_c)], then / now.sum(1))

    def _accept(self, rows: Integers, changes: list[tuple[Integers, Integers]], ratio_S: Floats) -> None:
        """Takes the changes with this probability, times what they do to the chance that objects of an atom are distinct."""
        proposed = self.ids_SK[rows]
        for place, atom in changes:
            proposed[np.arange(len(rows)), place] = atom
        ratio_S = ratio_S * np.exp(self._log_distinct(proposed) - self._log_distinct(self.ids_SK[rows]))
        taken = self.rng.random(len(rows)) < ratio_S
        self.ids_SK[rows[taken]] = proposed[taken]

    def _log_distinct(self, ids_SK: Integers) -> Floats:
        distinct = self.partition.distinct
        if distinct is None:
            return np.zeros(len(ids_SK))
        runs = runs_of(np.sort(ids_SK, axis=1))
        factor = distinct[runs.atom, runs.count]
        safe = np.where(factor > 0, np.log(np.where(factor > 0, factor, 1.0)), IMPOSSIBLE)
        return sums(runs.row, safe, len(ids_SK))
