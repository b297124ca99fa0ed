import numpy as np
import pytest

from tandem.queries import DyadicPolicy, EntropyPursuit, MissedAnswers, Posterior, Prior, Region, Session
from tandem.queries.answers import information
from tandem.queries.policies.entropy_pursuit import cell_counts


@pytest.mark.parametrize(
    "prior",
    [
        Prior.uniform(16, k=3),
        Prior.weights(np.arange(16.0), k=3),
        Prior.weights(np.arange(16.0), k=2, at_most_one=True),
        Prior.uniform(16, k={1: 0.5, 3: 0.5}),
    ],
    ids=repr,
)
def test_the_least_certain_cell_is_asked_about(prior: Prior):
    posterior = Posterior(prior, MissedAnswers(0.8)).given(prior.dyadic(1), 1).given(prior.dyadic(2), 0)
    f_XY = posterior.answers.matrix(prior.k)
    bits = [float(information(f_XY, posterior.count_distribution(Region([(cell, cell + 1)])))) for cell in range(16)]
    region = EntropyPursuit().questions(posterior, np.random.default_rng(0))[0]
    assert len(region) == 1
    assert bits[next(iter(region))] == pytest.approx(max(bits), abs=1e-8)
    cells, count_IX = cell_counts(posterior, Region())
    np.testing.assert_allclose(count_IX.sum(1), 1.0)
    assert len(cells) == len(count_IX)


def test_detection_after_screening_finds_the_truth():
    """ICML §4: dyadic screening, then single cells."""
    truth = [3, 40]
    session = Session(Prior.uniform(64, k=2), policy=DyadicPolicy(then=EntropyPursuit()))
    while not session.done:
        session.tell(session.ask().count(truth))
    assert session.answer == (3, 40)
    assert session.questions <= 6 + 32
