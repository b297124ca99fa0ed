from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.queries import (
    AdditivityError,
    CountError,
    Found,
    NoisyAnswers,
    Prior,
    Region,
    Session,
    confirm,
    locate,
    locate_or_ddmin,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 499), min_size=0, max_size=4))
def test_what_is_hidden_is_found_and_confirmed(hidden: list[int]):
    session = Session(Prior.uniform(500, k=len(hidden)))
    assert locate(session, lambda region: region.count(hidden)) == tuple(sorted(hidden))
    # A region holds an item once; an oracle that counts its objects still counts all of them.
    confirm(session, lambda region: region.count(hidden))


def test_a_search_goes_on_where_the_oracle_failed(tmp_path: Path):
    hidden, asked = [3, 77, 400], []

    def breaks(region: Region) -> int:
        if len(asked) == 6:
            raise CountError("out of order")
        asked.append(region)
        return region.count(hidden)

    file = tmp_path / "session.json"
    session = Session(Prior.uniform(512, k=3), seed=4)
    with pytest.raises(CountError, match="out of order"):
        locate(session, breaks, lambda session: session.save(file))
    again = Session.load(file)
    assert again.questions == 6
    rest: list[Region] = []

    def counts(region: Region) -> int:
        rest.append(region)
        return region.count(hidden)

    assert locate(again, counts) == (3, 77, 400)
    whole = Session(Prior.uniform(512, k=3), seed=4)
    straight: list[Region] = []

    def keeps(region: Region) -> int:
        straight.append(region)
        return region.count(hidden)

    locate(whole, keeps)
    assert asked + rest == straight


def test_told_is_called_after_every_answer():
    seen: list[int] = []
    session = Session(Prior.uniform(64, k=1))
    locate(session, lambda region: region.count([9]), lambda session: seen.append(session.questions))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_impossible_answer_names_its_cause_and_leaves_the_session():
    session = Session(Prior.uniform(64, k=2), seed=0)
    with pytest.raises(AdditivityError, match="counts do not add up at question 1: answer=7"):
        locate(session, lambda _: 7)
    assert session.questions == 0


@pytest.mark.parametrize("seed", range(5))
def test_items_that_fail_only_together_are_found_by_ddmin(seed: int):
    def together(region: Region) -> int:
        return int(11 in region and 200 in region)

    session = Session(Prior.uniform(256, k=1), seed=seed)
    locate(session, together)
    with pytest.raises(AdditivityError):
        confirm(session, together)
    assert locate_or_ddmin(Session(Prior.uniform(256, k=1), seed=seed), together) == Found((11, 200), additive=False)


def test_items_that_add_up_are_found_without_ddmin():
    hidden = [5, 6, 90]
    found = locate_or_ddmin(Session(Prior.uniform(128, k=3)), lambda region: region.count(hidden))
    assert found == Found((5, 6, 90), additive=True)


def test_an_oracle_that_fails_is_no_violation():
    def fails(region: Region) -> int:
        raise CountError("out of order")

    with pytest.raises(CountError):
        locate_or_ddmin(Session(Prior.uniform(8, k=1)), fails)


def test_answers_with_errors_cannot_be_confirmed():
    session = Session(Prior.uniform(8, k=1), answers=NoisyAnswers({0: 0.9, 1: 0.1}))
    with pytest.raises(ValueError, match="answers have errors"):
        confirm(session, lambda region: 1)
