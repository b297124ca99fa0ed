"""Questions about one range at a time, for oracles that take nothing else (`BETWEEN`, a slice, a contiguous crop).

Letters: R rows, E possible ends, X counts 0 … K.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tandem.queries.answers import Answers, information
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.measures import sums
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region

SEGMENTS = 60  # segments whose ends are tried
SEGMENTS_SHORT = 20  # the same where ranges within segments are tried too


@dataclass(frozen=True)
class BestRange:
    """Asks about the one range of cells that reveals most for its cost: A = argmax I(θ; Y | y_1 … y_n) / (1 + per_cell |A|).

    Ranges begin and end where atoms do or at the middle of one; where ranges have to be short, also at ¼, ⅛ … of it. Objects
    of an atom are taken for independent in the search, which those of a prior with at_most_one are not quite.

    >>> from tandem.queries import Prior, Session
    >>> Session(Prior.uniform(16, k=1), policy=BestRange()).ask().ranges
    ((0, 8),)
    >>> Session(Prior.uniform(16, k=1), policy=BestRange(longest=2)).ask().ranges
    ((0, 2),)

    Attributes:
        longest: the most cells a range may have. per_cell: cost of each cell, in units of the cost of a question.
        constraints: sizes and forbidden cells are kept; `longest` and its `largest` say the same, and the smaller one counts.
    """

    longest: int | None = None
    per_cell: float = 0.0
    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"range", "smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)
        if (self.longest is not None and self.longest < 1) or self.per_cell < 0:
            raise ValueError(f"longest={self.longest} has to be 1 or more, per_cell={self.per_cell} 0 or more")

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        rows, cells = posterior.rows(500), posterior.prior.cells
        longest = min(self.longest or cells, self.constraints.largest or cells)
        limited = longest if longest < cells else None
        ends = Ends(rows, limited, short=self.per_cell > 0, constraints=self.constraints)
        bits_EE = ends.information(posterior.answers)
        length_EE = ends.place[None, :] - ends.place[:, None]
        free_EE = ends.forbidden_before[None, :] == ends.forbidden_before[:, None]
        allowed = (length_EE >= self.constraints.smallest) & (length_EE <= longest) & free_EE
        worth_EE = np.where(allowed, bits_EE / (1 + self.per_cell * np.maximum(length_EE, 0)), -np.inf)
        start, stop = np.unravel_index(np.argmax(np.round(worth_EE, 9)), worth_EE.shape)
        if not allowed[start, stop] or bits_EE[start, stop] < 1e-12:
            raise NothingToAskError(
                "no range tells apart what is still possible; allow longer ranges or use another policy"
            )
        return [Region([(int(ends.place[start]), int(ends.place[stop]))])]


class Ends:
    """Where a range may begin and end, and what lies between."""

    def __init__(
        self,
        rows: Rows,
        longest: int | None = None,
        short: bool = False,
        constraints: Constraints = Constraints(),  # noqa: B008, it is frozen
    ):
        self.rows, partition = rows, rows.partition
        likely = self._likely(SEGMENTS_SHORT if short or longest else SEGMENTS)
        starts, stops = partition.edges[likely], partition.edges[likely + 1]
        wide = stops - starts > 1
        place = [starts, stops, partition.prior.middle(starts[wide], stops[wide])]
        if short or longest:  # otherwise no range may be short enough
            place += [starts + ((stops - starts) >> halvings) for halvings in range(2, 12)]
        if longest:
            place.append(starts + np.minimum(stops - starts, longest))
        forbidden = constraints.forbidden
        if constraints.used:  # the shortest ranges, and the longest that end before what is forbidden
            place += [np.concatenate(place) + by for by in (-constraints.smallest, constraints.smallest)]
            place += [forbidden.starts, forbidden.stops, forbidden.stops + (longest or 0)]
            place.append(np.array([0, partition.prior.cells]))
        ends = np.unique(np.concatenate(place))
        self.place = ends[(ends >= 0) & (ends <= partition.prior.cells)]
        past = np.clip(self.place[:, None], forbidden.starts, forbidden.stops) - forbidden.starts
        self.forbidden_before: Integers = past.sum(1)

    def _likely(self, most: int) -> Integers:
        """The segments in which most objects are to be expected; the others are not worth the time of looking at all pairs."""
        partition, ids, weight = self.rows.partition, self.rows.ids_RK, self.rows.weight_R
        held_A = sums(ids[ids >= 0], np.broadcast_to(weight[:, None], ids.shape)[ids >= 0], partition.atoms)
        segments = np.flatnonzero(partition.label >= 0)
        mass = partition.prior.mass(partition.edges[segments], partition.edges[segments + 1])
        expected = held_A[partition.label[segments]] * mass / partition.mass[partition.label[segments]]
        return np.sort(segments[np.argsort(-expected, kind="stable")[:most]])

    def information(self, answers: Answers) -> Floats:
        """Bits of the range between each two ends, shape (E, E); 0 where it would end before it begins."""
        return information_between(self.rows, self._before(), answers)

    def _before(self) -> Floats:
        """P(an object lies before an end | its atom), shape (A + 1, E)."""
        partition = self.rows.partition
        share_AE = np.zeros((partition.atoms + 1, len(self.place)))  # the last for objects that are not there
        starts, stops = partition.edges[:-1], partition.edges[1:]
        for segment in np.flatnonzero(partition.label >= 0):
            upto = np.clip(self.place, starts[segment], stops[segment])
            mass = partition.prior.mass(np.full(len(upto), starts[segment]), upto)
            share_AE[partition.label[segment]] += mass / partition.mass[partition.label[segment]]
        return share_AE


def information_between(rows: Rows, before_AE: Floats, answers: Answers) -> Floats:
    """Bits of what lies between each two ends, given the share of each atom before an end; shape (E, E), 0 where it ends first.

    The last row of `before_AE` is for objects that are not there.
    """
    share_RKE = before_AE[rows.ids_RK]
    ends, k = before_AE.shape[1], rows.partition.prior.k
    bits_EE, f_XY = np.zeros((ends, ends)), answers.matrix(k)
    for start in range(ends - 1):
        count_EX = _counts(rows.weight_R, share_RKE[:, :, start + 1 :] - share_RKE[:, :, start : start + 1])
        bits_EE[start, start + 1 :] = information(f_XY, count_EX)
    return np.maximum(bits_EE, 0.0)


def _counts(weight_R: Floats, share_RKE: Floats) -> Floats:
    """P(X objects are inside), shape (E, X), objects of a row being independent given their atoms."""
    rows, k, ends = share_RKE.shape
    pmf_XRE = np.zeros((k + 1, rows, ends))
    pmf_XRE[0] = 1.0
    for i in range(k):
        inside = share_RKE[:, i]
        pmf_XRE[1:] = pmf_XRE[1:] * (1 - inside) + pmf_XRE[:-1] * inside
        pmf_XRE[0] *= 1 - inside
    return np.einsum("r,xre->ex", weight_R, pmf_XRE)
