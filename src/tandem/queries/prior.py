"""Where the objects may be before the first question, and how many there are.

Every prior is a row of cells that an object falls into independently of the others: items with weights, or, on the line,
cells of equal mass between quantiles. Cells with several axes are numbered in row-major order. Questions are asked about cells;
they are shown as lengths on the line, and as boxes where there are axes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.queries.boxes import Axes, Boxes
from tandem.queries.region import Region

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_CELLS = 2**48  # differences of masses of larger rows would lose digits of float64


@dataclass(frozen=True, eq=False)
class Prior:
    """k objects, independent and alike, in a row of cells; make one with `uniform`, `weights` or `line`, and with
    `grid`, `image` or `space` where cells have several axes.

    >>> Prior.uniform(8, k=2)
    Prior.uniform(8, k=2)

    Attributes:
        cells: how many cells there are.
        objects: the probability of each number of objects.
        at_most_one: whether no two objects share a cell; the independent prior is then conditioned on that.
        cumulative: mass of the cells before each cell, shape (cells + 1,); None when all have the same mass.
        quantile: on the line, the position below which a share of the mass lies.
        shape: cells along each axis, where there are axes. axes: in space, what `quantile` is, of each of them.
    """

    cells: int
    objects: dict[int, float]
    at_most_one: bool = False
    cumulative: Floats | None = None
    quantile: Callable[[Floats], Floats] | None = None
    shape: tuple[int, ...] | None = None
    axes: Axes | None = None

    def __post_init__(self):
        if self.shape is not None and (not self.shape or min(self.shape) < 1 or prod(self.shape) != self.cells):
            raise ValueError(f"shape={self.shape} is no number of cells ≥ 1 along each axis; change it")
        if not 1 <= self.cells <= MAX_CELLS:
            raise ValueError(f"n={self.cells} is not a number of cells from 1 to 2**48; change n")
        if not self.objects or min(self.objects) < 0 or min(self.objects.values()) < 0:
            raise ValueError(f"k={self.objects} has to be a number ≥ 0, or to give each such number a probability ≥ 0")
        if not np.isclose(sum(self.objects.values()), 1.0):
            raise ValueError(
                f"k={self.objects} has probabilities that add up to {sum(self.objects.values())}; they have to be 1"
            )
        if self.at_most_one and self.k > self._occupiable:
            raise ValueError(
                f"k={self.k} objects do not fit into {self._occupiable} cells one each; lower k or drop at_most_one"
            )

    @classmethod
    def uniform(cls, n: int, *, k: int | Mapping[int, float], at_most_one: bool = False) -> "Prior":
        """Objects among n items, all alike. A mapping gives each number of objects its probability."""
        return cls(n, _numbers(k), at_most_one)

    @classmethod
    def weights(cls, weights: ArrayLike, *, k: int | Mapping[int, float], at_most_one: bool = False) -> "Prior":
        """Objects among items; each is at item i with a probability proportional to weights[i]."""
        mass = np.asarray(weights, dtype=np.float64)
        if mass.ndim != 1 or not len(mass) or not np.all(np.isfinite(mass)) or mass.min() < 0 or mass.sum() <= 0:
            raise ValueError("weights has to be a list of numbers ≥ 0 with a sum above 0")
        cumulative = np.concatenate([[0.0], np.cumsum(mass)])
        return cls(len(mass), _numbers(k), at_most_one, cumulative / cumulative[-1])

    @classmethod
    def grid(cls, shape: Sequence[int], *, k: int | Mapping[int, float], at_most_one: bool = False) -> "Prior":
        """Objects anywhere in an array of this shape; they are found as tuples of indices.

        >>> prior = Prior.grid((4, 4), k=2)
        >>> prior.show(prior.dyadic(3)).boxes       # the third digit is the first of the column
        (((0, 4), (2, 4)),)
        """
        return cls(prod(shape), _numbers(k), at_most_one, shape=tuple(map(int, shape)))

    @classmethod
    def image(cls, weights: ArrayLike, *, k: int | Mapping[int, float], at_most_one: bool = False) -> "Prior":
        """Objects in an array of two axes or more; each is at a place with a probability proportional to its weight."""
        mass = np.asarray(weights, dtype=np.float64)
        flat = cls.weights(mass.ravel(), k=k, at_most_one=at_most_one)
        return cls(flat.cells, flat.objects, at_most_one, flat.cumulative, shape=mass.shape)

    @classmethod
    def space(
        cls, quantiles: Sequence[Callable[[Floats], Floats]], *, k: int | Mapping[int, float], cells: Sequence[int]
    ) -> "Prior":
        """Objects in space with a density that is a product over axes, each told by its quantile function.

        Each axis is cut into cells of equal mass, as many as `cells` says; that is the resolution objects are found to.

        >>> prior = Prior.space([lambda u: 10 * u, lambda u: u**0.5], k=2, cells=(4, 4))
        >>> prior.show(prior.dyadic(1)).boxes
        (((5.0, 10.0), (0.0, 1.0)),)
        """
        if len(quantiles) != len(cells):
            raise ValueError(
                f"cells={tuple(cells)} has {len(cells)} axes for {len(quantiles)} quantiles; give one each"
            )
        return cls(prod(cells), _numbers(k), shape=tuple(map(int, cells)), axes=tuple(quantiles))

    @classmethod
    def line(cls, quantile: Callable[[Floats], Floats], *, k: int | Mapping[int, float], cells: int = 2**20) -> "Prior":
        """Objects on the real line with any density, told by its quantile function (such as `scipy.stats.norm.ppf`).

        The line is cut into `cells` lengths of equal mass; that is the resolution objects are found to.

        >>> prior = Prior.line(lambda u: u**0.5, k=2, cells=4)      # density 2u on (0, 1)
        >>> prior.show(prior.dyadic(1)).ranges
        ((0.7071067811865476, 1.0),)
        """
        return cls(cells, _numbers(k), False, None, quantile)

    @property
    def k(self) -> int:
        """The largest number of objects there can be."""
        return max(number for number, probability in self.objects.items() if probability > 0)

    @property
    def k_known(self) -> bool:
        """Whether only one number of objects is possible."""
        return sum(probability > 0 for probability in self.objects.values()) == 1

    @property
    def digits(self) -> int | None:
        """L when the cells are 2**L independent fair binary digits of equal mass, so that the product posterior holds."""
        fair = self.cumulative is None and not self.at_most_one and self.cells & (self.cells - 1) == 0
        return self.cells.bit_length() - 1 if fair else None

    def mass(self, starts: Integers, stops: Integers) -> Floats:
        """The probability that one object lies in the cells [start, stop)."""
        if self.cumulative is None:
            return (stops - starts) / self.cells
        return self.cumulative[stops] - self.cumulative[starts]

    def middle(self, starts: Integers, stops: Integers) -> Integers:
        """Where to cut each run of two cells or more so that both parts have about half of its mass."""
        if self.cumulative is None:
            return (starts + stops) // 2
        half = (self.cumulative[starts] + self.cumulative[stops]) / 2
        above = np.clip(np.searchsorted(self.cumulative, half), starts + 1, stops - 1)
        below = np.maximum(above - 1, starts + 1)
        nearer = np.abs(self.cumulative[below] - half) < np.abs(self.cumulative[above] - half)
        return np.where(nearer, below, above).astype(np.int64)

    def dyadic(self, digit: int) -> Region:
        """The n-th dyadic set, n from 1: the upper half of each of the 2ⁿ⁻¹ parts that earlier digits leave (paper eq. 9-10).

        >>> Prior.uniform(8, k=2).dyadic(2).ranges
        ((2, 4), (6, 8))

        Raises:
            ValueError: digit is below 1.
        """
        if digit < 1:
            raise ValueError(f"digit={digit} is none; digits are counted from 1")
        edges, middles = np.array([0, self.cells], dtype=np.int64), np.empty(0, dtype=np.int64)
        for _ in range(digit):
            starts, stops = edges[:-1], edges[1:]
            wide = stops - starts > 1
            middles = self.middle(starts[wide], stops[wide])
            edges = np.sort(np.concatenate([edges, middles]))
        return Region(np.stack([middles, edges[np.searchsorted(edges, middles) + 1]], axis=1))

    def show(self, region: Region) -> Region:
        """A region of cells as the user knows it: items, lengths of the line, or boxes."""
        if self.shape is not None:
            return Boxes(np.stack([region.starts, region.stops], axis=1), self.shape, self.axes)
        if self.quantile is None:
            return region
        shares = np.stack([region.starts, region.stops], axis=1) / self.cells
        return Region(np.asarray(self.quantile(shares.ravel()), dtype=np.float64).reshape(-1, 2))

    def place(self, cells: Integers) -> list[Any]:
        """Cells as the user knows them: items, the medians of lengths of the line, or tuples with one of these for each axis."""
        if self.shape is not None:
            indices = np.unravel_index(cells, self.shape)
            if self.axes is not None:
                sides = zip(self.axes, indices, self.shape, strict=True)
                indices = [np.asarray(quantile((i + 0.5) / size), dtype=np.float64) for quantile, i, size in sides]
            return list(zip(*(side.tolist() for side in indices), strict=True))
        if self.quantile is None:
            return cells.tolist()
        return np.asarray(self.quantile((cells + 0.5) / self.cells), dtype=np.float64).tolist()

    @property
    def _occupiable(self) -> int:
        return self.cells if self.cumulative is None else int(np.count_nonzero(np.diff(self.cumulative)))

    def __repr__(self) -> str:
        k = self.k if self.k_known else self.objects
        distinct = ", at_most_one=True" if self.at_most_one else ""
        if self.quantile is not None:
            return f"Prior.line({self.quantile!r}, k={k}, cells={self.cells})"
        if self.axes is not None:
            return f"Prior.space({self.axes!r}, k={k}, cells={self.shape})"
        if self.shape is not None:
            kind = f"grid({self.shape}" if self.cumulative is None else f"image(… of shape {self.shape}"
            return f"Prior.{kind}, k={k}{distinct})"
        kind = "uniform" if self.cumulative is None else "weights"
        return f"Prior.{kind}({self.cells if kind == 'uniform' else '…'}, k={k}{distinct})"


def _numbers(k: int | Mapping[int, float]) -> dict[int, float]:
    return {int(number): float(share) for number, share in k.items()} if isinstance(k, Mapping) else {int(k): 1.0}
