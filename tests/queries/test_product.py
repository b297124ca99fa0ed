from math import comb, log2

import numpy as np
import pytest
from brute_force import BruteForce

from tandem.queries import Answers, ExactAnswers, MissedAnswers, NoisyAnswers, Prior, Product, Region, Table
from tandem.queries.product import NotDyadicError


@pytest.mark.parametrize(
    ("prior", "answers", "replies"),
    [
        (Prior.uniform(8, k=4), ExactAnswers(), (1, 3, 2)),
        (Prior.uniform(8, k=3), ExactAnswers(), (1, 2)),
        (Prior.uniform(8, k={1: 0.3, 2: 0.4, 3: 0.3}), ExactAnswers(), (1, 2)),
        (Prior.uniform(8, k=3), NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1}), (4, 1, 0)),
        (Prior.uniform(8, k={0: 0.2, 3: 0.8}), MissedAnswers(0.5), (1, 0, 0)),
    ],
)
def test_the_product_is_the_enumeration_and_the_table(prior: Prior, answers: Answers, replies: tuple[int, ...]):
    product, table, history = Product(prior), Table.start(prior), []
    for digit, reply in enumerate(replies, start=1):
        region, likelihood_X = prior.dyadic(digit), answers.likelihood(reply, prior.k)
        product, table = product.given(region, likelihood_X), table.given(region, likelihood_X)
        history.append((region, reply))
    exact = BruteForce(prior, answers, history)
    assert product.surprise == pytest.approx(-log2(exact.evidence))
    for ordered in (True, False):
        assert product.entropy(ordered) == pytest.approx(exact.entropy(ordered), abs=1e-10)
        assert product.entropy(ordered) == pytest.approx(table.entropy(ordered), abs=1e-10)
    items = np.array([0, 3, 6])
    np.testing.assert_allclose(product.expected_pairs(items), exact.expected_pairs(items), atol=1e-12)
    asked = prior.dyadic(2)
    np.testing.assert_allclose(product.count_distribution(asked), exact.count_distribution(asked), atol=1e-12)
    size = 8 // product.partition.atoms
    for cell, counts in enumerate(product.atom_counts()):
        region = Region([(cell * size, (cell + 1) * size)])
        np.testing.assert_allclose(counts, exact.count_distribution(region), atol=1e-12)
    cells = product.sample(4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(cells[cells >= 0], minlength=8) / 4000, exact.expected_counts(), atol=0.06)


def test_figures_of_the_notes():
    """Notes 7.1 and 7.2: expected counts, codewords and an unknown number of objects."""
    product = Product(Prior.uniform(8, k=4))
    for digit, answer in enumerate((1, 3, 2), start=1):
        product = product.given(product.prior.dyadic(digit), np.eye(5)[answer])
    expected = product.atom_counts() @ np.arange(5)
    np.testing.assert_allclose(expected, [0.375, 0.375, 1.125, 1.125, 0.125, 0.125, 0.375, 0.375])
    assert product.entropy(True) == pytest.approx(log2(96))
    unknown = Product(Prior.uniform(8, k={1: 0.3, 2: 0.4, 3: 0.3}))
    for digit, answer in enumerate((1, 2), start=1):
        unknown = unknown.given(unknown.prior.dyadic(digit), np.eye(4)[answer])
    assert unknown._numbers == pytest.approx({2: 0.54237288, 3: 0.45762712}, abs=1e-8)


def test_many_objects_and_digits_cost_nothing():
    prior, answers = Prior.uniform(2**40, k=50), [25, 20, 30, 26, 24]
    product = Product(prior)
    for digit, answer in enumerate(answers, start=1):
        product = product.given(prior.dyadic(digit), np.eye(51)[answer])
    ordered = sum(log2(comb(50, answer)) for answer in answers) + 50 * 35
    assert product.entropy(True) == pytest.approx(ordered)
    assert product.entropy(False) == pytest.approx(ordered - sum(log2(n) for n in range(1, 51)), abs=0.01)
    np.testing.assert_allclose((product.atom_counts() @ np.arange(51)).sum(), 50.0)
    counts = prior.dyadic(2).contains(product.sample(20, np.random.default_rng(0))).sum(1)
    assert set(counts) == {20}


def test_other_questions_and_priors_are_refused():
    with pytest.raises(NotDyadicError):
        Product(Prior.uniform(8, k=2)).given(Region([(0, 3)]), np.ones(3))
    with pytest.raises(ValueError, match=r"2\*\*L cells"):
        Product(Prior.uniform(6, k=2))
    deep = Product(Prior.uniform(2**30, k=2), {30: np.ones(3)})
    with pytest.raises(ValueError, match="too many to list"):
        deep.atom_counts()
