"""Greedy questions: any share of each atom.

Letters: R rows, A atoms, K objects, X counts 0 … K.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.optimize import LinearConstraint, minimize

from tandem.queries.answers import Answers, information
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.enumeration import best_question
from tandem.queries.measures import LOG2, entropy_bits, sums
from tandem.queries.policies.limits import Limits, limited
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region


@dataclass(frozen=True)
class GreedyPolicy:
    """Asks the set that reveals most: A = argmax I(θ; Y | y_1 … y_n), over the share q_a ∈ [0, 1] of every atom (paper §4).

    For exact answers that is H(Σ_r w_r P(X | row r)), X a sum of independent Bin(c_a, q_a). Few cells are gone through one by one.
    Otherwise gradients are followed from random starts, because all ½ is a stationary point and seldom the maximum; its
    neighborhood is one start, so that no question reveals less than the dyadic D_k while atoms can be halved. Not the best
    policy over several questions (8 cells, 2 objects, 4 questions: 5.0625 bits, the optimum has 5.125).

    >>> from tandem.queries import Prior, Session
    >>> len(Session(Prior.uniform(8, k=2), policy=GreedyPolicy()).ask())
    4

    Attributes:
        restarts: random starts beside the one near all halves.
        constraints: sizes and forbidden cells are kept, as bounds of the shares and of their sum.
    """

    restarts: int = 4
    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        if self.constraints.used:
            return [self._within_limits(posterior, rng)]
        rows = posterior.rows()
        small = best_question(rows, posterior.answers)
        if small is not None:
            return [small[0]]
        shares = Shares(rows, posterior.answers)
        half = rows.partition.upper / rows.partition.size
        starts = [np.clip(half + rng.uniform(-0.05, 0.05, rows.partition.atoms), 0, 1)]
        starts += [rng.random(rows.partition.atoms) for _ in range(self.restarts)]
        found = [half, *(shares.climb(start) for start in starts)]
        f_XY = posterior.answers.matrix(posterior.prior.k)
        regions = [rows.partition.part(shares.cells(share_A)) for share_A in found]
        return [
            max(regions, key=lambda region: round(float(information(f_XY, posterior.count_distribution(region))), 9))
        ]

    def _within_limits(self, posterior: Posterior, rng: np.random.Generator) -> Region:
        rows, limits = limited(posterior, [], self.constraints)
        shares = Shares(rows, posterior.answers)
        starts = [np.full(rows.partition.atoms, 0.5), *rng.random((self.restarts, rows.partition.atoms))]
        found = [shares.climb(start, limits) for start in starts]
        found += [np.eye(rows.partition.atoms)[atom] for atom in range(rows.partition.atoms)]
        regions = []
        for share_A in found:
            cells_A = limits.fitted(shares.cells(share_A), np.arange(rows.partition.atoms))
            regions.append(limits.region(cells_A))
        f_XY = posterior.answers.matrix(posterior.prior.k)
        bits = [round(float(information(f_XY, posterior.count_distribution(region))), 9) for region in regions]
        if max(bits) <= 0:
            raise NothingToAskError("no question that may be asked tells apart what is still possible")
        return regions[int(np.argmax(bits))]


class Shares:
    """The information of a question as a function of the share that it takes of every atom, with its gradient."""

    def __init__(self, rows: Rows, answers: Answers):
        self.rows, self.f_XY = rows, answers.matrix(rows.partition.prior.k)
        self.noise_X = entropy_bits(self.f_XY)

    def cells(self, share_A: Floats) -> Integers:
        """Whole cells nearest to the shares; by number, which for unequal cells is near the share of mass only."""
        if self.rows.partition.prior.cumulative is None:
            return np.rint(share_A * self.rows.partition.size).astype(np.int64)
        taken = np.zeros(self.rows.partition.atoms, dtype=np.int64)
        for atom, share in enumerate(share_A):
            running = np.cumsum(self.rows.partition.cell_masses(atom)[::-1])
            taken[atom] = int(np.argmin(np.abs(np.append(0.0, running) - share * running[-1])))
        return taken

    def climb(self, start_A: Floats, limits: Limits | None = None) -> Floats:
        """The shares at a local maximum, among those whose cells keep the limits."""
        if limits is None:
            bounds = [(0.0, 1.0)] * len(start_A)
            result = minimize(self.value_and_gradient, start_A, jac=True, method="L-BFGS-B", bounds=bounds)
            return np.clip(result.x, 0.0, 1.0)
        size_A = self.rows.partition.size.astype(np.float64)
        highest_A = limits.most_A / size_A
        result = minimize(
            self.value_and_gradient,
            np.clip(start_A, 0.0, highest_A) * min(1.0, limits.most / max(float(limits.most_A.sum()), 1.0)),
            jac=True,
            method="SLSQP",
            bounds=[(0.0, float(highest)) for highest in highest_A],
            # As shares of the largest size, so that the solver's tolerances mean the same for few cells and for many.
            constraints=[LinearConstraint(size_A / limits.most, limits.least / limits.most, 1.0)],
        )
        return np.clip(result.x, 0.0, 1.0)

    def value_and_gradient(self, share_A: Floats) -> tuple[float, Floats]:
        """Minus the bits and minus their derivatives, for a minimizer.

        ∂I/∂q_a = Σ_r w_r Σ_{i in a} Σ_x P_{-i}(x) (l(x + 1) - l(x)), P_{-i} the count of all objects but i, l = ∂I/∂P(x).
        """
        ids, weight = self.rows.ids_RK, self.rows.weight_R
        q_RK = np.where(ids >= 0, share_A[ids], 0.0)
        before, after = _products(q_RK), _products(q_RK[:, ::-1])
        k = q_RK.shape[1]
        count_X = weight @ before[k]
        answer_Y = count_X @ self.f_XY
        slope_Y = -np.log(np.maximum(answer_Y, 1e-300)) / LOG2 - 1 / LOG2
        slope_X = self.f_XY @ slope_Y - self.noise_X
        step_X = np.append(np.diff(slope_X), 0.0)
        gradient_A = np.zeros(len(share_A))
        for i in range(k):
            others = np.zeros_like(before[0])
            for x in range(k - i):
                others[:, x:] += after[k - 1 - i][:, x : x + 1] * before[i][:, : k + 1 - x]
            present = ids[:, i] >= 0
            slope_R = weight * (others @ step_X)
            gradient_A += sums(ids[present, i], slope_R[present], len(share_A))
        return -float(information(self.f_XY, count_X)), -gradient_A


def _products(q_RK: Floats) -> list[Floats]:
    """P(X among the first 0, 1, … K objects), each shape (R, X)."""
    rows, k = q_RK.shape
    pmf = np.zeros((rows, k + 1))
    pmf[:, 0] = 1.0
    partial = [pmf]
    for i in range(k):
        q = q_RK[:, i : i + 1]
        following = pmf * (1 - q)
        following[:, 1:] += pmf[:, :-1] * q
        pmf = following
        partial.append(pmf)
    return partial
