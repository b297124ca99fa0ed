from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tandem.queries import Boxes, Posterior, Prior, Session
from tandem.queries.boxes import box


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**31))
def test_boxes_are_the_cells_and_do_not_overlap(shape: list[int], seed: int):
    inside = np.random.default_rng(seed).random(shape) < 0.6
    cells = np.flatnonzero(inside)
    region = Boxes(np.stack([cells, cells + 1], axis=1), tuple(shape))
    np.testing.assert_array_equal(region.mask(), inside)
    assert (
        sum(np.prod([stop - start for start, stop in bounds]) for bounds in region.boxes) == len(region) == len(cells)
    )
    points = np.argwhere(np.ones(shape, dtype=bool))
    np.testing.assert_array_equal(region.contains(points), inside.ravel())
    assert list(region) == list(map(tuple, np.argwhere(inside)))
    assert region.count(points) == len(cells)


def test_a_box_of_cells_is_one_box():
    shape = (4, 5, 6)
    region = box([(1, 3), (0, 5), (2, 4)], shape)
    assert Boxes(region.ranges, shape).boxes == (((1, 3), (0, 5), (2, 4)),)


@pytest.mark.parametrize(
    "prior",
    [Prior.grid((8, 8), k=3), Prior.grid((3, 4, 5), k=2), Prior.image(np.arange(30.0).reshape(5, 6), k=2)],
    ids=repr,
)
def test_objects_of_a_grid_are_found(prior: Prior, tmp_path: Path):
    truth = prior.place(Posterior(prior).sample(1, seed=4)[0])
    session = Session(prior)
    while not session.done:
        session.tell(session.ask().count(truth))
        session.save(tmp_path / "s.json")
        session = Session.load(tmp_path / "s.json")
    assert session.answer == tuple(truth)
    assert session.expected_counts().shape == prior.shape


def test_space_is_searched_down_to_its_cells():
    prior = Prior.space([norm.ppf, lambda u: 10 * u], k=2, cells=(2**8, 2**8))
    session, hidden = Session(prior), [(-0.5, 3.3), (1.25, 9.9)]
    assert session.ask().boxes == (((0.0, np.inf), (0.0, 10.0)),)
    while not session.done:
        session.tell(session.ask().count(hidden))
    np.testing.assert_allclose(session.answer, hidden, atol=0.03)
    with pytest.raises(TypeError, match="use its boxes"):
        len(prior.show(prior.dyadic(1)))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="shape="):
        Prior.grid((0, 4), k=1)
    with pytest.raises(ValueError, match="2 axes for 1 quantiles"):
        Prior.space([norm.ppf], k=1, cells=(4, 4))
    with pytest.raises(ValueError, match="give 2 coordinates a point"):
        Prior.grid((4, 4), k=1).show(Prior.grid((4, 4), k=1).dyadic(1)).count([(1, 2, 3)])
