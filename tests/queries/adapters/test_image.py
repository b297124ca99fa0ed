import numpy as np
import pytest
from scipy import ndimage

from tandem.queries import (
    AdditivityError,
    BestBox,
    CountError,
    DyadicPolicy,
    HalfGreedyPolicy,
    ImageCount,
    Prior,
    Region,
    Session,
    confirm,
    locate,
)


def spots(crop: np.ndarray) -> int:
    """How many bright spots there are: connected parts, found as an image analysis would."""
    return int(ndimage.label(crop > 0.5)[1])


def picture(cells: list[tuple[int, int]]) -> np.ndarray:
    """A noisy image of 96 × 128 pixels with a disk in the middle of some of its 12 × 16 cells of 8 × 8."""
    rows, columns = np.mgrid[:96, :128]
    image = np.random.default_rng(0).random((96, 128)) * 0.3
    for row, column in cells:
        image += np.hypot(rows - 8 * row - 3.5, columns - 8 * column - 3.5) < 2.5
    return image


@pytest.mark.parametrize("policy", [BestBox(), HalfGreedyPolicy()], ids=["box", "mask"])
def test_spots_are_found_and_confirmed(policy: object):
    cells = [(1, 2), (1, 12), (11, 15)]
    count = ImageCount(picture(cells), spots)
    assert spots(count.image) == 3
    session = Session(count.grid(8, k=3), policy=policy)  # type: ignore[arg-type]
    crops: list[int] = []

    def watched(region: Region) -> float:
        crops.append(len(region.boxes))  # type: ignore[attr-defined]
        return count(region)

    assert locate(session, watched) == tuple(cells)
    confirm(session, count)
    assert not isinstance(policy, BestBox) or set(crops) == {1}
    assert session.questions < 25


def test_objects_that_borders_cut_do_not_add_up():
    """A block over 3 × 3 cells is two spots where every other row of cells is masked."""
    image = np.zeros((64, 64))
    image[26:46, 26:46] = 1.0
    count = ImageCount(image, spots)
    with pytest.raises(AdditivityError, match="answer=2 about 1 objects is impossible"):
        locate(Session(count.grid(8, k=1), policy=DyadicPolicy()), count)


def test_several_boxes_are_masked_and_colors_come_last():
    image = np.ones((4, 6, 3))
    count = ImageCount(image, lambda crop: float(crop[..., 0].sum()), outside=0.0)
    grid = Prior.grid((2, 3), k=1)
    assert count(grid.show(Region([(0, 1), (5, 6)]))) == 8
    assert count(grid.show(Region([(0, 1)]))) == 4
    assert count(grid.show(Region())) == 0


def test_what_is_no_count_or_no_grid_is_named():
    count = ImageCount(np.zeros((4, 4)), lambda crop: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(CountError, match="count gave None"):
        count(Prior.grid((2, 2), k=1).show(Region([(0, 1)])))
    with pytest.raises(ValueError, match="does not fit an image"):
        count(Prior.grid((8, 8), k=1).show(Region([(0, 1)])))
    with pytest.raises(ValueError, match="no region of a grid"):
        count(Region([(0, 1)]))
    with pytest.raises(ValueError, match="cell=0"):
        count.grid(0, k=1)
