"""Faces on sheets of photographs, found by counting: the oracle is a trained detector that sees one picture and says how many.

scikit-image brings the photographs (25 × 25 pixels, 100 faces and 100 pieces of background out of Labeled Faces in the Wild)
and the detector, OpenCV's cascade of local binary patterns for frontal faces. A sheet is a square of photographs, k of them
faces. A question shows the detector the sheet with all other photographs gray. Start at `find_faces`.

Letters: S photographs a side of a sheet, W pixels a side of a photograph.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.queries import AdditivityError, NoisyAnswers, Prior, Region, Session, confirm, locate

SCALE, MARGIN, PIXELS, FACES = 2, 8, 25, 100
SCALED = PIXELS * SCALE + 2 * MARGIN
"""Pixels a side of a photograph on a sheet."""
GRAY = 128


class Detector:
    """Counts the faces of a picture.

    Raises:
        ImportError: scikit-image is missing.
    """

    def __init__(self):
        trained = _skimage("data").lbp_frontal_face_cascade_filename()
        self.cascade = _skimage("feature").Cascade(trained)

    def __call__(self, picture: NDArray[np.uint8]) -> int:
        """Detections whose window is about as large as a photograph, three overlapping ones at least."""
        found = self.cascade.detect_multi_scale(
            img=picture,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(20 * SCALE, 20 * SCALE),
            max_size=(32 * SCALE, 32 * SCALE),
            min_neighbor_number=3,
        )
        return len(found)


def _skimage(part: str) -> Any:
    if importlib.util.find_spec("skimage") is None:
        raise ImportError("subject faces needs scikit-image: pip install 'tandem-lm[images]'")
    return importlib.import_module(f"skimage.{part}")


def photographs() -> NDArray[np.uint8]:
    """The 100 faces and the 100 others, twice as large and with their edges repeated around, shape (200, W, W)."""
    small = _skimage("data").lfw_subset()
    large = _skimage("transform").resize(small, (len(small), PIXELS * SCALE, PIXELS * SCALE), order=1)
    margin = [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)]
    return np.pad((255 * large).astype(np.uint8), margin, mode="edge")


class Sheet:
    """A square of photographs; `chosen` says which, and faces are those below 100."""

    def __init__(
        self, photos: NDArray[np.uint8], chosen: NDArray[np.int64], detector: Callable[[NDArray[np.uint8]], int]
    ):
        self.side, self.width = int(len(chosen) ** 0.5), photos.shape[1]
        self.tiles, self.detector = photos[chosen], detector
        self.faces = np.flatnonzero(chosen < FACES).tolist()
        self.asked: list[Region] = []
        self.counts: list[int] = []

    def picture(self, region: Region) -> NDArray[np.uint8]:
        """The sheet with all photographs outside of the region gray."""
        shown = region.contains(np.arange(len(self.tiles)))
        tiles = np.where(shown[:, None, None], self.tiles, np.uint8(GRAY))
        grid = tiles.reshape(self.side, self.side, self.width, self.width).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(grid.reshape(self.side * self.width, self.side * self.width))

    def count(self, region: Region) -> int:
        """How many faces the detector sees in the region."""
        self.asked.append(region)
        self.counts.append(self.detector(self.picture(region)))
        return self.counts[-1]

    def one_by_one(self) -> list[int]:
        """Photographs in which the detector sees a face when it is shown each by itself."""
        return [tile for tile, photo in enumerate(self.tiles) if self.detector(photo)]


def make_sheet(k: int, side: int, sheet: int, seed: int, detector: Callable[[NDArray[np.uint8]], int]) -> Sheet:
    """A sheet of random photographs, k of them different faces."""
    rng = np.random.default_rng([seed, k, sheet])
    chosen = rng.integers(FACES, 2 * FACES, size=side * side)
    chosen[rng.choice(side * side, size=k, replace=False)] = rng.choice(FACES, size=k, replace=False)
    return Sheet(photographs(), chosen, detector)


def find_faces(k: int, side: int, sheet: int, seed: int = 0) -> dict[str, Any]:
    """Makes a sheet and looks for the faces that the detector counts on it.

    The first look is at the whole sheet and gives the number of objects; another at the found photographs alone confirms.
    Where counts do not add up, the search begins again with answers that may be off by one.

    Returns:
        `faces`, `found` and `one_by_one`: places on the sheet; `asked` and `counts` of each look of the search; `additive`:
        whether all counts added up; `seconds` of the search and of the looks one by one.
    """
    board = make_sheet(k, side, sheet, seed, Detector())
    start = time.perf_counter()
    prior = Prior.uniform(side * side, k=board.count(Region([(0, side * side)])), at_most_one=True)
    session = Session(prior, seed=sheet)
    try:
        found = locate(session, board.count)
        confirm(session, board.count)
        additive = True
    except AdditivityError:
        found, additive = locate_with_errors(prior, board, sheet), False
    middle = time.perf_counter()
    alone = board.one_by_one()
    return {
        "k": k,
        "side": side,
        "sheet": sheet,
        "seed": seed,
        "faces": board.faces,
        "found": [int(place) for place in found],
        "one_by_one": alone,
        "looks": len(board.asked),
        "asked": [region.ranges for region in board.asked],
        "counts": board.counts,
        "additive": additive,
        "seconds": [middle - start, time.perf_counter() - middle],
    }


def locate_with_errors(prior: Prior, board: Sheet, seed: int) -> tuple[float, ...]:
    """Searches until 99 % are sure when one count in ten is off by one; counts outside of 0 … k are taken for the nearest."""
    session = Session(prior, answers=NoisyAnswers({-1: 0.05, 0: 0.9, 1: 0.05}), seed=seed)
    return locate(session, lambda region: min(board.count(region), prior.k))
