import numpy as np
import pytest
from brute_force import BruteForce

from tandem.queries import (
    ExactAnswers,
    GreedyPolicy,
    Optimum,
    Posterior,
    Prior,
    Region,
    expected_reduction,
    lower_bound,
)
from tandem.queries.enumeration import best_question, canonical, count_distributions, questions_of
from tandem.queries.table import Table

# Notes 7.3: cells, objects, questions, bits that the best adaptive policy removes.
OPTIMA = [
    *[(8, 2, n, bits) for n, bits in enumerate((1.5, 3.0, 4.5, 5.125), start=1)],
    *[(8, 3, n, bits) for n, bits in enumerate((1.8112781, 3.6225562, 5.4338344), start=1)],
    *[(8, 4, n, bits) for n, bits in enumerate((2.0306391, 4.0612781, 6.0919172), start=1)],
    *[(6, 2, n, bits) for n, bits in enumerate((1.5, 2.9138339, 4.1143695, 4.3365917), start=1)],
    *[(7, 2, n, bits) for n, bits in enumerate((1.4806604, 2.9408415, 4.3494037), start=1)],
    (12, 2, 3, 4.4620376832),
    (16, 2, 3, 4.5198585007),
    (24, 2, 3, 4.5212406252),
    (12, 3, 3, 5.4276606368),
    (16, 3, 3, 5.4596198305),
]


@pytest.mark.parametrize(("cells", "k", "questions", "bits"), OPTIMA)
def test_the_optimum_is_that_of_the_notes(cells: int, k: int, questions: int, bits: float):
    best = Optimum(Prior.uniform(cells, k=k)).reduction(questions)
    assert best == pytest.approx(bits, abs=6e-8)
    assert best <= -lower_bound(k=k, n=questions) + 1e-9


def test_the_optimum_ends_with_everything_known():
    prior = Prior.uniform(5, k=2, at_most_one=True)
    assert Optimum(prior).reduction(6) == pytest.approx(np.log2(10))


def test_too_many_questions_are_refused():
    with pytest.raises(ValueError, match="use fewer cells"):
        Optimum(Prior.uniform(2**20, k=2)).reduction(2)


@pytest.mark.parametrize(
    "prior",
    [Prior.uniform(6, k=3), Prior.weights([1, 2, 3, 1, 5, 1], k=3), Prior.uniform(6, k=3, at_most_one=True)],
    ids=repr,
)
def test_answers_of_all_questions_follow_the_enumeration(prior: Prior):
    posterior = Posterior(prior).given(Region([(0, 4)]), 2)
    exact = BruteForce(prior, ExactAnswers(), posterior.history)
    rows = posterior.rows()
    cells_QA = questions_of(rows)
    assert cells_QA is not None
    assert len(cells_QA) == 5 * 3
    for cells_A, count_X in zip(cells_QA, count_distributions(rows, cells_QA), strict=True):
        np.testing.assert_allclose(count_X, exact.count_distribution(rows.partition.part(cells_A)), atol=1e-12)
    found = best_question(rows, ExactAnswers())
    assert found is not None
    every = [
        BruteForce(prior, ExactAnswers(), posterior.history).count_distribution(rows.partition.part(cells_A))
        for cells_A in cells_QA
    ]
    assert found[1] == pytest.approx(max(-(p[p > 0] * np.log2(p[p > 0])).sum() for p in every))


def test_names_of_posteriors_ignore_the_order_of_atoms():
    table = Table.start(Prior.uniform(8, k=2))
    one, other = (table.given(Region([pair]), np.eye(3)[1]) for pair in ((0, 3), (5, 8)))
    assert canonical(one) == canonical(other)
    assert canonical(one) != canonical(table.given(Region([(0, 4)]), np.eye(3)[1]))


def test_expected_reduction_ends_when_all_is_known():
    bits = expected_reduction(GreedyPolicy(), Prior.uniform(4, k=1), 4)
    np.testing.assert_allclose(bits, [1.0, 2.0, 2.0, 2.0])
