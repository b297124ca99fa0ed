"""What a question may be: its form, its size, and the items it must not touch."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tandem.queries.boxes import Boxes
from tandem.queries.prior import Prior
from tandem.queries.region import Region


class NothingToAskError(ValueError):
    """No question that may be asked tells apart what is still possible."""


@dataclass(frozen=True)
class Constraints:
    """The sets that an oracle takes, for `Session(prior, policy, constraints=...)`.

    A policy keeps every one of them or refuses when it is made; a session checks each question besides.

    >>> from tandem.queries import HalfGreedyPolicy, Session
    >>> constraints = Constraints(largest=3, forbidden=Region([(6, 8)]))
    >>> Session(Prior.uniform(8, k=1), HalfGreedyPolicy(), constraints=constraints).ask().ranges
    ((0, 3),)

    Attributes:
        form: "range" for one contiguous range, "box" for one axis-aligned box (priors with axes), "any" for any set.
        smallest, largest: cells of a question; no upper bound when None.
        forbidden: cells that are never in a question, by number (of an image: `Region.of(np.flatnonzero(mask))`).
    """

    form: Literal["any", "range", "box"] = "any"
    smallest: int = 1
    largest: int | None = None
    forbidden: Region = field(default_factory=Region)

    def __post_init__(self):
        if self.form not in ("any", "range", "box"):
            raise ValueError(f"form={self.form!r} is no form of a question; use 'any', 'range' or 'box'")
        if self.smallest < 1 or (self.largest is not None and self.largest < self.smallest):
            raise ValueError(
                f"smallest={self.smallest} and largest={self.largest} leave no size; use 1 ≤ smallest ≤ largest"
            )

    @property
    def used(self) -> frozenset[str]:
        """Which of them restrict anything: of "range", "box", "smallest", "largest", "forbidden"."""
        named = {
            self.form: self.form != "any",
            "smallest": self.smallest > 1,
            "largest": self.largest is not None,
            "forbidden": bool(self.forbidden),
        }
        return frozenset(name for name, restricts in named.items() if restricts)

    def allowed(self, prior: Prior) -> Region:
        """The cells that may be asked about.

        Raises:
            ValueError: there are fewer than `smallest`, or boxes are asked for where there are no axes.
        """
        edges = [0, *(int(edge) for pair in self.forbidden.ranges for edge in pair), prior.cells]
        if min(edges) < 0 or max(edges) > prior.cells:
            raise ValueError(f"forbidden={self.forbidden} reaches beyond the {prior.cells} cells; leave those out")
        allowed = Region(np.array(edges).reshape(-1, 2))
        if len(allowed) < self.smallest:
            raise ValueError(f"smallest={self.smallest} is more than the {len(allowed)} cells that may be asked about")
        if self.form == "box" and prior.shape is None:
            raise ValueError(
                f"form='box' needs a prior with axes, and {prior} has none; use Prior.grid or form='range'"
            )
        return allowed

    def check(self, region: Region, prior: Prior) -> None:
        """Refuses a question about cells that breaks one of them.

        Raises:
            ValueError: it does, and how.
        """
        size = len(region)
        if not self.smallest <= size <= (self.largest or prior.cells):
            raise ValueError(f"a question has {size} cells; smallest={self.smallest} and largest={self.largest}")
        if self.form == "range" and len(region.starts) != 1:
            raise ValueError(f"a question has {len(region.starts)} ranges; form='range' allows one")
        if self.form == "box" and len(Boxes(region.ranges, prior.shape or (prior.cells,)).bounds) != 1:
            raise ValueError("a question is no single box, which form='box' asks for")
        if common(region, self.forbidden):
            raise ValueError(f"a question has cells of forbidden={self.forbidden}")


def common(one: Region, other: Region) -> Region:
    """The cells in both regions.

    >>> common(Region([(0, 5), (8, 9)]), Region([(3, 9)])).ranges
    ((3, 5), (8, 9))
    """
    edges = np.unique(np.concatenate([one.starts, one.stops, other.starts, other.stops]))
    inside = one.contains(edges[:-1]) & other.contains(edges[:-1])
    return Region(np.stack([edges[:-1][inside], edges[1:][inside]], axis=1))


def refuse(policy: Any, constraints: Constraints) -> None:
    """For a policy to say which constraints it keeps: those in its `honors`.

    Raises:
        ValueError: others are used.
    """
    unmet = constraints.used - getattr(policy, "honors", frozenset())
    if unmet:
        raise ValueError(
            f"policy={type(policy).__name__} cannot keep {', '.join(sorted(unmet))} of {constraints}; HalfGreedyPolicy keeps sizes and "
            "forbidden items, BestRange and BestBox these and their form"
        )


def constrained(policy: Any, constraints: Constraints) -> Any:
    """The policy under these constraints.

    Raises:
        ValueError: it cannot keep them.
    """
    refuse(policy, constraints)
    return replace(policy, constraints=constraints) if constraints.used else policy
