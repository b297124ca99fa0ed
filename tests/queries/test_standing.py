import numpy as np
import pytest
from brute_force import PRIORS, BruteForce

from tandem.queries import Answers, ExactAnswers, NoisyAnswers, Posterior, Prior, Region, Session, search
from tandem.queries.standing import most_likely


@pytest.mark.parametrize("answers", [ExactAnswers(), NoisyAnswers({0: 0.8, 1: 0.2})], ids=["exact", "noisy"])
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_the_guess_is_the_most_likely_multiset_of_the_enumeration(prior: Prior, answers: Answers):
    history = [(Region.of([0, 1, 2]), 1), (Region.of([1, 4]), 1)]
    for asked in range(3):
        posterior = Posterior(prior, answers)
        for region, answer in history[:asked]:
            posterior = posterior.given(region, answer)
        exact: dict[tuple[int, ...], float] = {}
        for places, weight in BruteForce(prior, answers, history[:asked]).weight.items():
            exact[tuple(sorted(places))] = exact.get(tuple(sorted(places)), 0.0) + weight
        cells, probability = most_likely(posterior.rows())
        assert probability == pytest.approx(max(exact.values()))
        assert exact[cells] == pytest.approx(max(exact.values()))


def test_what_is_certain_and_what_is_open():
    session = Session(Prior.uniform(16, k=3))
    for ranges, answer in (((0, 8), 2), ((4, 5), 1), ((8, 12), 0)):
        session.posterior = session.posterior.given(Region([ranges]), answer)
    reached = session.standing()
    assert reached.certain == (4,)
    assert reached.open.ranges == ((0, 4), (5, 8), (12, 16))
    assert (reached.done, reached.questions, reached.bits_left) == (False, 3, pytest.approx(np.log2(7 * 4)))
    assert reached.probability == pytest.approx(1 / 28)
    assert "not done after 3 questions: certain: 4; others in 11 places" in str(reached)


def test_budgets_count_the_questions_of_a_call():
    session, hidden = Session(Prior.uniform(4096, k=2)), [5, 999]
    for total in (3, 6):
        reached = search(session, lambda region: region.count(hidden), max_questions=3)
        assert (reached.stopped, reached.questions) == ("questions", total)
    assert search(session, lambda region: region.count(hidden), max_seconds=0).stopped == "seconds"
    assert search(session, lambda region: region.count(hidden)).guess == (5, 999)
    for wrong in ({"max_questions": -1}, {"max_seconds": -0.5}):
        with pytest.raises(ValueError, match="max_"):
            search(session, lambda region: 0, **wrong)
