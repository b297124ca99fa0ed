import numpy as np
import pytest
from scipy.stats import binom, norm, poisson

from tandem.queries import (
    Answers,
    ConfusedAnswers,
    ExactAnswers,
    GaussianAnswers,
    MissedAnswers,
    NoisyAnswers,
    PoissonAnswers,
    SaturatedAnswers,
)
from tandem.queries.answers import information

FINITE = [
    (ExactAnswers(), 0),
    (SaturatedAnswers(2), 0),
    (NoisyAnswers({-1: 0.1, 0: 0.8, 2: 0.1}), -1),
    (ConfusedAnswers([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.0, 0.3, 0.7], [0.1, 0.1, 0.8]]), 0),
    (MissedAnswers(0.7), 0),
    (PoissonAnswers(1.5, background=0.2), 0),
]


@pytest.mark.parametrize(("answers", "lowest"), FINITE, ids=lambda value: type(value).__name__)
def test_columns_of_the_matrix_are_likelihoods(answers: Answers, lowest: int):
    f_XY = answers.matrix(3)
    np.testing.assert_allclose(f_XY.sum(1), 1.0)
    likelihoods = [answers.likelihood(y + lowest, 3) for y in range(f_XY.shape[1])]
    np.testing.assert_allclose(np.stack(likelihoods, axis=1), f_XY, atol=1e-14)


def test_likelihoods_match_scipy():
    x = np.arange(5)
    np.testing.assert_allclose(MissedAnswers(0.7).likelihood(2, 4), binom.pmf(2, x, 0.7), atol=1e-15)
    np.testing.assert_allclose(PoissonAnswers(2.0, 0.5).likelihood(3, 4), poisson.pmf(3, 0.5 + 2 * x))
    np.testing.assert_allclose(PoissonAnswers(2.0).likelihood(0, 4), poisson.pmf(0, 2 * x))
    np.testing.assert_allclose(GaussianAnswers(0.5).likelihood(1.3, 4), norm.pdf(1.3, x, 0.5))


@pytest.mark.parametrize("answer", [-1, 4, 1.5])
def test_impossible_answers_are_refused(answer: float):
    for answers in (ExactAnswers(), MissedAnswers(0.5)):
        with pytest.raises(ValueError, match=f"answer={answer} about 3 objects is impossible"):
            answers.likelihood(answer, 3)


def test_a_saturated_answer_stops_at_its_limit():
    with pytest.raises(ValueError, match="from 0 to 1"):
        SaturatedAnswers(1).likelihood(2, 3)
    with pytest.raises(ValueError, match="finite"):
        GaussianAnswers(1.0).likelihood(float("nan"), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisyAnswers({0: 0.8, 1: 0.1}), "add up to 1"),
        (lambda: ConfusedAnswers([[0.5, 0.4]]), "distributions"),
        (lambda: MissedAnswers(0.0), "seen=0.0"),
        (lambda: PoissonAnswers(0.0), "rate=0.0"),
        (lambda: GaussianAnswers(-1.0), "sigma=-1.0"),
        (lambda: SaturatedAnswers(0), "limit=0"),
    ],
)
def test_bad_channels_are_named(make: object, message: str):
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_confusion_needs_a_row_for_every_count():
    with pytest.raises(ValueError, match="give 3"):
        ConfusedAnswers([[1.0, 0.0], [0.0, 1.0]]).matrix(2)


def test_information_of_an_exact_answer_is_its_entropy():
    pmf = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(information(np.eye(3), pmf), [1.5, 0.0])
    useless = np.full((3, 2), 0.5)
    np.testing.assert_allclose(information(useless, pmf), 0.0, atol=1e-15)
