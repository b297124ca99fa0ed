"""Σ P(y) H(p | y) + I = H(p), on every exact engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.queries import ExactAnswers, GeneratingFunction, NoisyAnswers, Posterior, Prior, Product, Region, Table
from tandem.queries.answers import Answers, information
from tandem.queries.enumeration import Optimum
from tandem.queries.posterior import Engine

ANSWERS = [ExactAnswers(), NoisyAnswers({0: 0.7, 1: 0.3})]


def check(engine: Engine, region: Region, answers: Answers, ordered: bool) -> None:
    f_XY = answers.matrix(engine.prior.k)
    count_X = engine.count_distribution(region)
    after = sum(
        probability * engine.given(region, f_XY[:, y]).entropy(ordered)
        for y, probability in enumerate(count_X @ f_XY)
        if probability > 1e-13
    )
    assert after + float(information(f_XY, count_X)) == pytest.approx(engine.entropy(ordered), abs=1e-9)


def told(engine: Engine, regions: list[Region], answers: Answers, rng: np.random.Generator) -> Engine:
    """The engine after likely answers."""
    for region in regions:
        f_XY = answers.matrix(engine.prior.k)
        answer_Y = engine.count_distribution(region) @ f_XY
        engine = engine.given(region, f_XY[:, int(rng.choice(len(answer_Y), p=answer_Y / answer_Y.sum()))])
    return engine


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([{1: 1.0}, {3: 1.0}, {7: 1.0}, {1: 0.3, 4: 0.7}]),
    st.integers(1, 12),
    st.integers(0, 3),
    st.sampled_from(ANSWERS),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_of_the_product(k: dict[int, float], digits: int, asked: int, answers: Answers, ordered: bool, seed: int):
    prior, rng = Prior.uniform(2**digits, k=k), np.random.default_rng(seed)
    order = rng.permutation(np.arange(1, digits + 1))
    history = [prior.dyadic(int(digit)) for digit in order[:asked]]
    check(told(Product(prior), history, answers, rng), prior.dyadic(int(order[-1])), answers, ordered)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Table.start, GeneratingFunction]),
    st.sampled_from([{1: 1.0}, {3: 1.0}, {1: 0.3, 4: 0.7}]),
    st.integers(2, 30),
    st.integers(0, 2),
    st.sampled_from(ANSWERS),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_of_the_table_and_the_generating_function(
    start: object, k: dict[int, float], cells: int, asked: int, answers: Answers, ordered: bool, seed: int
):
    rng = np.random.default_rng(seed)
    prior = Prior.weights(rng.random(cells) + 0.01, k=k)
    regions = [Region.of(rng.permutation(cells)[: rng.integers(1, cells + 1)]) for _ in range(asked + 1)]
    engine = Table.start(prior, tolerance=0.0) if start is Table.start else GeneratingFunction(prior)
    check(told(engine, regions[:-1], answers, rng), regions[-1], answers, ordered)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3))
def test_of_the_enumeration(cells: int, k: int):
    """What the best policy removes never falls with another question, and ends at the entropy of the prior."""
    prior = Prior.uniform(cells, k=k)
    bits = [Optimum(prior).reduction(questions) for questions in range(cells + 1)]
    assert np.all(np.diff(bits) >= -1e-9)
    assert bits[-1] == pytest.approx(Posterior(prior).entropy(), abs=1e-9)
