from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.queries import (
    BatchGreedyPolicy,
    BestBox,
    BestRange,
    Constraints,
    DyadicPolicy,
    EntropyPursuit,
    GreedyPolicy,
    HalfGreedyPolicy,
    NothingToAskError,
    Posterior,
    Prior,
    RandomHalves,
    Region,
    SequentialBifurcation,
    Session,
    locate,
)

SETS = [HalfGreedyPolicy(), GreedyPolicy(restarts=1), BatchGreedyPolicy(), RandomHalves(), BestRange(), BestBox()]
LIMITS = [
    Constraints(largest=9),
    Constraints(smallest=3, largest=12),
    Constraints(forbidden=Region([(7, 8), (40, 41)])),
    Constraints(smallest=2, largest=20, forbidden=Region([(0, 1)])),
]


@pytest.mark.parametrize("constraints", LIMITS, ids=repr)
@pytest.mark.parametrize("policy", SETS, ids=lambda policy: type(policy).__name__)
def test_every_question_keeps_them_and_the_truth_is_found(policy: Any, constraints: Constraints):
    prior = Prior.grid((8, 8), k=2)
    session = Session(prior, policy=policy, constraints=constraints)
    truth = prior.place(Posterior(prior).sample(1, seed=1)[0])
    while not session.done:
        try:
            region = session.ask()
        except NothingToAskError:  # sets of few shapes can leave two cells that always come together
            assert isinstance(policy, BestRange | BestBox)
            assert constraints.smallest > 1
            return
        assert constraints.smallest <= len(region) <= (constraints.largest or 64)
        assert not set(constraints.forbidden) & {int(np.ravel_multi_index(place, (8, 8))) for place in region}
        assert not isinstance(policy, BestBox) or len(region.boxes) == 1
        assert not isinstance(policy, BestRange) or len(region.ranges) == 1
        session.tell(region.count(truth))
        assert session.questions < 300
    assert session.answer == tuple(truth)


@pytest.mark.parametrize(
    ("policy", "constraints", "unmet"),
    [
        (DyadicPolicy(), Constraints(largest=4), "largest"),
        (SequentialBifurcation(), Constraints(forbidden=Region([(0, 1)])), "forbidden"),
        (HalfGreedyPolicy(), Constraints(form="range"), "range"),
        (BestRange(), Constraints(form="box"), "box"),
        (EntropyPursuit(), Constraints(smallest=2), "smallest"),
    ],
)
def test_policies_refuse_what_they_cannot_keep(policy: Any, constraints: Constraints, unmet: str):
    with pytest.raises(ValueError, match=f"policy={type(policy).__name__} cannot keep {unmet}"):
        Session(Prior.grid((4, 4), k=1), policy=policy, constraints=constraints)


def test_constraints_that_cannot_be_are_named():
    for make, said in (
        (lambda: Constraints(smallest=5, largest=4), "smallest=5 and largest=4"),
        (lambda: Session(Prior.uniform(4, k=1), constraints=Constraints(smallest=5)), "smallest=5 is more than the 4"),
        (lambda: Session(Prior.uniform(4, k=1), constraints=Constraints(forbidden=Region([(3, 9)]))), "reaches beyond"),
        (
            lambda: Session(Prior.uniform(4, k=1), BestBox(constraints=Constraints(form="box"))),
            "needs a prior with axes",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_limited_questions_reveal_as_much_as_the_best_of_their_size():
    """One object among 2**10 items, sets of at most 64: H(1/16) bits is the most."""
    prior = Prior.uniform(2**10, k=1)
    best = -(np.log2(1 / 16) / 16 + 15 / 16 * np.log2(15 / 16))
    for policy in (HalfGreedyPolicy(), GreedyPolicy()):
        session = Session(prior, policy=policy, constraints=Constraints(largest=64))
        region = session.ask()
        p = session.posterior.count_distribution(region)
        assert -(p * np.log2(p)).sum() == pytest.approx(best, abs=1e-6)


def test_forbidden_cells_that_no_question_tells_apart_end_with_a_reason(tmp_path: Path):
    session = Session(Prior.uniform(8, k=1), constraints=Constraints(forbidden=Region([(2, 4)])))
    session.save(tmp_path / "s.json")
    assert Session.load(tmp_path / "s.json").constraints == session.constraints
    with pytest.raises(NothingToAskError, match="others in 2 places, 1 bits left"):
        locate(session, lambda region: region.count([3]))
