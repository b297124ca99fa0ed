import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.queries import Region

PAIRS = st.lists(st.tuples(st.integers(-20, 40), st.integers(0, 12)), max_size=8)


@given(PAIRS)
def test_a_region_of_items_is_the_set_of_its_items(pairs: list[tuple[int, int]]):
    region = Region([(start, start + length) for start, length in pairs])
    items = {item for start, length in pairs for item in range(start, start + length)}
    assert list(region) == sorted(items)
    assert len(region) == len(items)
    assert bool(region) == bool(items)
    assert all((item in region) == (item in items) for item in range(-25, 60))
    assert region == Region.of(sorted(items))
    assert hash(region) == hash(Region(region.ranges))
    gaps = np.diff(np.array(region.ranges).ravel()) if items else np.ones(1)
    assert np.all(gaps > 0)


def test_ranges_are_half_open_pairs_of_python_numbers():
    assert Region([(3, 5), (0, 2)]).ranges == ((0, 2), (3, 5))
    assert all(type(bound) is int for pair in Region([(3, 5)]).ranges for bound in pair)
    line = Region([(0.5, 1.0)])
    assert line.ranges == ((0.5, 1.0),)
    assert [place in line for place in (0.4, 0.5, 0.75, 1.0)] == [False, True, True, False]


def test_counting_counts_repeats():
    assert Region([(2, 4)]).count([1, 2, 2, 3, 4]) == 3
    assert Region().count([1, 2]) == 0
    assert Region([(0.0, 0.5)]).count([0.1, 0.5]) == 1


def test_the_line_has_no_items():
    with pytest.raises(TypeError, match="use its ranges"):
        len(Region([(0.0, 1.0)]))
    with pytest.raises(TypeError, match="use its ranges"):
        iter(Region([(0.0, 1.0)]))


def test_bad_ranges_are_named():
    with pytest.raises(ValueError, match=r"\(5, 3\); swap"):
        Region([(5, 3)])
    with pytest.raises(ValueError, match="pairs of numbers"):
        Region(np.arange(3))


def test_regions_of_items_and_lengths_differ():
    assert Region([(0, 1)]) != Region([(0.0, 1.0)])
    assert Region([(0, 1)]) != ((0, 1),)
    assert "ranges" in repr(Region([(i, i + 1) for i in range(0, 40, 2)]))
