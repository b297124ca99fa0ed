"""The posterior over all ordered tuples of cells, listed one by one: slow, plain, and independent of atoms and rows."""

from collections.abc import Sequence
from itertools import product
from math import log2

import numpy as np

from tandem.queries import Answers, Prior, Region

PRIORS = [
    Prior.uniform(6, k=3),
    Prior.weights([1, 2, 3, 0, 5, 1], k=3),
    Prior.uniform(6, k={0: 0.1, 2: 0.6, 3: 0.3}),
    Prior.uniform(6, k=3, at_most_one=True),
    Prior.weights([1, 2, 3, 0, 5, 1], k={1: 0.3, 3: 0.7}, at_most_one=True),
]
"""Of few enough worlds to list them: known and unknown numbers, equal and unequal weights, cells shared or not."""


class BruteForce:
    def __init__(self, prior: Prior, answers: Answers, history: Sequence[tuple[Region, float]] = ()):
        self.k, self.cells = prior.k, prior.cells
        mass = prior.mass(np.arange(self.cells), np.arange(self.cells) + 1)
        self.weight: dict[tuple[int, ...], float] = {}
        for number, share in prior.objects.items():
            listed = {
                places: float(np.prod(mass[list(places)]))
                for places in product(range(self.cells), repeat=number)
                if not prior.at_most_one or len(set(places)) == number
            }
            total = sum(listed.values())
            self.weight.update({places: share * value / total for places, value in listed.items() if share * value > 0})
        for region, answer in history:
            likelihood = answers.likelihood(answer, prior.k)
            inside = set(region)
            for places in self.weight:
                self.weight[places] *= likelihood[sum(place in inside for place in places)]
        self.evidence = sum(self.weight.values())
        self.weight = {places: value / self.evidence for places, value in self.weight.items() if value > 0}

    def entropy(self, ordered: bool) -> float:
        grouped: dict[tuple[int, ...], float] = {}
        for places, value in self.weight.items():
            name = places if ordered else tuple(sorted(places))
            grouped[name] = grouped.get(name, 0.0) + value
        return -sum(value * log2(value) for value in grouped.values())

    def expected_counts(self) -> np.ndarray:
        return np.array([sum(v * p.count(cell) for p, v in self.weight.items()) for cell in range(self.cells)])

    def occupied(self) -> np.ndarray:
        return np.array([sum(v for p, v in self.weight.items() if cell in p) for cell in range(self.cells)])

    def expected_pairs(self, items: Sequence[int]) -> np.ndarray:
        return np.array(
            [
                [sum(v * p.count(i) * (p.count(j) - (i == j)) for p, v in self.weight.items()) for j in items]
                for i in items
            ]
        )

    def count_distribution(self, region: Region) -> np.ndarray:
        inside, counts = set(region), np.zeros(self.k + 1)
        for places, value in self.weight.items():
            counts[sum(place in inside for place in places)] += value
        return counts
