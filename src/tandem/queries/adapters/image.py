"""An oracle that counts objects in part of an image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.queries.adapters.count import CountError
from tandem.queries.boxes import Boxes
from tandem.queries.prior import Prior
from tandem.queries.region import Region


@dataclass(frozen=True, eq=False)
class ImageCount:
    """Counts the objects in a region of an image (or a volume): one box is cut out, several are left visible in a mask.

    Cells of the prior may be larger than pixels: a grid of 8 × 8 over 480 × 640 pixels has cells of 60 × 80. Counts add up when each
    object lies within one cell or is counted where its center is; one that a border cuts and that counts on both sides shows
    as counts that do not add up, in the search or in `confirm`.

    >>> image = np.zeros((8, 8))
    >>> image[1, 2] = image[6, 3] = 1.0
    >>> count = ImageCount(image, lambda crop: int(crop.sum()))
    >>> count(Prior.grid((2, 2), k=2).show(Region([(0, 1)])))
    1

    Attributes:
        image: pixels; the axes of the grid are the first ones, so that colors may come last.
        count: says how many objects an array like the image holds.
        outside: value of pixels that are not in the region, where it is several boxes.
    """

    image: NDArray[Any]
    count: Callable[[NDArray[Any]], float]
    outside: float = 0.0

    def grid(self, cell: int, *, k: int, at_most_one: bool = False) -> Prior:
        """A uniform prior over cells of at most so many pixels a side, along the first two axes.

        >>> ImageCount(np.zeros((480, 640, 3)), lambda crop: 0).grid(80, k=2).shape
        (6, 8)
        """
        if cell < 1:
            raise ValueError(f"cell={cell} is no side of a cell; use 1 pixel or more")
        return Prior.grid([-(-size // cell) for size in self.image.shape[:2]], k=k, at_most_one=at_most_one)

    def __call__(self, region: Region) -> float:
        """The count in a region of a grid.

        Raises:
            CountError: `count` gives no finite number.
            ValueError: the region is none of a grid that fits the image.
        """
        if not isinstance(region, Boxes):
            raise ValueError(f"{region} is no region of a grid; use Prior.grid or Prior.image")
        if not region:
            return 0
        pixels = [self._pixels(box, region.shape) for box in region.slices]
        if len(pixels) == 1:
            return self._number(self.count(self.image[pixels[0]]))
        visible = np.full_like(self.image, self.outside)
        for part in pixels:
            visible[part] = self.image[part]
        return self._number(self.count(visible))

    def _pixels(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """The pixels of a box of cells: n cells of an axis cut its pixels as evenly as whole numbers allow."""
        sizes = self.image.shape[: len(shape)]
        if len(sizes) < len(shape) or any(size < cells for size, cells in zip(sizes, shape, strict=True)):
            raise ValueError(
                f"a grid of {shape} cells does not fit an image of shape {self.image.shape}; use fewer cells"
            )
        return tuple(
            slice(part.start * size // cells, part.stop * size // cells)
            for part, size, cells in zip(box, sizes, shape, strict=True)
        )

    def _number(self, counted: Any) -> float:
        try:
            number = float(counted)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise CountError(
                f"count gave {counted!r} for a part of the image, which is no number; it has to return one"
            )
        return int(number) if number.is_integer() else number
