import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.queries import BestRange, MissedAnswers, Posterior, Prior, Region, SaturatedAnswers, Session
from tandem.queries.answers import information
from tandem.queries.policies.best_range import Ends

PRIORS = [Prior.uniform(24, k=3), Prior.weights(np.arange(24.0), k=2), Prior.uniform(24, k={1: 0.5, 3: 0.5})]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_information_is_that_of_the_posterior(prior: Prior):
    posterior = Posterior(prior, MissedAnswers(0.9)).given(Region([(3, 12)]), 1).given(Region([(8, 20)]), 1)
    ends = Ends(posterior.rows(), None)
    bits_EE = ends.information(posterior.answers)
    f_XY = posterior.answers.matrix(prior.k)
    for start, stop in zip(*np.triu_indices(len(ends.place), 1), strict=True):
        region = Region([(int(ends.place[start]), int(ends.place[stop]))])
        expected = float(information(f_XY, posterior.count_distribution(region)))
        assert bits_EE[start, stop] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20)
@given(st.integers(1, 120), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 40)), st.integers(0, 2**31))
def test_searches_by_ranges_end_with_the_truth(cells: int, k: int, longest: int | None, seed: int):
    truth = np.sort(np.random.default_rng(seed).integers(cells, size=k))
    session = Session(Prior.uniform(cells, k=k), policy=BestRange(longest=longest))
    while not session.done:
        region = session.ask()
        assert len(region.ranges) == 1
        assert len(region) <= (longest or cells)
        session.tell(region.count(truth))
        assert session.questions <= 4 * cells
    assert session.answer == tuple(truth)


def test_one_object_is_binary_search():
    session = Session(Prior.uniform(256, k=1), policy=BestRange())
    while not session.done:
        session.tell(session.ask().count([77]))
    assert session.questions == 8


def test_a_cost_per_cell_makes_ranges_shorter():
    """The range of a share p of 64 cells is worth H(p) / (1 + 64 p c)."""

    def first(per_cell: float) -> int:
        return len(Session(Prior.uniform(64, k=1), policy=BestRange(per_cell=per_cell)).ask())

    def worth(cells: int, per_cell: float) -> float:
        p = np.array([cells / 64, 1 - cells / 64])
        return -float(p @ np.log2(p)) / (1 + cells * per_cell)

    for per_cell in (0.0, 0.1, 1.0, 10.0):
        assert worth(first(per_cell), per_cell) >= max(worth(n, per_cell) for n in (1, 2, 4, 8, 16, 32)) - 1e-9
    assert first(0.0) == 32
    assert first(1.0) < 8


def test_nothing_to_tell_apart_has_a_reason():
    posterior = Posterior(Prior.uniform(1, k={1: 0.5, 2: 0.5}), SaturatedAnswers(1))
    with pytest.raises(ValueError, match="no range tells apart"):
        BestRange().questions(posterior, np.random.default_rng(0))
    with pytest.raises(ValueError, match="longest=0"):
        BestRange(longest=0)
