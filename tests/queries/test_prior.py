import numpy as np
import pytest
from scipy.stats import norm

from tandem.queries import Prior


def test_dyadic_sets_are_binary_digits():
    prior, cells = Prior.uniform(16, k=2), np.arange(16)
    assert prior.digits == 4
    for digit in range(1, 5):
        np.testing.assert_array_equal(prior.dyadic(digit).contains(cells), (cells >> (4 - digit)) & 1)


def test_dyadic_sets_of_weights_halve_the_mass():
    prior = Prior.weights([4, 1, 1, 1, 1, 4, 2, 2], k=2)
    assert prior.digits is None
    assert prior.dyadic(1).ranges == ((5, 8),)
    assert prior.dyadic(2).ranges == ((1, 5), (6, 8))
    uneven = Prior.uniform(5, k=1)
    assert [list(uneven.dyadic(digit)) for digit in (1, 2, 3)] == [[2, 3, 4], [1, 3, 4], [4]]


def test_the_line_is_cut_at_quantiles():
    prior = Prior.line(norm.ppf, k=2, cells=8)
    assert prior.show(prior.dyadic(1)).ranges == ((0.0, np.inf),)
    np.testing.assert_allclose(prior.place(np.array([0, 3])), norm.ppf([1 / 16, 7 / 16]))


def test_numbers_of_objects():
    prior = Prior.uniform(8, k={1: 0.5, 3: 0.5, 9: 0.0})
    assert (prior.k, prior.k_known, Prior.uniform(8, k=2).k_known) == (3, False, True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prior.uniform(0, k=1), "n=0"),
        (lambda: Prior.uniform(4, k=-1), "k="),
        (lambda: Prior.uniform(4, k={1: 0.5}), "add up to 0.5"),
        (lambda: Prior.uniform(4, k=5, at_most_one=True), "5 objects do not fit into 4 cells"),
        (lambda: Prior.weights([1, 0, 1], k=3, at_most_one=True), "do not fit into 2 cells"),
        (lambda: Prior.weights([1, -1], k=1), "weights"),
        (lambda: Prior.weights([0, 0], k=1), "weights"),
        (lambda: Prior.uniform(4, k=1).dyadic(0), "digit=0"),
    ],
)
def test_bad_priors_are_named(make: object, message: str):
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_prior_shows_how_it_was_made():
    assert repr(Prior.uniform(4, k=2, at_most_one=True)) == "Prior.uniform(4, k=2, at_most_one=True)"
    assert repr(Prior.weights([1, 2], k=2)) == "Prior.weights(…, k=2)"
    assert "cells=8" in repr(Prior.line(norm.ppf, k=1, cells=8))
