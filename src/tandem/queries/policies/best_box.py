"""Questions about one axis-aligned box at a time, for oracles that take nothing else (a crop of an image).

Letters: I cells that can hold an object, D axes, A atoms, E possible ends along one axis.
"""

from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import numpy as np

from tandem.queries.boxes import box
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.measures import sums
from tandem.queries.policies.best_range import information_between
from tandem.queries.policies.entropy_pursuit import EntropyPursuit
from tandem.queries.posterior import Posterior
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region

MAX_GRID = 2**22  # cells; their masses are added up for each axis that is searched
ENDS = 24  # along an axis, where shares of the expected objects lie
SWEEPS = 4  # over all axes
Bounds = list[tuple[int, int]]


@dataclass(frozen=True)
class BestBox:
    """Asks about a box that reveals much, A = argmax I(θ; Y | y_1 … y_n) over boxes, found axis by axis.

    With the box held on all other axes, the best pair of ends on one axis is found; then the next axis, until nothing gains. Starts
    are the whole grid and boxes around draws of the posterior. Ends are tried where shares of the expected objects lie, so
    that they become single cells as the search closes in. Objects of an atom are taken for independent in the search, which those
    of a prior with at_most_one are not quite.

    >>> from tandem.queries import Prior, Session
    >>> Session(Prior.grid((8, 8), k=1), policy=BestBox()).ask().boxes
    (((0, 4), (0, 8)),)

    Attributes:
        restarts: starts beside the whole grid.
        constraints: sizes (cells of the box) and forbidden cells are kept.
    """

    restarts: int = 3
    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"box", "smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        shape = posterior.prior.shape
        if shape is None or posterior.prior.cells > MAX_GRID:
            raise ValueError(
                f"policy=BestBox() needs a prior with axes and at most 2**22 cells, not {posterior.prior}; use BestRange"
            )
        search = BoxSearch(posterior, self.constraints)
        starts = [[(0, size) for size in shape], *search.around_draws(posterior, self.restarts, rng)]
        bounds, bits = max((search.climb(start) for start in starts), key=lambda pair: round(pair[1], 9))
        if bits > 1e-12:
            return [box(bounds, shape)]
        if self.constraints.smallest > 1:
            raise NothingToAskError("no box was found that tells apart what is still possible; allow other boxes")
        return EntropyPursuit(Constraints(forbidden=self.constraints.forbidden)).questions(posterior, rng)


