import numpy as np
import pytest

from tandem.queries import DyadicPolicy, Posterior, Prior, Session, expected_reduction
from tandem.queries.measures import dyadic_bits


@pytest.mark.parametrize(("cells", "k", "questions"), [(8, 2, 3), (8, 4, 3), (16, 3, 4), (8, 1, 3)])
def test_each_question_reveals_the_same(cells: int, k: int, questions: int):
    bits = expected_reduction(DyadicPolicy(), Prior.uniform(cells, k=k), questions)
    np.testing.assert_allclose(bits, dyadic_bits(k) * np.arange(1, questions + 1), atol=1e-12)


def test_all_questions_are_one_batch():
    prior = Prior.uniform(16, k=2)
    session = Session(prior, policy=DyadicPolicy())
    assert session.ask_all() == [prior.dyadic(digit) for digit in (1, 2, 3, 4)]
    session.tell(1)
    assert len(session.ask_all()) == 3


def test_another_policy_goes_on_when_digits_run_out():
    """Notes §0.4: four objects are not told apart by the 6 digits of 64 cells. 7.6: 8.6 questions for 3 objects."""
    needed = []
    for trial in range(20):
        truth = np.sort(np.random.default_rng(trial).integers(64, size=3))
        session = Session(Prior.uniform(64, k=3), policy=DyadicPolicy())
        while not session.done:
            session.tell(session.ask().count(truth))
        assert session.answer == tuple(truth)
        needed.append(session.questions)
    assert np.mean(needed) == pytest.approx(8.6, abs=0.9)


def test_weights_are_split_by_mass():
    prior = Prior.weights([8, 1, 1, 1, 1, 1, 1, 2], k=2)
    region = DyadicPolicy().questions(Posterior(prior), np.random.default_rng(0))[0]
    assert region.ranges == ((1, 8),)
