import numpy as np
import pytest
from brute_force import BruteForce

from tandem.queries import Answers, ExactAnswers, GeneratingFunction, NoisyAnswers, Prior, Product, Region
from tandem.queries.generating import TooManyTermsError


@pytest.mark.parametrize("answers", [ExactAnswers(), NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1})], ids=["exact", "noisy"])
@pytest.mark.parametrize(
    "prior", [Prior.uniform(6, k=3), Prior.weights([1, 2, 3, 0, 5, 1], k={0: 0.1, 1: 0.3, 3: 0.6})], ids=repr
)
def test_the_generating_function_is_the_enumeration(prior: Prior, answers: Answers):
    regions = [Region.of([0, 1, 2]), Region.of([1, 4]), Region.of([2, 4, 5])]
    history = list(zip(regions, (2, 1, 1), strict=True))
    engine = GeneratingFunction(prior)
    for region, answer in history:
        engine = engine.given(region, answers.likelihood(answer, prior.k))
    exact = BruteForce(prior, answers, history)
    assert 2.0**-engine.surprise == pytest.approx(exact.evidence)
    for ordered in (True, False):
        assert engine.entropy(ordered) == pytest.approx(exact.entropy(ordered), abs=1e-9)
    asked, items = Region([(0, 2), (4, 5)]), np.array([0, 1, 2, 4])
    np.testing.assert_allclose(engine.count_distribution(asked), exact.count_distribution(asked), atol=1e-12)
    np.testing.assert_allclose(engine.expected_pairs(items), exact.expected_pairs(items), atol=1e-12)
    for atom, counts in enumerate(engine.atom_counts()):
        region = engine.partition.region(np.array([atom]))
        np.testing.assert_allclose(counts, exact.count_distribution(region), atol=1e-12)
    cells = engine.sample(3000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(cells[cells >= 0], minlength=6) / 3000, exact.expected_counts(), atol=0.05)


def test_many_objects_agree_with_the_product_posterior():
    """10 objects, 5 dyadic questions: 2 * 10**6 compositions, 10**5 terms."""
    prior = Prior.uniform(2**20, k=10)
    engine, product = GeneratingFunction(prior), Product(prior)
    for digit, answer in enumerate((4, 6, 5, 3, 7), start=1):
        engine, product = (which.given(prior.dyadic(digit), np.eye(11)[answer]) for which in (engine, product))
    assert engine.surprise == pytest.approx(product.surprise)
    assert engine.entropy(False) == pytest.approx(product.entropy(False), abs=1e-9)
    np.testing.assert_allclose(engine.atom_counts(), product.atom_counts(), atol=1e-11)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at_most_one=False"):
        GeneratingFunction(Prior.uniform(6, k=2, at_most_one=True))
    engine = GeneratingFunction(Prior.uniform(2**20, k=12))
    for digit in range(1, 7):
        engine = engine.given(engine.prior.dyadic(digit), np.eye(13)[6])
    with pytest.raises(TooManyTermsError):
        engine.given(engine.prior.dyadic(7), np.eye(13)[12])
