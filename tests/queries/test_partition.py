from itertools import product
from math import comb, log2

import numpy as np
import pytest
from brute_force import BruteForce
from hypothesis import given
from hypothesis import strategies as st

from tandem.queries import ExactAnswers, Prior, Region
from tandem.queries.partition import Partition, distinct_probability, inclusion

SETS = st.lists(st.sets(st.integers(0, 11)), max_size=4)


@given(SETS)
def test_atoms_are_the_classes_of_cells_that_questions_treat_alike(sets: list[set[int]]):
    partition = Partition.whole(Prior.uniform(12, k=2))
    for chosen in sets:
        partition = partition.cut(Region.of(sorted(chosen)))
    label = np.repeat(partition.label, np.diff(partition.edges))
    signature = [tuple(cell in chosen for chosen in sets) for cell in range(12)]
    for one, other in product(range(12), repeat=2):
        assert (label[one] == label[other]) == (signature[one] == signature[other])
    np.testing.assert_array_equal(partition.size, np.bincount(label, minlength=partition.atoms))
    np.testing.assert_allclose(partition.mass, partition.size / 12)


def test_parts_take_the_last_cells_of_scattered_atoms():
    partition = Partition.whole(Prior.uniform(8, k=1)).cut(Region.of([0, 3, 5, 6]))
    assert list(partition.part(np.array([1, 2]))) == [5, 6, 7]
    assert list(partition.part(partition.upper)) == [4, 5, 6, 7]
    assert list(partition.region(np.array([1]))) == [0, 3, 5, 6]


def test_atoms_that_are_not_kept_hold_nothing():
    partition = Partition.whole(Prior.uniform(8, k=1)).cut(Region([(2, 4)])).keep(np.array([1]))
    assert (partition.atoms, partition.size.tolist()) == (1, [2])
    assert list(partition.part(partition.size)) == [2, 3]


def test_cells_without_weight_are_no_atom():
    partition = Partition.whole(Prior.weights([0, 1, 0, 3], k=1))
    assert partition.size.tolist() == [2]
    assert list(partition.region(np.array([0]))) == [1, 3]


def test_distinct_objects():
    share = np.array([0.5, 0.2, 0.2, 0.1])
    listed = [sum(np.prod(share[list(p)]) for p in product(range(4), repeat=c) if len(set(p)) == c) for c in range(5)]
    np.testing.assert_allclose(distinct_probability(share, 4), listed)
    np.testing.assert_allclose(distinct_probability(np.full(6, 1 / 6), 3)[3], 5 * 4 / 36)
    exact = BruteForce(Prior.weights(share, k=2, at_most_one=True), ExactAnswers())
    np.testing.assert_allclose(inclusion(share, np.array(listed))[2], exact.occupied())
    np.testing.assert_allclose(inclusion(share, np.array(listed))[4], 1.0)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "prior",
    [
        Prior.uniform(5, k=3),
        Prior.weights([4, 1, 1, 2], k=3),
        Prior.uniform(5, k=3, at_most_one=True),
        Prior.weights([4, 1, 1, 2], k=3, at_most_one=True),
    ],
    ids=repr,
)
def test_entropy_within_an_atom_is_that_of_its_objects(prior: Prior, ordered: bool):
    inner = Partition.whole(prior).inner_entropy(ordered)[0]
    assert inner[3] == pytest.approx(BruteForce(prior, ExactAnswers()).entropy(ordered))
    assert inner[0] == 0.0
    if prior.at_most_one and prior.cumulative is None and not ordered:
        assert inner[2] == pytest.approx(log2(comb(5, 2)))
