"""Errors and intervals against scipy, and against repeated sampling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tandem.evaluate.estimate import mean, ratio, share


@given(st.integers(1, 400), st.data())
def test_share_has_wilsons_interval(n: int, data: st.DataObject):
    hits = data.draw(st.integers(0, n))
    found = share(hits, n)
    wanted = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert found.value == hits / n
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=50))
def test_mean_has_scipys_standard_error(values: list[float]):
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert found.error == pytest.approx(stats.sem(values), abs=1e-12)


def test_ratio_varies_as_its_error_says():
    generator = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(600):
        sizes = generator.integers(50, 150, 40).astype(float)
        tops = sizes * generator.normal(2.0, 0.3, 40)
        one = ratio(list(tops), list(sizes))
        found.append(one.value)
        errors.append(one.error)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)
    assert np.mean(found) == pytest.approx(2.0, abs=0.01)


def test_one_sample_tells_no_error():
    assert mean([3.0]).error is None
    assert ratio([3.0], [2.0]).low is None
    assert ratio([3.0], [2.0]).value == 1.5
