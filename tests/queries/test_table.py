import numpy as np
import pytest
from brute_force import PRIORS, BruteForce
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.queries import (
    Answers,
    ExactAnswers,
    GaussianAnswers,
    MissedAnswers,
    NoisyAnswers,
    PoissonAnswers,
    Prior,
    Region,
    SaturatedAnswers,
    Table,
)
from tandem.queries.answers import information
from tandem.queries.table import TooManyRowsError

CHANNELS = [
    ExactAnswers(),
    SaturatedAnswers(1),
    NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1}),
    MissedAnswers(0.6),
    PoissonAnswers(1.5, 0.1),
    GaussianAnswers(0.7),
]


def possible_answer(answers: Answers, table: Table, region: Region, rng: np.random.Generator) -> float:
    """An answer drawn from its distribution given what the table knows."""
    pmf = table.count_distribution(region)
    x = int(rng.choice(len(pmf), p=pmf / pmf.sum()))
    if isinstance(answers, GaussianAnswers):
        return float(x + answers.sigma * rng.standard_normal())
    f_XY = answers.matrix(table.prior.k)
    shift = min(answers.errors) if isinstance(answers, NoisyAnswers) else 0
    return float(rng.choice(f_XY.shape[1], p=f_XY[x]) + shift)


@pytest.mark.parametrize("answers", CHANNELS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_the_table_is_the_enumeration(prior: Prior, answers: Answers):
    rng = np.random.default_rng(prior.k)
    for _ in range(3):
        table, history = Table.start(prior, tolerance=0.0), []
        for _ in range(3):
            region = Region.of(rng.permutation(6)[: rng.integers(1, 6)])
            answer = possible_answer(answers, table, region, rng)
            table = table.given(region, answers.likelihood(answer, prior.k))
            history.append((region, answer))
        exact = BruteForce(prior, answers, history)
        assert 2.0**-table.surprise == pytest.approx(exact.evidence)
        assert table.entropy(True) == pytest.approx(exact.entropy(True), abs=1e-9)
        assert table.entropy(False) == pytest.approx(exact.entropy(False), abs=1e-9)
        asked = Region([(1, 4)])
        np.testing.assert_allclose(table.count_distribution(asked), exact.count_distribution(asked), atol=1e-9)
        items = np.array([0, 2, 4])
        np.testing.assert_allclose(table.expected_pairs(items), exact.expected_pairs(items), atol=1e-9)
        counts = table.atom_counts()
        np.testing.assert_allclose(counts.sum(1), 1.0)


@settings(max_examples=40)
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from(["exact", "noisy", "missed"]),
)
def test_the_chain_rule_holds(k: int, cells: int, distinct: bool, seed: int, kind: str):
    """Σ P(y) H(p | y) + I = H(p), to 1e-9."""
    answers = {
        "exact": ExactAnswers(),
        "noisy": NoisyAnswers({0: 0.7, 1: 0.3}),
        "missed": MissedAnswers(0.5),
    }[kind]
    rng = np.random.default_rng(seed)
    prior = Prior.weights(rng.random(cells) + 0.01, k=k, at_most_one=distinct and k <= cells)
    table = Table.start(prior, tolerance=0.0)
    for _ in range(2):
        region = Region.of(rng.permutation(cells)[: rng.integers(0, cells + 1)])
        answer = possible_answer(answers, table, region, rng)
        table = table.given(region, answers.likelihood(answer, k))
    region = Region.of(rng.permutation(cells)[: cells // 2])
    f_XY = answers.matrix(k)
    count_X = table.count_distribution(region)
    after = 0.0
    for y, probability in enumerate(count_X @ f_XY):
        if probability > 1e-14:
            after += probability * table.given(region, f_XY[:, y]).entropy(False)
    assert after + float(information(f_XY, count_X)) == pytest.approx(table.entropy(False), abs=1e-9)


def test_impossible_answers_leave_no_rows():
    table = Table.start(Prior.uniform(8, k=2)).given(Region([(0, 4)]), np.eye(3)[2])
    impossible = table.given(Region([(4, 8)]), np.eye(3)[1])
    assert impossible.surprise == np.inf
    assert len(impossible.weight_R) == 0


def test_dropped_mass_bounds_what_is_missing():
    prior, answers = Prior.uniform(32, k=3), NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1})
    rough, full = Table.start(prior, tolerance=0.02), Table.start(prior, tolerance=0.0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        region = Region.of(rng.permutation(32)[:16])
        likelihood_X = answers.likelihood(possible_answer(answers, full, region, rng), 3)
        rough, full = rough.given(region, likelihood_X), full.given(region, likelihood_X)
    asked = Region([(0, 10)])
    missing = np.abs(rough.count_distribution(asked) - full.count_distribution(asked)).sum() / 2
    assert full.exact
    assert not rough.exact
    assert len(rough.weight_R) < len(full.weight_R)
    assert 0 < missing <= rough.dropped < 1


def test_a_table_stops_at_its_limit():
    table = Table.start(Prior.uniform(2**20, k=8), limit=20)
    table = table.given(table.prior.dyadic(1), np.eye(9)[4])
    with pytest.raises(TooManyRowsError):
        table.given(Region([(2**18, 3 * 2**18 + 1)]), np.ones(9))


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_samples_follow_the_posterior(prior: Prior):
    table = Table.start(prior).given(Region.of([0, 2, 4]), np.array([0.5, 1.0, 0.5, 0.2])[: prior.k + 1])
    cells = table.sample(4000, np.random.default_rng(1))
    exact = BruteForce(prior, ExactAnswers())
    likelihood = np.array([0.5, 1.0, 0.5, 0.2])
    counts, total = np.zeros(6), 0.0
    for places, value in exact.weight.items():
        weight = value * likelihood[sum(place in (0, 2, 4) for place in places)]
        total += weight
        for place in places:
            counts[place] += weight
    np.testing.assert_allclose(np.bincount(cells[cells >= 0], minlength=6) / 4000, counts / total, atol=0.05)
    if prior.at_most_one:
        assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in cells)


def test_full_atoms_of_distinct_objects_can_be_drawn():
    cells = Table.start(Prior.uniform(9, k=9, at_most_one=True)).sample(5, np.random.default_rng(0))
    np.testing.assert_array_equal(cells, np.tile(np.arange(9), (5, 1)))