class BoxSearch:
    """A posterior over a grid, cell by cell, prepared to score boxes."""

    def __init__(self, posterior: Posterior, constraints: Constraints):
        self.rows, self.answers, self.constraints = posterior.rows(500), posterior.answers, constraints
        self.shape = posterior.prior.shape or ()
        partition, ids = self.rows.partition, self.rows.ids_RK
        label = np.repeat(partition.label, np.diff(partition.edges))
        cells = np.flatnonzero(label >= 0)
        self.label_I = label[cells]
        self.place_DI = np.stack(np.unravel_index(cells, self.shape))
        self.share_I = posterior.prior.mass(cells, cells + 1) / partition.mass[self.label_I]
        weight = np.broadcast_to(self.rows.weight_R[:, None], ids.shape)
        self.held_A = sums(ids[ids >= 0], weight[ids >= 0], partition.atoms)
        forbidden = np.array(list(constraints.forbidden), dtype=np.int64)
        self.forbidden_DI = np.stack(np.unravel_index(forbidden, self.shape))

    def around_draws(self, posterior: Posterior, starts: int, rng: np.random.Generator) -> list[Bounds]:
        """Boxes around an object of draws of the posterior: half of each axis, or near a cube of the largest or smallest size."""
        side = max(int((self.constraints.largest or posterior.prior.cells) ** (1 / len(self.shape)) + 1e-9), 1)
        sides = [min(side, max(size // 2, 1)) for size in self.shape]
        while prod(sides) < self.constraints.smallest:
            axis = int(np.argmin([side / size for side, size in zip(sides, self.shape, strict=True)]))
            sides[axis] += 1
        found = []
        for draw in posterior.sample(starts, seed=int(rng.integers(2**31))):
            if not np.any(draw >= 0):
                continue
            place = np.unravel_index(int(rng.choice(draw[draw >= 0])), self.shape)
            first = [
                min(max(int(i) - side // 2, 0), size - side)
                for i, side, size in zip(place, sides, self.shape, strict=True)
            ]
            found.append([(start, start + side) for start, side in zip(first, sides, strict=True)])
        return found

    def climb(self, bounds: Bounds) -> tuple[Bounds, float]:
        """The ends of one axis after the other, until none gains; the box and its bits, 0 where none is allowed."""
        best = 0.0
        for _ in range(SWEEPS):
            before = best
            for axis in range(len(self.shape)):
                ends, bits = self._along(axis, bounds)
                if bits > best + 1e-9:
                    bounds, best = [*bounds[:axis], ends, *bounds[axis + 1 :]], bits
            if best == before:
                break
        return bounds, best

    def _along(self, axis: int, bounds: Bounds) -> tuple[tuple[int, int], float]:
        """The best pair of ends on one axis, and its bits; -1 bits where constraints allow none."""
        size, atoms = self.shape[axis], self.rows.partition.atoms
        inside = _within(self.place_DI, axis, bounds)
        key = self.label_I[inside] * size + self.place_DI[axis, inside]
        share_AE = sums(key, self.share_I[inside], atoms * size).reshape(atoms, size)
        before_AE = np.zeros((atoms + 1, size + 1))  # the last row for objects that are not there
        before_AE[:-1, 1:] = np.cumsum(share_AE, axis=1)
        blocked = self.forbidden_DI[axis, _within(self.forbidden_DI, axis, bounds)]
        blocked_E = np.append(0, np.cumsum(np.bincount(blocked, minlength=size)))
        area = prod(stop - start for other, (start, stop) in enumerate(bounds) if other != axis)
        shortest = -(-self.constraints.smallest // area)
        longest = size if self.constraints.largest is None else self.constraints.largest // area
        place = self._ends(self.held_A @ before_AE[:-1], blocked_E, bounds[axis], (shortest, longest))
        length_EE = place[None, :] - place[:, None]
        allowed = (length_EE >= shortest) & (length_EE <= longest)
        allowed &= blocked_E[place][None, :] == blocked_E[place][:, None]
        bits_EE = information_between(self.rows, before_AE[:, place], self.answers)
        bits_EE = np.where(allowed, np.round(bits_EE, 9), -1.0)
        start, stop = np.unravel_index(np.argmax(bits_EE), bits_EE.shape)
        return (int(place[start]), int(place[stop])), float(bits_EE[start, stop])

    def _ends(
        self, expected_E: Floats, blocked_E: Integers, now: tuple[int, int], lengths: tuple[int, int]
    ) -> Integers:
        """Where a box may begin and end: between equal shares of the expected objects, and where constraints make it."""
        size = len(expected_E) - 1
        levels = np.linspace(0.0, expected_E[-1], ENDS + 1)
        at = np.searchsorted(expected_E, levels - 1e-12)
        place = [np.array([0, size, *now]), at, np.minimum(at + 1, size), np.maximum(at - 1, 0)]
        if lengths[0] > 1 or lengths[1] < size:
            place += [at + by for length in lengths for by in (-length, length)]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], np.diff(blocked_E) > 0, [0]])))
        ends = np.unique(np.concatenate([*place, edges]))
        return ends[(ends >= 0) & (ends <= size)]


def _within(place_DI: Integers, axis: int, bounds: Bounds) -> np.ndarray:
    """Whether cells are inside of the box on all axes but one, shape (I,)."""
    inside = np.ones(place_DI.shape[1], dtype=bool)
    for other, (start, stop) in enumerate(bounds):
        if other != axis:
            inside &= (place_DI[other] >= start) & (place_DI[other] < stop)
    return inside
