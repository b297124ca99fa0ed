import numpy as np
import pytest

from tandem.queries import (
    Answers,
    ExactAnswers,
    MissedAnswers,
    NoisyAnswers,
    Particles,
    Prior,
    Region,
    Table,
)


@pytest.mark.parametrize(
    ("prior", "answers"),
    [
        (Prior.uniform(32, k=4), ExactAnswers()),
        (Prior.uniform(32, k=4, at_most_one=True), ExactAnswers()),
        (Prior.weights(np.arange(1.0, 33.0), k=3), NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1})),
        (Prior.uniform(16, k={1: 0.2, 2: 0.3, 4: 0.5}), MissedAnswers(0.8)),
    ],
    ids=["exact", "distinct", "noisy", "missed"],
)
def test_particles_approach_the_table(prior: Prior, answers: Answers):
    rng = np.random.default_rng(3)
    truth = rng.permutation(prior.cells)[: prior.k]
    table = Table.start(prior)
    particles = Particles.of(table, [], particles=2000)
    for _ in range(5):
        region = Region.of(rng.permutation(prior.cells)[: prior.cells // 2])
        x = region.count(truth)
        likelihood_X = answers.likelihood(x, prior.k)
        table, particles = table.given(region, likelihood_X), particles.given(region, likelihood_X)
    assert not particles.exact
    assert particles.surprise == pytest.approx(table.surprise, abs=0.3)
    for ordered in (True, False):
        assert particles.entropy(ordered) == pytest.approx(table.entropy(ordered), abs=0.3)
    asked = Region([(0, 7)])
    np.testing.assert_allclose(particles.count_distribution(asked), table.count_distribution(asked), atol=0.05)
    items = np.arange(0, prior.cells, 5)
    np.testing.assert_allclose(particles.expected_pairs(items), table.expected_pairs(items), atol=0.05)
    assert particles.atom_counts().sum(1) == pytest.approx(1.0)
    assert particles.sample(7, rng).shape == (7, prior.k)


def test_exact_answers_stay_true_in_every_particle():
    prior, truth = Prior.uniform(64, k=5), [3, 9, 30, 31, 60]
    particles, rng, regions = Particles.of(Table.start(prior), [], particles=300), np.random.default_rng(0), []
    for _ in range(6):
        regions.append(Region.of(rng.permutation(64)[:32]))
        particles = particles.given(regions[-1], np.eye(6)[regions[-1].count(truth)])
    for region in regions:
        assert set(region.contains(particles.cells_SK).sum(1)) == {region.count(truth)}


def test_moves_keep_a_prior_of_distinct_objects():
    """Without answers the moves must leave the prior as it is: with a full atom of weights, distinct cells always."""
    prior = Prior.weights([5, 1, 1, 1, 1, 1, 1, 1], k=4, at_most_one=True)
    particles = Particles.of(Table.start(prior), [], particles=4000)
    for region in (Region([(0, 2)]), Region([(1, 5)])):
        particles = particles.given(region, np.ones(5))
    assert all(len(set(row)) == 4 for row in particles.cells_SK)
    counts = np.bincount(particles.cells_SK.ravel(), minlength=8) / 4000
    expected = [Table.start(prior).count_distribution(Region([(cell, cell + 1)]))[1] for cell in range(8)]
    np.testing.assert_allclose(counts, expected, atol=0.03)


def test_an_answer_that_no_particle_meets_is_infinitely_surprising():
    particles = Particles.of(Table.start(Prior.uniform(8, k=2)), [], particles=50)
    particles = particles.given(Region([(0, 4)]), np.eye(3)[2])
    assert particles.given(Region([(4, 8)]), np.eye(3)[1]).surprise == np.inf
