"""A set to ask about where cells have more than one axis: axis-aligned boxes over a grid of items or over the space.

Cells are numbered in row-major order, so that inside of this room a set of them is a `Region` as on one axis.

Letters: B boxes, D axes, P points, R runs of cells.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.queries.region import Region

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Axes = tuple[Callable[[Floats], Floats], ...]


class Boxes(Region):
    """A union of axis-aligned boxes without overlaps; each is a half-open pair (start, stop) for every axis.

    Its points are tuples: places in an array (integers), or, where `axes` gives quantile functions, positions in space, which can
    neither be counted nor listed. `ranges` are those of the cells' numbers in row-major order.

    >>> region = Boxes([(2, 4), (6, 8)], shape=(3, 4))
    >>> region.boxes, len(region), list(region), (1, 3) in region
    ((((0, 2), (2, 4)),), 4, [(0, 2), (0, 3), (1, 2), (1, 3)], True)
    >>> region.count([(0, 2), (0, 2), (2, 2)])
    2

    Attributes:
        shape: cells along each axis.
        bounds: the boxes as an array, shape (B, D, 2).
    """

    __slots__ = ("axes", "bounds", "shape")

    def __init__(
        self,
        ranges: Iterable[Sequence[float]] | NDArray[Any],
        shape: tuple[int, ...],
        axes: Axes | None = None,
    ):
        super().__init__(ranges)
        self.shape, self.axes = shape, axes
        cells_BD2 = _boxes_of(np.stack([self.starts, self.stops], axis=1), shape)
        self.bounds: NDArray[Any] = cells_BD2 if axes is None else _positions(cells_BD2, shape, axes)

    @property
    def boxes(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """The boxes in row-major order of their first corners."""
        return tuple(tuple((start, stop) for start, stop in box) for box in self.bounds.tolist())

    @property
    def slices(self) -> tuple[tuple[slice, ...], ...]:
        """The boxes as what cuts each out of an array of this shape."""
        self._need_items()
        return tuple(tuple(slice(start, stop) for start, stop in box) for box in self.bounds.tolist())

    def mask(self) -> NDArray[np.bool_]:
        """The region as an array of this shape, True inside."""
        mask = np.zeros(self.shape, dtype=bool)
        for box in self.slices:
            mask[box] = True
        return mask

    @property
    def of_items(self) -> bool:
        return self.axes is None

    def contains(self, points: NDArray[Any] | Sequence[Any]) -> NDArray[np.bool_]:
        """For each of these points, along the last axis of an array, whether it lies in the region."""
        places = np.asarray(points)
        if places.size == 0:
            return np.zeros(0, dtype=bool)
        if places.shape[-1:] != (len(self.shape),):
            raise ValueError(f"points has shape {places.shape}; give {len(self.shape)} coordinates a point, last")
        inside = (places[..., None, :] >= self.bounds[..., 0]) & (places[..., None, :] < self.bounds[..., 1])
        return np.asarray(inside.all(-1).any(-1))

    def count(self, points: NDArray[Any] | Sequence[Any]) -> int:
        """How many of these points lie in the region, repeats counted: the answer to the question."""
        return int(self.contains(points).sum())

    def __contains__(self, point: Sequence[float]) -> bool:
        return bool(self.contains(point))

    def __iter__(self) -> Iterator[Any]:
        cells = np.fromiter(super().__iter__(), dtype=np.int64)
        return map(tuple, np.stack(np.unravel_index(cells, self.shape), axis=1).tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boxes) or (self.shape, self.axes) != (other.shape, other.axes):
            return False
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.stops, other.stops)

    def __hash__(self) -> int:
        return hash((self.shape, super().__hash__()))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.boxes[:4]))
        return f"Boxes([{shown}{f', … {len(self.bounds)} boxes' if len(self.bounds) > 4 else ''}])"

    def _need_items(self) -> None:
        if not self.of_items:
            raise TypeError("a region of the space has no items to count or list; use its boxes")


def _boxes_of(runs_R2: Integers, shape: tuple[int, ...]) -> Integers:
    """Disjoint boxes of the cells of sorted runs, shape (B, D, 2).

    A run is at most part of a line, whole lines, and part of a line. Parts between the same columns are runs of lines, and so on.
    """
    if len(shape) == 1:
        return runs_R2[:, None, :]
    width = shape[-1]
    (first, left), (last, right) = np.divmod(runs_R2[:, 0], width), np.divmod(runs_R2[:, 1], width)
    one, none = first == last, np.zeros_like(first)
    begun = (left > 0) & ~one
    parts = [
        np.stack([first, first + 1, left, right], axis=1)[one],
        np.stack([first, first + 1, left, none + width], axis=1)[begun],
        np.stack([first + begun, last, none, none + width], axis=1)[~one & (first + begun < last)],
        np.stack([last, last + 1, none, right], axis=1)[~one & (right > 0)],
    ]
    pieces = np.concatenate(parts)
    columns, group = np.unique(pieces[:, 2:], axis=0, return_inverse=True)
    found = [np.empty((0, len(shape), 2), dtype=np.int64)]
    for number, column in enumerate(columns):
        lines = Region(pieces[group.ravel() == number, :2])
        before = _boxes_of(np.stack([lines.starts, lines.stops], axis=1), shape[:-1])
        found.append(np.concatenate([before, np.broadcast_to(column, (len(before), 1, 2))], axis=1))
    boxes = np.concatenate(found)
    return boxes[np.lexsort(boxes[:, ::-1, 0].T)]


def _positions(cells_BD2: Integers, shape: tuple[int, ...], axes: Axes) -> Floats:
    """Boxes of cells as boxes of the space."""
    sides = [
        np.asarray(quantile(cells_BD2[:, axis] / size), dtype=np.float64)
        for axis, (quantile, size) in enumerate(zip(axes, shape, strict=True))
    ]
    return np.stack(sides, axis=1)


def box(bounds: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Region:
    """The numbers of the cells of one box, in row-major order.

    >>> box([(0, 2), (2, 4)], (3, 4)).ranges
    ((2, 4), (6, 8))
    """
    lines = np.arange(bounds[0][0], bounds[0][1])
    for (start, stop), size in zip(bounds[1:-1], shape[1:-1], strict=True):
        lines = (lines[:, None] * size + np.arange(start, stop)).ravel()
    if len(shape) == 1:
        return Region([bounds[0]])
    return Region(np.stack([lines * shape[-1] + bounds[-1][0], lines * shape[-1] + bounds[-1][1]], axis=1))
