import numpy as np
import pytest

from tandem.queries import (
    DyadicPolicy,
    ExactAnswers,
    GaussianAnswers,
    NoisyAnswers,
    Posterior,
    Prior,
    Product,
    capacity,
    dyadic_entropy,
    dyadic_information,
    dyadic_questions,
    expected_reduction,
    lower_bound,
)

NOISE = NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1})


def test_bounds_of_the_notes():
    """Notes §2: non-adaptive H0 - N D_k; adaptive the same for N ≤ 2, then log2(k + 1) a question at most."""
    assert lower_bound(k=2, n=5, entropy=10.0, adaptive=False) == pytest.approx(2.5)
    assert lower_bound(k=2, n=2, entropy=10.0) == pytest.approx(7.0)
    assert lower_bound(k=3, n=10) == pytest.approx(-(2 * 1.8112781245 + 8 * 2.0), abs=1e-9)
    assert lower_bound(k=3, n=0, entropy=1.0) == 1.0
    for k in (1, 2, 5, 30):
        assert lower_bound(k=k, n=7) >= -7 * np.log2(k + 1) - 1e-12
        reduction = -lower_bound(k=k, n=7, adaptive=False)
        assert reduction >= -lower_bound(k=k, n=7) / 2  # the 2-approximation
    with pytest.raises(ValueError, match="n=-1"):
        lower_bound(k=2, n=-1)


def test_capacities_of_the_notes():
    """Notes 7.2: a noise of -1, 0, +1 on counts of 3 objects; without noise log2(k + 1)."""
    assert capacity(NOISE, 3) == pytest.approx(1.33838369, abs=1e-8)
    assert capacity(ExactAnswers(), 6) == pytest.approx(np.log2(7))


@pytest.mark.parametrize(
    ("k", "sigma", "bits"),
    [
        (2, 0.25, 1.377709),
        (2, 1, 0.292064),
        (3, 0.5, 0.992526),
        (5, 0.25, 2.043949),
        (5, 2, 0.196143),
        (10, 1, 0.903329),
    ],
)
def test_dyadic_information_through_gaussian_noise(k: int, sigma: float, bits: float):
    assert dyadic_information(k, GaussianAnswers(float(sigma))) == pytest.approx(bits, abs=1e-6)


def test_dyadic_questions_through_noise():
    """Notes 7.2: three dyadic questions about 3 objects in 8 cells leave 5.7494764217 labeled bits on average."""
    assert dyadic_information(3, NOISE) == pytest.approx(1.0835078594, abs=1e-10)
    removed = expected_reduction(DyadicPolicy(), Prior.uniform(8, k=3), 3, NoisyIndexed())[-1]
    assert 9 - removed == pytest.approx(5.7494764217, abs=1e-9)


class NoisyIndexed:
    """The noise of the notes with answers numbered from 0, as columns of its matrix are."""

    deterministic = False

    def matrix(self, k: int) -> np.ndarray:
        return NOISE.matrix(k)

    def likelihood(self, answer: float, k: int) -> np.ndarray:
        return NOISE.likelihood(answer - 1, k)


@pytest.mark.parametrize(
    ("k", "questions", "mean", "variance"), [(2, 20, -30, 5), (3, 30, -54.3383, 14.1306), (5, 50, -109.9096, 36.5838)]
)
def test_moments_of_the_posterior_entropy(k: int, questions: int, mean: float, variance: float):
    """Notes 7.1, and by simulation of the product posterior on the unit interval."""
    assert dyadic_entropy(k, questions) == pytest.approx((mean, variance), abs=5e-5)
    prior, rng = (
        Prior.line(lambda u: u, k=k, cells=2**questions if questions <= 48 else 2**48),
        np.random.default_rng(0),
    )
    asked = min(questions, 48)
    bits = []
    for _ in range(120):
        answers = rng.binomial(k, 0.5, asked)
        product = Product(prior, {digit: np.eye(k + 1)[x] for digit, x in enumerate(answers, start=1)})
        bits.append(product.entropy(ordered=True) - k * (prior.digits or 0))
    assert np.mean(bits) == pytest.approx(mean * asked / questions, abs=4 * np.sqrt(variance / 120))
    assert np.var(bits) == pytest.approx(variance * asked / questions, rel=0.5)


def test_planning():
    assert dyadic_questions(1, 20.0, 0.99) == 20
    needed = dyadic_questions(3, 40.0, 0.95)
    mean, variance = dyadic_entropy(3, needed)
    assert -mean - 1.6448536 * np.sqrt(variance) >= 40.0
    mean, variance = dyadic_entropy(3, needed - 1)
    assert -mean - 1.6448536 * np.sqrt(variance) < 40.0
    with pytest.raises(ValueError, match="confidence=1"):
        dyadic_questions(2, 10.0, 1.0)


def test_unordered_entropy_of_the_priors_of_the_notes():
    for cells, k, bits in ((8, 2, 5.125), (8, 3, 6.783553), (8, 4, 8.139576), (6, 2, 4.336592), (7, 2, 4.757567)):
        assert Posterior(Prior.uniform(cells, k=k)).entropy() == pytest.approx(bits, abs=5e-7)
