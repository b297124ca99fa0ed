import numpy as np
import pytest
from brute_force import PRIORS, BruteForce

import tandem.queries.posterior as posterior_module
from tandem.queries import (
    ContradictionError,
    ExactAnswers,
    GeneratingFunction,
    LostObjectsError,
    Particles,
    Posterior,
    Prior,
    Product,
    Region,
    Table,
)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_maps_are_those_of_the_enumeration(prior: Prior):
    history = [(Region.of([0, 1, 2]), 1), (Region.of([1, 4]), 1)]
    posterior = Posterior(prior)
    for region, answer in history:
        posterior = posterior.given(region, answer)
    exact = BruteForce(prior, ExactAnswers(), history)
    np.testing.assert_allclose(posterior.expected_counts(), exact.expected_counts(), atol=1e-12)
    np.testing.assert_allclose(posterior.occupied(), exact.occupied(), atol=1e-12)
    np.testing.assert_allclose(posterior.expected_pairs([0, 4]), exact.expected_pairs([0, 4]), atol=1e-12)
    assert posterior.expected_count(Region([(2, 5)])) == pytest.approx(exact.expected_counts()[2:5].sum())
    assert posterior.exact
    assert posterior.dropped == 0.0
    region = posterior.credible_region(0.9)
    assert sum(value for places, value in exact.weight.items() if set(places) <= set(region)) >= 0.9


@pytest.mark.parametrize("start", [Table.start, Product, GeneratingFunction])
def test_engines_agree_on_dyadic_histories(start: object):
    prior = Prior.uniform(16, k=3)
    reference, other = Posterior(prior), Posterior(prior, engine=start(prior))  # type: ignore[operator]
    for digit, answer in enumerate((1, 2, 3), start=1):
        reference, other = (which.given(prior.dyadic(digit), answer) for which in (reference, other))
    np.testing.assert_allclose(other.expected_counts(), reference.expected_counts(), atol=1e-12)
    np.testing.assert_allclose(other.occupied(), reference.occupied(), atol=1e-12)
    assert other.entropy() == pytest.approx(reference.entropy(), abs=1e-10)
    asked = Region([(3, 9)])  # no dyadic set: the product posterior has to ask another engine
    np.testing.assert_allclose(other.count_distribution(asked), reference.count_distribution(asked), atol=1e-12)
    np.testing.assert_allclose(
        np.bincount(other.sample(3000).ravel(), minlength=16) / 3000, reference.expected_counts(), atol=0.06
    )


def test_differential_entropies_of_the_notes():
    """Notes 7.1: k labeled objects with density 2u on (0, 1), in quantile cells; the mean over answers is H0 - N D_k."""
    for k, cells, questions, bits in ((2, 8, 1, -1.9844753040), (2, 8, 3, -4.9844753040), (4, 8, 3, -7.0608677947)):
        prior = Prior.line(lambda u: u**0.5, k=k, cells=cells)
        width = np.diff(np.sqrt(np.arange(cells + 1) / cells))
        total = 0.0
        for replies in np.ndindex(*(k + 1,) * questions):
            posterior, probability = Posterior(prior), 1.0
            for digit, reply in enumerate(replies, start=1):
                probability *= posterior.count_distribution(prior.dyadic(digit))[reply]
                posterior = posterior.given(prior.dyadic(digit), reply)
            differential = posterior.entropy(ordered=True) + posterior.expected_counts() @ np.log2(width)
            total += probability * float(differential)
        # Entropy of a sum of cells and of the density differ by what is lost within cells, nothing here.
        assert total == pytest.approx(bits, abs=1e-8)


def test_contradictions_name_a_smallest_set_of_answers():
    posterior = Posterior(Prior.uniform(8, k=2))
    for ranges, answer in (((0, 4), 2), ((0, 6), 2), ((0, 2), 1)):
        posterior = posterior.given(Region([ranges]), answer)
    with pytest.raises(ContradictionError, match="questions 1, 4 cannot all be true") as caught:
        posterior.given(Region([(4, 8)]), 1)
    assert caught.value.questions == (1, 4)
    with pytest.raises(ValueError, match="answer=3 about 2 objects"):
        posterior.given(Region([(4, 8)]), 3)


def test_larger_posteriors_change_engines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Table, "given", _full_table)
    prior = Prior.uniform(2**10, k=12)
    posterior = Posterior(prior).given(prior.dyadic(1), 6).given(prior.dyadic(2), 5)
    assert isinstance(posterior.engine, Product)
    assert posterior.exact
    posterior = posterior.given(Region([(100, 600)]), 7)
    assert isinstance(posterior.engine, GeneratingFunction)
    assert posterior.exact
    distinct = Posterior(Prior.uniform(2**10, k=12, at_most_one=True)).given(prior.dyadic(1), 6)
    assert isinstance(distinct.engine, Particles)
    assert not distinct.exact
    assert distinct.expected_count(prior.dyadic(1)) == pytest.approx(6)


def _full_table(self: Table, region: Region, likelihood_X: np.ndarray) -> Table:
    raise posterior_module.TooManyRowsError


def test_a_chosen_engine_is_not_exchanged():
    prior = Prior.uniform(8, k=2)
    with pytest.raises(ValueError, match="not a dyadic set"):
        Posterior(prior, engine=Product(prior)).given(Region([(0, 3)]), 1)
    with pytest.raises(ValueError, match="too large"):
        Posterior(prior, engine=Table.start(prior, limit=1)).given(Region([(0, 4)]), 1).given(Region([(2, 6)]), 1)


def test_particles_do_not_prove_a_contradiction():
    prior = Prior.uniform(8, k=2)
    posterior = Posterior(prior, engine=Particles.of(Table.start(prior), [], particles=50)).given(Region([(0, 4)]), 2)
    with pytest.raises(LostObjectsError, match="may be wrong"):
        posterior.given(Region([(4, 8)]), 1)


def test_rows_are_the_table_or_draws_from_it():
    prior = Prior.uniform(64, k=4)
    posterior = Posterior(prior)
    for digit, answer in ((1, 2), (2, 2), (3, 2)):
        posterior = posterior.given(prior.dyadic(digit), answer)
    whole, drawn = posterior.rows(), posterior.rows(most=7)
    assert len(whole.weight_R) > 7
    assert drawn.ids_RK.shape == (7, 4)
    assert drawn.weight_R.sum() == pytest.approx(1.0)
    assert np.all(np.diff(drawn.ids_RK, axis=1) >= 0)


def test_best_is_certain_once_every_cell_is_known():
    posterior = Posterior(Prior.uniform(4, k=2))
    assert posterior.best() == ((), 0.0)
    posterior = posterior.given(Region([(0, 1)]), 1).given(Region([(1, 2)]), 1)
    assert posterior.best() == ((0, 1), 1.0)
    full = Posterior(Prior.uniform(4, k=2, at_most_one=True)).given(Region([(0, 2)]), 2)
    assert full.best() == ((0, 1), 1.0)
    assert Posterior(Prior.uniform(4, k=0)).best() == ((), 1.0)


def test_maps_of_too_many_cells_are_refused():
    with pytest.raises(ValueError, match="too many for a map"):
        Posterior(Prior.uniform(2**40, k=2)).expected_counts()
    with pytest.raises(ValueError, match="level=0"):
        Posterior(Prior.uniform(8, k=2)).credible_region(0.0)
