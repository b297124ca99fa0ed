"""Questions about one range at a time, for oracles that take nothing else (`BETWEEN`, a slice, a contiguous crop).

Letters: R rows, E possible ends, X counts 0 … K.
"""

from dataclasses import dataclass

import numpy as np

from tandem.queries.answers import Answers, information
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
    """

    longest: int | None = None
    per_cell: float = 0.0

    def __post_init__(self):
        if (self.longest is not None and self.longest < 1) or self.per_cell < 0:
            raise ValueError(f"longest={self.longest} has to be 1 or more, per_cell={self.per_cell} 0 or more")

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        rows = posterior.rows(500)
        ends = Ends(rows, self.longest, short=self.per_cell > 0)
        bits_EE = ends.information(posterior.answers)
        length_EE = ends.place[None, :] - ends.place[:, None]
        allowed = (length_EE > 0) & (length_EE <= (self.longest or posterior.prior.cells))
        worth_EE = np.where(allowed, bits_EE / (1 + self.per_cell * np.maximum(length_EE, 0)), -np.inf)
        start, stop = np.unravel_index(np.argmax(np.round(worth_EE, 9)), worth_EE.shape)
        if bits_EE[start, stop] < 1e-12:
            raise ValueError("no range tells apart what is still possible; allow longer ranges or use another policy")
        return [Region([(int(ends.place[start]), int(ends.place[stop]))])]


class Ends:
    """Where a range may begin and end, and what lies between."""

    def __init__(self, rows: Rows, longest: int | None = None, short: bool = False):
        self.rows, partition = rows, rows.partition
        likely = self._likely(SEGMENTS_SHORT if short or longest else SEGMENTS)
        starts, stops = partition.edges[likely], partition.edges[likely + 1]
        wide = stops - starts > 1
        place = [starts, stops, partition.prior.middle(starts[wide], stops[wide])]
        if short or longest:  # otherwise no range may be short enough
            place += [starts + ((stops - starts) >> halvings) for halvings in range(2, 12)]
        if longest:
            place.append(starts + np.minimum(stops - starts, longest))
        self.place = np.unique(np.concatenate(place))

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
        share_RKE = self._before()
        ends, k = len(self.place), self.rows.partition.prior.k
        bits_EE, f_XY = np.zeros((ends, ends)), answers.matrix(k)
        for start in range(ends - 1):
            count_EX = self._counts(share_RKE[:, :, start + 1 :] - share_RKE[:, :, start : start + 1])
            bits_EE[start, start + 1 :] = information(f_XY, count_EX)
        return np.maximum(bits_EE, 0.0)

    def _before(self) -> Floats:
        """P(an object lies before an end | its atom), shape (R, K, E)."""
        partition = self.rows.partition
        share_AE = np.zeros((partition.atoms + 1, len(self.place)))  # the last for objects that are not there
        starts, stops = partition.edges[:-1], partition.edges[1:]
        for segment in np.flatnonzero(partition.label >= 0):
            upto = np.clip(self.place, starts[segment], stops[segment])
            mass = partition.prior.mass(np.full(len(upto), starts[segment]), upto)
            share_AE[partition.label[segment]] += mass / partition.mass[partition.label[segment]]
        return share_AE[self.rows.ids_RK]

    def _counts(self, share_RKE: Floats) -> Floats:
        """P(X objects are inside), shape (E, X), objects of a row being independent given their atoms."""
        rows, k, ends = share_RKE.shape
        pmf_XRE = np.zeros((k + 1, rows, ends))
        pmf_XRE[0] = 1.0
        for i in range(k):
            inside = share_RKE[:, i]
            pmf_XRE[1:] = pmf_XRE[1:] * (1 - inside) + pmf_XRE[:-1] * inside
            pmf_XRE[0] *= 1 - inside
        return np.einsum("r,xre->ex", self.rows.weight_R, pmf_XRE)
