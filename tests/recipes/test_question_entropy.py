"""Entropy by question beside exact sums, and the spread of posterior entropies beside the posterior itself."""

import numpy as np
import pytest
from scipy.stats import norm

from tandem.queries import HalfGreedyPolicy, Posterior, Prior, Product, SequentialBifurcation
from tandem.recipes.question_entropy import RISING, UNIFORM, bits_by_question, dyadic_spread, posterior_entropies


def test_bifurcation_removes_what_its_recursion_says():
    """Exact in the continuum for two objects: 1.5, 2.75, 3.875, 4.9375 bits; the first two without any spread."""
    row = bits_by_question(SequentialBifurcation(), 2, 2**12, trials=15)
    np.testing.assert_allclose(row["bits"][:2], [1.5, 2.75], atol=0.2)
    assert row["bits"][0] == pytest.approx(1.5)
    for n, exact in enumerate([1.5, 2.75, 3.875, 4.9375]):
        assert abs(row["bits"][n] - exact) <= 4 * row["error"][n] + 1e-9


def test_all_bits_are_gone_at_the_end():
    row = bits_by_question(HalfGreedyPolicy(), 3, 2**6, trials=16)
    assert row["cut"] == 0
    assert len(row["questions"]) == 16
    assert abs(row["bits"][-1] - row["entropy"]) <= 4 * row["error"][-1]


def test_entropies_are_those_of_the_posterior():
    """Entropy in order on 2^n cells, less the log of a cell's width for each object, is the differential entropy."""
    k, n = 3, 6
    rng = np.random.default_rng(0)
    quantile_DK = np.random.default_rng(0).integers(2**n, size=(5, k))
    prior = Prior.uniform(2**n, k=k)
    for objects_K, mine in zip(quantile_DK, posterior_entropies(k, n, 5, UNIFORM, rng), strict=True):
        posterior = Posterior(prior, engine=Product(prior))
        for digit in range(1, n + 1):
            posterior = posterior.given(prior.dyadic(digit), prior.dyadic(digit).count(objects_K))
        assert mine == pytest.approx(posterior.entropy(ordered=True) - k * n)


def test_a_density_that_is_not_flat_adds_its_own_term():
    """H = -Σ over cells of k m(cell) mean log2 f0 …, by summing a fine grid instead of the digits."""
    k, n, draws = 2, 4, 20
    mine = posterior_entropies(k, n, draws, RISING, np.random.default_rng(3))
    flat = posterior_entropies(k, n, draws, UNIFORM, np.random.default_rng(3))
    counts_DN = (
        (np.random.default_rng(3).integers(2**n, size=(draws, k))[:, :, None] >> np.arange(n - 1, -1, -1)) & 1
    ).sum(1)
    v = (np.arange(2**16) + 0.5) / 2**16
    digit_VN = (np.floor(v[:, None] * 2 ** np.arange(1, n + 1)).astype(int)) & 1
    for counts_N, ours, without in zip(counts_DN, mine, flat, strict=True):
        share_N = counts_N / k
        weight_V = np.prod(np.where(digit_VN, share_N, 1 - share_N), axis=1)
        mean = (weight_V * np.log2(2 * np.sqrt(v))).sum() / weight_V.sum()
        assert ours == pytest.approx(without - k * mean, abs=1e-3)


def test_two_objects_have_a_lattice_of_entropies():
    """Σ log2 C(2, x) counts the answers 1: binomial, whose distance from normal is half its mode."""
    row = dyadic_spread(2, 20, 20_000)
    assert row["mean"] == pytest.approx(-30, abs=4 * (5 / 20_000) ** 0.5)
    assert row["variance"] == pytest.approx(5, rel=0.06)
    mode = 0.176197
    assert row["distance"] == pytest.approx(mode / 2, abs=0.02)
    areas = np.diff(row["edges"]) * row["heights"]
    assert areas.sum() == pytest.approx(1)


def test_many_objects_are_close_to_normal():
    row = dyadic_spread(5, 50, 10_000)
    assert row["theory"] == pytest.approx([-109.9096, 36.5838], abs=1e-3)
    assert row["within"] == pytest.approx(norm.cdf(1.96) - norm.cdf(-1.96), abs=0.01)
    assert row["distance"] < 0.06
