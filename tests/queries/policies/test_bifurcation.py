import numpy as np
import pytest

from tandem.queries import NoisyAnswers, Posterior, Prior, Region, SequentialBifurcation, Session, expected_reduction

# Notes 7.3 and 7.5: cells, objects, largest first, cumulative bits.
FIGURES = [
    (8, 2, False, (1.5, 2.75, 3.875, 4.625, 5.125)),
    (8, 2, True, (1.5, 2.75, 3.875, 4.625, 5.125)),
    (8, 3, False, (1.8112781, 3.3890977, 4.7210525, 5.6585525)),
    (8, 3, True, (1.8112781, 3.3890977, 4.5335525, 5.6585525)),
    (8, 4, False, (2.0306391, 3.7526080, 5.3192639, 6.4677014)),
    (8, 4, True, (2.0306391, 3.7526080, 5.0303541, 6.4677014)),
    (2**20, 2, False, (1.5, 2.75, 3.875, 4.9375, 5.96875, 6.984375)),
    (2**20, 3, False, (1.81128, 3.38910, 4.72105, 5.89779, 6.98885, 8.03505)),
    (2**20, 3, True, (1.81128, 3.38910, 4.53355, 5.75717, 6.81307, 7.92080)),
]


@pytest.mark.parametrize(("cells", "k", "largest_first", "bits"), FIGURES)
def test_expected_reduction_is_that_of_the_notes(cells: int, k: int, largest_first: bool, bits: tuple[float, ...]):
    policy = SequentialBifurcation(largest_first=largest_first)
    np.testing.assert_allclose(expected_reduction(policy, Prior.uniform(cells, k=k), len(bits)), bits, atol=6e-6)


@pytest.mark.parametrize("largest_first", [True, False])
def test_questions_to_identification(largest_first: bool):
    """Notes §5: Σ 2^l (1 - (1 - 2^-l)^k), whatever the order; 13.4268 for 64 cells and 3 objects."""
    formula = sum(2**level * (1 - (1 - 2.0**-level) ** 3) for level in range(6))
    assert formula == pytest.approx(13.4268, abs=5e-5)
    needed = []
    for trial in range(60):
        truth = np.random.default_rng(trial).integers(64, size=3)
        session = Session(Prior.uniform(64, k=3), policy=SequentialBifurcation(largest_first=largest_first))
        while not session.done:
            session.tell(session.ask().count(truth))
        assert session.answer == tuple(sorted(truth))
        needed.append(session.questions)
    assert np.mean(needed) == pytest.approx(formula, abs=4 * np.std(needed) / np.sqrt(60))


def test_the_number_of_objects_is_asked_for_first():
    session = Session(Prior.uniform(16, k={1: 0.5, 2: 0.5}), policy=SequentialBifurcation())
    assert session.ask().ranges == ((0, 16),)
    session.tell(2)
    assert session.ask().ranges == ((8, 16),)


def test_uncertain_segments_are_refused():
    posterior = Posterior(Prior.uniform(16, k=2), NoisyAnswers({0: 0.9, 1: 0.1})).given(Region([(0, 8)]), 1)
    with pytest.raises(ValueError, match="needs the exact count of every segment"):
        SequentialBifurcation().questions(posterior, np.random.default_rng(0))
