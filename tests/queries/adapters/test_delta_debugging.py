import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.queries import Region, ddmin


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 63), min_size=1, max_size=6))
def test_the_one_minimal_set_of_a_monotone_failure_is_found(needed: set[int]):
    found = ddmin(lambda region: all(item in region for item in needed), Region([(0, 64)]))
    assert set(found) == needed


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 31), min_size=1, max_size=4), min_size=1, max_size=4))
def test_with_several_causes_one_minimal_set_is_left(causes: list[set[int]]):
    def fails(region: Region) -> bool:
        return any(cause <= set(region) for cause in causes)

    found = list(ddmin(fails, Region([(0, 32)])))
    assert fails(Region.of(found))
    assert not any(fails(Region.of([other for other in found if other != item])) for item in found)


def test_one_cause_takes_the_runs_of_the_paper():
    """One failing item: at most 2 log2(items) runs, and the first of all items (section 3.3 of the paper)."""
    for place in (0, 100, 1023):
        runs: list[int] = []

        def fails(region: Region, place: int = place, runs: list[int] = runs) -> bool:
            runs.append(len(region))
            return place in region

        assert list(ddmin(fails, Region([(0, 1024)]))) == [place]
        assert len(runs) <= 1 + 2 * 10


def test_a_whole_that_does_not_fail_is_refused():
    with pytest.raises(ValueError, match="does not fail as a whole"):
        ddmin(lambda _: False, Region([(0, 4)]))
