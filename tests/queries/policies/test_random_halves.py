import numpy as np
import pytest

from tandem.queries import Posterior, Prior, RandomHalves, Session


def test_half_of_all_cells_is_asked_about():
    posterior, rng = Posterior(Prior.uniform(9, k=2)), np.random.default_rng(0)
    asked = [RandomHalves().questions(posterior, rng)[0] for _ in range(300)]
    assert {len(region) for region in asked} == {4}
    np.testing.assert_allclose(np.mean([region.contains(np.arange(9)) for region in asked], axis=0), 4 / 9, atol=0.12)


def test_identification_as_in_the_notes():
    """Notes 7.6: 8.99 questions for two objects in 64 cells."""
    needed = []
    for trial in range(60):
        truth = np.sort(np.random.default_rng(trial).integers(64, size=2))
        session = Session(Prior.uniform(64, k=2), policy=RandomHalves(), seed=trial)
        while not session.done:
            session.tell(session.ask().count(truth))
        assert session.answer == tuple(truth)
        needed.append(session.questions)
    assert np.mean(needed) == pytest.approx(8.99, abs=0.8)


def test_too_many_cells_are_refused():
    with pytest.raises(ValueError, match="too many to list"):
        RandomHalves().questions(Posterior(Prior.uniform(2**40, k=2)), np.random.default_rng(0))
