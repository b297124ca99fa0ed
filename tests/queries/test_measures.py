from math import comb, factorial, log2

import numpy as np
import pytest
from scipy.stats import binom

from tandem.queries.measures import binomial_pmf, dyadic_bits, entropy_bits, log2_binomial, log2_factorial, pascal, sums

# Notes §2: k, D_k = H(Bin(k, 1/2)).
DYADIC = {1: 1.0, 2: 1.5, 3: 1.8112781245, 5: 2.1981924110, 10: 2.7064289632, 16: 3.0465495594, 100: 4.3690114092}


@pytest.mark.parametrize("k", DYADIC)
def test_dyadic_bits_are_those_of_the_notes(k: int):
    assert dyadic_bits(k) == pytest.approx(DYADIC[k], abs=1e-10)


def test_binomials_are_finite_up_to_the_limit_and_refused_beyond():
    assert pascal(1029)[-1, 514] == pytest.approx(comb(1029, 514), rel=1e-12)
    with pytest.raises(
        ValueError, match="k=1030 is more objects than the binomials of float64 reach; use at most 1029"
    ):
        pascal(1030)


def test_entropy_of_zeros_and_of_columns():
    table = np.array([[1.0, 0.25], [0.0, 0.75]])
    np.testing.assert_allclose(entropy_bits(table, axis=0), [0.0, -0.25 * log2(0.25) - 0.75 * log2(0.75)])


def test_binomials_match_scipy_and_exact_integers():
    share = np.array([0.0, 0.1, 0.5, 1.0])
    np.testing.assert_allclose(binomial_pmf(7, share), binom.pmf(np.arange(8), 7, share[:, None]), atol=1e-15)
    assert pascal(30)[30, 15] == comb(30, 15)
    assert float(log2_binomial(20, 7)) == pytest.approx(log2(comb(20, 7)))
    np.testing.assert_allclose(log2_factorial(np.arange(6)), [log2(factorial(n)) for n in range(6)], atol=1e-14)


def test_sums_add_weights_of_a_key():
    assert sums(np.array([2, 0, 2]), np.array([1, 2, 3]), 4).tolist() == [2.0, 0.0, 4.0, 0.0]
