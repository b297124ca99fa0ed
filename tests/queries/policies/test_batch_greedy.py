import numpy as np
import pytest

from tandem.queries import BatchGreedyPolicy, Posterior, Prior, Product, Region, Session, expected_reduction
from tandem.queries.measures import entropy_bits
from tandem.queries.policies.refine import groups_by_count, refined


@pytest.mark.parametrize(("k", "size"), [(2, 2), (2, 3), (3, 3), (4, 2)])
def test_a_first_batch_reveals_what_dyadic_questions_do(k: int, size: int):
    """No batch about independent, alike objects reveals more than size * D_k, and dyadic ones do."""
    prior = Prior.uniform(2**12, k=k)
    bits = expected_reduction(BatchGreedyPolicy(size=size), prior, size)
    dyadic = expected_reduction(BatchGreedyPolicy(size=1), prior, 1)[0]
    np.testing.assert_allclose(bits[-1], size * dyadic, atol=1e-6)


def test_groups_are_the_answers_still_open():
    posterior = Posterior(Prior.uniform(32, k=3)).given(Region([(0, 16)]), 1)
    asked = [Region([(8, 24)]), Region([(4, 12), (20, 28)])]
    rows = refined(posterior, asked)
    group_R = groups_by_count(rows, asked)
    joint = np.bincount(group_R, weights=rows.weight_R)
    expected = 0.0
    first = posterior.count_distribution(asked[0])
    expected += float(entropy_bits(first))
    for x, probability in enumerate(first):
        if probability > 0:
            expected += probability * float(entropy_bits(posterior.given(asked[0], x).count_distribution(asked[1])))
    assert float(entropy_bits(joint)) == pytest.approx(expected)
    assert set(groups_by_count(rows, [])) == {0}


def test_batches_find_the_truth_in_few_rounds():
    session, truth, rounds = Session(Prior.uniform(2**12, k=3), policy=BatchGreedyPolicy(size=3)), [5, 800, 4000], 0
    while not session.done:
        rounds += 1
        for region in session.ask_all():
            session.tell(region.count(truth))
            if session.done:
                break
    assert session.answer == tuple(truth)
    assert rounds <= 9


def test_draws_stand_for_a_posterior_that_is_no_table():
    prior = Prior.uniform(64, k=3)
    posterior = Posterior(prior, engine=Product(prior)).given(prior.dyadic(1), 2)
    rows = refined(posterior, [prior.dyadic(2)])
    assert rows.partition.atoms == 4
    assert BatchGreedyPolicy(size=2).questions(posterior, np.random.default_rng(0))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="size=9"):
        BatchGreedyPolicy(size=9)
