"""A set to ask about: half-open ranges over the items 0, 1, 2 … or over the real line."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Region:
    """A union of half-open ranges [start, stop), kept sorted, without overlaps and without empty ranges.

    A region of items (integers) has a length, can be iterated, and answers `in`. A region of the line (floats) answers `in` and
    has `ranges`, and no length.

    >>> region = Region([(4, 8), (0, 2), (8, 9)])
    >>> region.ranges, len(region), list(region), 5 in region
    (((0, 2), (4, 9)), 7, [0, 1, 4, 5, 6, 7, 8], True)
    >>> region.count([1, 3, 5, 5])
    3
    """

    __slots__ = ("starts", "stops")

    starts: NDArray[Any]
    stops: NDArray[Any]

    def __init__(self, ranges: Iterable[Sequence[float]] | NDArray[Any] = ()):
        pairs = np.asarray(list(ranges) if not isinstance(ranges, np.ndarray) else ranges)
        if pairs.size == 0:
            pairs = np.empty((0, 2), dtype=pairs.dtype if pairs.dtype.kind == "f" and pairs.ndim == 2 else np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iuf":
            raise ValueError(
                f"ranges has shape {pairs.shape} and type {pairs.dtype}; give pairs of numbers (start, stop)"
            )
        if np.any(pairs[:, 0] > pairs[:, 1]):
            raise ValueError(f"ranges has a pair that stops before it starts, {_first_reversed(pairs)}; swap its ends")
        pairs = pairs.astype(np.float64 if pairs.dtype.kind == "f" else np.int64)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        reach = np.maximum.accumulate(pairs[:, 1]) if len(pairs) else pairs[:, 1]
        first = np.ones(len(pairs), dtype=bool)
        first[1:] = pairs[1:, 0] > reach[:-1]
        last = np.ones(len(pairs), dtype=bool)
        last[:-1] = first[1:]
        self.starts, self.stops = pairs[first, 0], reach[last]

    @classmethod
    def of(cls, items: ArrayLike) -> "Region":
        """The region of these items, each once.

        >>> Region.of([7, 3, 4]).ranges
        ((3, 5), (7, 8))
        """
        starts = np.unique(np.asarray(items, dtype=np.int64))
        return cls(np.stack([starts, starts + 1], axis=1))

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The half-open pairs, in order; integers when the region is one of items."""
        return tuple(zip(self.starts.tolist(), self.stops.tolist(), strict=True))

    @property
    def of_items(self) -> bool:
        """Whether the ranges count items; otherwise they are lengths of the line."""
        return self.starts.dtype.kind == "i"

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """For each of these items or positions whether it lies in the region."""
        places = np.asarray(points)
        if not len(self.starts):
            return np.zeros(places.shape, dtype=bool)
        left = np.searchsorted(self.starts, places, side="right") - 1
        return np.asarray((left >= 0) & (places < self.stops[np.maximum(left, 0)]))

    def count(self, objects: ArrayLike) -> int:
        """How many of these objects lie in the region, repeats counted: the answer to the question."""
        return int(self.contains(objects).sum())

    def first(self, items: int) -> "Region":
        """The first so many items of the region.

        >>> Region([(2, 4), (6, 9)]).first(3).ranges
        ((2, 4), (6, 7))
        """
        length = self.stops - self.starts
        taken = np.clip(items - (np.cumsum(length) - length), 0, length)
        return Region(np.stack([self.starts, self.starts + taken], axis=1))

    def __contains__(self, point: float) -> bool:
        return bool(self.contains(np.asarray(point)))

    def __len__(self) -> int:
        self._need_items()
        return int((self.stops - self.starts).sum())

    def __bool__(self) -> bool:
        return len(self.starts) > 0

    def __iter__(self) -> Iterator[int]:
        self._need_items()
        return chain.from_iterable(range(start, stop) for start, stop in zip(self.starts, self.stops, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region) or self.of_items != other.of_items:
            return False
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.stops, other.stops)

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.stops.tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(f"({start}, {stop})" for start, stop in self.ranges[:6])
        return f"Region([{shown}{f', … {len(self.starts)} ranges' if len(self.starts) > 6 else ''}])"

    def _need_items(self) -> None:
        if not self.of_items:
            raise TypeError("a region of the line has no items to count or list; use its ranges")


def _first_reversed(pairs: NDArray[Any]) -> tuple[float, float]:
    start, stop = pairs[np.argmax(pairs[:, 0] > pairs[:, 1])].tolist()
    return start, stop
