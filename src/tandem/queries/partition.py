"""The cells sorted into atoms: cells that every question so far treated alike. Given how many objects each atom holds,
objects in one atom are independent draws from the prior restricted to it, so inference needs atoms alone.

Letters: E segments of the row of cells, A atoms, C counts 0 … k.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tandem.queries.measures import LOG2, binomial_pmf, log2_factorial, sums
from tandem.queries.prior import Floats, Integers, Prior
from tandem.queries.region import Region


class Partition:
    """Atoms of the row of cells, as segments with labels; label -1 marks cells that hold no object for certain.

    Attributes:
        edges: first cell of each segment and, last, the number of cells, shape (E + 1,).
        label: atom of each segment, shape (E,).
        atoms: A. size, mass: cells and prior probability of each atom, shape (A,).
    """

    def __init__(self, prior: Prior, edges: Integers, label: Integers, atoms: int):
        joined = np.concatenate([[True], label[1:] != label[:-1]])
        self.prior, self.atoms = prior, atoms
        self.edges = np.concatenate([edges[:-1][joined], edges[-1:]])
        self.label = label[joined]
        self.size = self._total(np.diff(self.edges)).astype(np.int64)
        self.mass = self._total(prior.mass(self.edges[:-1], self.edges[1:]))

    @classmethod
    def whole(cls, prior: Prior) -> "Partition":
        """One atom of all cells that can hold an object."""
        if prior.cumulative is None:
            return cls(prior, np.array([0, prior.cells]), np.array([0]), 1)
        return cls(prior, np.arange(prior.cells + 1), np.where(np.diff(prior.cumulative) > 0, 0, -1), 1)

    def _total(self, values_E: NDArray[Any]) -> Floats:
        return sums(self.label[self.label >= 0], values_E[self.label >= 0], self.atoms)

    def cut(self, region: Region) -> "Partition":
        """Every atom a in two: atom 2a is what lies outside of the region, 2a + 1 what lies inside; either may be empty."""
        bounds = np.concatenate(
            [self.edges, np.clip(region.starts, 0, None), np.clip(region.stops, None, self.edges[-1])]
        )
        edges = np.unique(bounds.astype(np.int64))
        old = self.label[np.searchsorted(self.edges, edges[:-1], side="right") - 1]
        inside = region.contains(edges[:-1])
        return Partition(self.prior, edges, np.where(old < 0, -1, 2 * old + inside), 2 * self.atoms)

    def keep(self, atoms: Integers) -> "Partition":
        """The same with these atoms alone, numbered in their order; all others are known to be empty."""
        number = np.full(self.atoms + 1, -1)
        number[atoms] = np.arange(len(atoms))
        return Partition(self.prior, self.edges, number[self.label], len(atoms))

    def region(self, atoms: Integers) -> Region:
        """The cells of these atoms."""
        chosen = np.isin(self.label, atoms)
        return Region(np.stack([self.edges[:-1][chosen], self.edges[1:][chosen]], axis=1))

    def first_cells(self) -> Integers:
        """The first cell of each atom, shape (A + 1,); the last number, 0, is for objects that are not there."""
        first_A = np.zeros(self.atoms + 1, dtype=np.int64)
        first_A[self.label[::-1]] = self.edges[:-1][::-1]
        first_A[-1] = 0
        return first_A

    def part(self, cells_A: Integers) -> Region:
        """The last `cells_A[a]` cells of each atom a, as a region."""
        before = self._cells_before()
        length = np.diff(self.edges)
        kept = self.label >= 0
        atom = self.label[kept]
        first_taken = (self.size - cells_A)[atom] - before[kept]
        starts = self.edges[:-1][kept] + np.clip(first_taken, 0, length[kept])
        return Region(np.stack([starts, self.edges[1:][kept]], axis=1))

    @cached_property
    def upper(self) -> Integers:
        """How many cells the upper half (by mass) of each atom has; 0 for an atom of one cell."""
        if self.prior.cumulative is None:
            return self.size - self.size // 2
        upper = np.zeros(self.atoms, dtype=np.int64)
        for atom in np.flatnonzero(self.size > 1):
            running = np.cumsum(self.cell_masses(int(atom)))
            best = int(np.argmin(np.abs(running[:-1] - running[-1] / 2)))
            upper[atom] = self.size[atom] - best - 1
        return upper

    def cells_of(self, atom: int) -> Integers:
        """All cells of one atom."""
        segments = np.flatnonzero(self.label == atom)
        return np.concatenate([np.arange(self.edges[e], self.edges[e + 1]) for e in segments])

    def cell_masses(self, atom: int) -> Floats:
        """The prior probability of each cell of one atom."""
        cells = self.cells_of(atom)
        return self.prior.mass(cells, cells + 1)

    @cached_property
    def distinct(self) -> Floats | None:
        """P(c independent objects of an atom are in different cells), shape (A, C); None unless that is what the prior asks.

        The prior of objects with at most one a cell is the independent one conditioned on it, so that these factors are all
        that its inference needs beside the independent one.
        """
        if not self.prior.at_most_one:
            return None
        counts = np.arange(self.prior.k + 1)
        if self.prior.cumulative is None:
            steps = 1 - counts[None, :-1] / np.maximum(self.size[:, None], 1)
            factors = np.ones((self.atoms, len(counts)))
            factors[:, 1:] = np.cumprod(np.maximum(steps, 0.0), axis=1)
            return factors
        factors = np.zeros((self.atoms, len(counts)))
        factors[:, 0] = 1.0
        for atom in np.flatnonzero(self.mass > 0):
            factors[atom] = distinct_probability(self.cell_masses(int(atom)) / self.mass[atom], self.prior.k)
        return factors

    def inner_entropy(self, ordered: bool) -> Floats:
        """Entropy in bits of where c objects are within an atom, as a set with repeats or as a list, shape (A, C)."""
        counts = np.arange(self.prior.k + 1)
        inner = np.zeros((self.atoms, len(counts)))
        if self.prior.cumulative is None and not self.prior.at_most_one:
            inner[:] = counts * np.log2(np.maximum(self.size, 1))[:, None]
            return inner if ordered else inner + self._lost_order()
        for atom in np.flatnonzero((self.mass > 0) & (self.size > 1)):
            share = self.cell_masses(int(atom)) / self.mass[atom]
            inner[atom] = self._inner_entropy_of(int(atom), share, ordered)
        return inner

    def _lost_order(self) -> Floats:
        """What forgetting the order of c objects does to their entropy in equal cells: E Σ log2 N! over cells - log2 c!."""
        counts = np.arange(self.prior.k + 1)
        share = 1 / np.maximum(self.size, 1)
        repeats = [self.size * (binomial_pmf(int(c), share) @ log2_factorial(counts[: c + 1])) for c in counts]
        return np.stack(repeats, axis=1) - log2_factorial(counts)

    def _inner_entropy_of(self, atom: int, share: Floats, ordered: bool) -> Floats:
        counts = np.arange(self.prior.k + 1)
        if self.distinct is None:
            order = 0.0 if ordered else log2_factorial(counts)
            repeats = [(binomial_pmf(int(c), share) @ log2_factorial(counts[: c + 1])).sum() for c in counts]
            return counts * (-xlogy(share, share).sum() / LOG2) - order + (0.0 if ordered else np.array(repeats))
        possible = self.distinct[atom] > 0
        chosen = inclusion(share, self.distinct[atom])
        surprise = -(chosen @ np.log2(np.where(share > 0, share, 1.0)))
        order = log2_factorial(counts) if ordered else 0.0
        log_distinct = np.log2(np.where(possible, self.distinct[atom], 1.0))
        return np.where(possible, log_distinct - log2_factorial(counts) + surprise + order, 0.0)

    def _cells_before(self) -> Integers:
        """For each segment how many cells of its atom lie before it."""
        order = np.argsort(self.label, kind="stable")
        running = np.cumsum(np.diff(self.edges)[order]) - np.diff(self.edges)[order]
        first = np.searchsorted(self.label[order], self.label[order], side="left")
        before = np.empty(len(order), dtype=np.int64)
        before[order] = running - running[first]
        return before


def distinct_probability(share: Floats, k: int) -> Floats:
    """P(c independent draws from `share` are all different) = c! e_c(share) for c = 0 … k, by a tree of polynomial products.

    >>> distinct_probability(np.array([0.5, 0.5]), 2).tolist()
    [1.0, 1.0, 0.5]
    """
    terms = np.zeros((len(share), k + 1))
    terms[:, 0] = 1.0
    if k:
        terms[:, 1] = share
    while len(terms) > 1:
        if len(terms) % 2:
            terms = np.concatenate([terms, np.eye(1, k + 1)])
        left, right = terms[::2], terms[1::2]
        product = np.zeros_like(left)
        for j in range(k + 1):
            product[:, j:] += left[:, j : j + 1] * right[:, : k + 1 - j]
        terms = product
    return terms[0] * np.cumprod(np.concatenate([[1.0], np.arange(1.0, k + 1)]))


def inclusion(share: Floats, distinct_C: Floats) -> Floats:
    """P(a cell is taken | c objects in different cells), shape (C, cells): π_c = c w (d_{c-1} / d_c) (1 - π_{c-1})."""
    taken = np.zeros((len(distinct_C), len(share)))
    for c in range(1, len(distinct_C)):
        if distinct_C[c] > 0:
            taken[c] = c * share * (distinct_C[c - 1] / distinct_C[c]) * (1 - taken[c - 1])
    return np.clip(taken, 0.0, 1.0)
