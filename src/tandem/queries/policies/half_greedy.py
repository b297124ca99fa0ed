"""Half-greedy questions: each atom is asked about whole, by half, or not at all.

Letters: R rows, T pairs of a row and an atom in it, A atoms, G groups of rows, O objects in whole atoms, H objects in halved atoms,
X counts 0 … K.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tandem.queries.answers import Answers, information
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.measures import binomial_pmf, entropy_bits, sums
from tandem.queries.policies.limits import Limits, limited
from tandem.queries.policies.refine import groups_by_count, refined
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region
from tandem.queries.table import runs_of

NONE, HALF, WHOLE = 0, 1, 2
HALF_COST = 1e-7  # bits; breaks ties against cuts, which make new atoms
ENOUGH = 1e-4  # bits; a move that gains less is not worth its time
TELLS_NOTHING = 1e-12  # bits
MAX_WORK = (
    2**21
)  # numbers that all changes of one state are scored from; more would take longer than a question is worth
MAX_ATOMS = 512
MAX_SEGMENTS = 2**14


@dataclass(frozen=True)
class HalfGreedyPolicy:
    """Asks the set that reveals most among those that take of every atom a share q ∈ {0, ½, 1}: the default.

    A = argmax I(θ; Y | y_1 … y_n), which is H(X) for exact answers. All ½ is among the choices, so that while atoms can be halved
    a question reveals at least the dyadic D_k = H(Bin(k, ½)) bits. The best set is looked for by steepest ascent from random
    starts: the count in a row depends only on how many objects its whole and its halved atoms hold, so all changes of one atom
    are scored together.

    >>> from tandem.queries import Prior, Session
    >>> session = Session(Prior.uniform(8, k=2), policy=HalfGreedyPolicy())
    >>> session.ask().ranges
    ((4, 8),)

    Attributes:
        restarts: random starts beside the one from all halves.
        constraints: sizes and forbidden cells are kept; atoms of which only a part may be taken are cut there first.
    """

    restarts: int = 2
    constraints: Constraints = field(default_factory=Constraints)

    honors: ClassVar[frozenset[str]] = frozenset({"smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        region = best_beside(posterior, [], self.constraints, self.restarts, rng)
        if region is None:
            raise NothingToAskError("no question tells apart what is still possible; such answers cannot say more")
        return [region]

    def beside(self, posterior: Posterior, asked: list[Region], rng: np.random.Generator) -> Region | None:
        """One question more, while those asked have no answer yet; None when it would reveal nothing."""
        return best_beside(posterior, asked, self.constraints, self.restarts, rng)


def best_beside(
    posterior: Posterior, asked: list[Region], constraints: Constraints, restarts: int, rng: np.random.Generator
) -> Region | None:
    """The question that reveals most beside those asked, whose answers are open: argmax H(X | X_{asked}).

    Where there are too many atoms for a search, or open questions would make them, half of each: its count does not depend
    on theirs, and it reveals the dyadic D_k.
    """
    search = HalfSearch.of(posterior, asked, constraints)
    if search.too_large and not constraints.used:
        return halves(posterior, asked, rng)
    climb = search.score if search.too_large else search.ascend
    found = [climb(state_A) for state_A in search.starts(restarts, rng)]
    best = max(found, key=lambda pair: pair[1])
    if best[1] < TELLS_NOTHING:
        return None
    if asked or (not search.uneven and search.limits is None):
        return search.region(best[0])
    # Halves of few cells, of lumpy weights or of distinct objects are not quite halves, and sets made to fit limits are not
    # those that were scored: compare what they really give.
    regions = [search.region(state_A) for state_A, _ in found]
    f_XY = posterior.answers.matrix(posterior.prior.k)
    bits = [float(information(f_XY, posterior.count_distribution(region))) for region in regions]
    return regions[int(np.argmax(bits))] if max(bits) >= TELLS_NOTHING else None


def halves(posterior: Posterior, asked: list[Region], rng: np.random.Generator) -> Region | None:
    """Half of every atom, of those of one cell a random half; None when open questions make too many."""
    partition = posterior.engine.partition
    for region in asked:
        partition = partition.cut(region)
        partition = partition.keep(np.flatnonzero(partition.size > 0))
        if len(partition.edges) > MAX_SEGMENTS:
            return None  # an answer to one of those asked will make them fewer
    single = np.where(rng.random(partition.atoms) < 0.5, partition.size, 0)
    return partition.part(np.where(partition.size == 1, single, partition.upper))


class HalfSearch:
    """The rows of a posterior, prepared to score sets of whole and halved atoms.

    With groups of rows (what earlier questions of the same batch will tell apart) the score is the information within groups.
    """

    def __init__(self, rows: Rows, answers: Answers, group_R: Integers | None = None, limits: Limits | None = None):
        self.limits = limits
        self.partition, self.k = rows.partition, rows.partition.prior.k
        self.runs, self.weight_R = runs_of(rows.ids_RK), rows.weight_R
        self.group_R = np.zeros(len(self.weight_R), dtype=np.int64) if group_R is None else group_R
        self.groups = int(self.group_R.max()) + 1
        mass_G = sums(self.group_R, self.weight_R, self.groups)
        # The information of counts with a total of P is P times that of the distribution, up to this: Σ P log2 1/P.
        self.offset = float(entropy_bits(mass_G))
        self.weight_T = self.weight_R[self.runs.row]
        self.f_XY = answers.matrix(self.k)
        self.single_A = self.partition.size == 1
        work = self.partition.atoms**2 * self.groups * (self.k + 1) ** 2
        self.too_large = self.partition.atoms > MAX_ATOMS or (self.groups > 1 and work > MAX_WORK)
        self.uneven = self.partition.prior.digits is None
        width = self.k + 1
        self.count_OHX = np.zeros((width, width, width))
        for o in range(width):
            for h in range(width - o):
                self.count_OHX[o, h, o : o + h + 1] = binomial_pmf(h, 0.5)

    @classmethod
    def of(cls, posterior: Posterior, asked: list[Region], constraints: Constraints) -> "HalfSearch":
        """A search for one question more beside those asked, whose answers are open."""
        if constraints.used:
            rows, limits = limited(posterior, asked, constraints)
        else:
            rows, limits = refined(posterior, asked) if asked else posterior.rows(), None
        return cls(rows, posterior.answers, groups_by_count(rows, asked), limits)

    def starts(self, restarts: int, rng: np.random.Generator) -> list[Integers]:
        """All halves (cells that cannot be halved at random); then random wholes, then random shares of all three kinds."""
        atoms = self.partition.atoms
        states = [np.where(self.single_A, WHOLE * rng.integers(2, size=atoms), HALF)]
        for restart in range(restarts):
            state = rng.integers(3, size=atoms) if restart % 2 else WHOLE * rng.integers(2, size=atoms)
            states.append(np.where(self.single_A & (state == HALF), WHOLE, state))
        if self.limits is not None:
            states += [np.full(atoms, NONE), np.full(atoms, WHOLE)]
            return [self._within(state_A, self.limits, rng) for state_A in states]
        if self.partition.prior.k_known:
            return states
        return [*states, np.full(atoms, WHOLE)]  # the question that counts all objects

    def score(self, state_A: Integers) -> tuple[Integers, float]:
        """The state as it is, and its bits."""
        pairs = self._held(state_A[self.runs.atom] == WHOLE), self._held(state_A[self.runs.atom] == HALF)
        key_R = (self.group_R * (self.k + 1) + pairs[0]) * (self.k + 1) + pairs[1]
        held = sums(key_R, self.weight_R, self.groups * (self.k + 1) ** 2).reshape(self.groups, -1)
        count_GX = held @ self.count_OHX.reshape(-1, self.k + 1)
        return state_A, float(information(self.f_XY, count_GX).sum()) - self.offset

    def ascend(self, state_A: Integers) -> tuple[Integers, float]:
        """Changes one atom after another, the best change first, until none gains; the state and its bits."""
        state_A, best = state_A.copy(), -np.inf
        for _ in range(4 * self.partition.atoms + 4):
            now, gain_SA = self.scores(state_A)
            if self.limits is not None:
                gain_SA = np.where(self._keeps(state_A, self.limits), gain_SA, -np.inf)
            best = now
            choice = int(np.argmax(gain_SA))
            shift, atom = divmod(choice, self.partition.atoms)
            if gain_SA[shift, atom] < now + ENOUGH:
                break
            state_A[atom] = (state_A[atom] + shift + 1) % 3
        return state_A, best

    def scores(self, state_A: Integers) -> tuple[float, Floats]:
        """Bits of a state, and of each state in which one atom's share is the next but `shift`, shape (2, A)."""
        width, atoms, runs = self.k + 1, self.partition.atoms, self.runs
        state_T = state_A[runs.atom]
        whole_R, half_R = self._held(state_T == WHOLE), self._held(state_T == HALF)
        key_R = (self.group_R * width + whole_R) * width + half_R
        held = sums(key_R, self.weight_R, self.groups * width * width)
        count_GX = held.reshape(-1, width * width) @ self.count_OHX.reshape(-1, width)
        whole_T = whole_R[runs.row] - np.where(state_T == WHOLE, runs.count, 0)
        half_T = half_R[runs.row] - np.where(state_T == HALF, runs.count, 0)
        kinds = [self._with(whole_T, half_T, runs.count, kind) for kind in (NONE, HALF, WHOLE)]
        kinds_AGX = np.stack(kinds)
        now_AGX = kinds_AGX[state_A, np.arange(atoms)]
        scores = []
        for shift in (1, 2):
            kind_A = (state_A + shift) % 3
            changed_AGX = count_GX + kinds_AGX[kind_A, np.arange(atoms)] - now_AGX
            bits_A = information(self.f_XY, np.maximum(changed_AGX, 0.0)).sum(-1)
            bits_A -= HALF_COST * ((kind_A == HALF) - 1.0 * (state_A == HALF))
            scores.append(np.where(self.single_A & (kind_A == HALF), -np.inf, bits_A))
        known = self.offset + HALF_COST * np.count_nonzero(state_A == HALF)
        return float(information(self.f_XY, count_GX).sum()) - known, np.stack(scores) - known

    def _held(self, chosen_T: np.ndarray) -> Integers:
        """How many objects each row has in the chosen atoms."""
        runs = self.runs
        return sums(runs.row[chosen_T], runs.count[chosen_T], len(self.weight_R)).astype(np.int64)

    def _with(self, whole_T: Integers, half_T: Integers, count_T: Integers, kind: int) -> Floats:
        """Σ over a group's rows that have the atom of P(X | row), were the atom's share of this kind, shape (A, G, X)."""
        width = self.k + 1
        whole, half = whole_T + (count_T if kind == WHOLE else 0), half_T + (count_T if kind == HALF else 0)
        key = ((self.runs.atom * self.groups + self.group_R[self.runs.row]) * width + whole) * width + half
        held = sums(key, self.weight_T, self.partition.atoms * self.groups * width * width)
        return held.reshape(-1, self.groups, width * width) @ self.count_OHX.reshape(-1, width)

    def _cells(self, state_A: Integers) -> Integers:
        return np.choose(state_A, [0 * self.partition.size, self.partition.upper, self.partition.size])

    def _keeps(self, state_A: Integers, limits: Limits) -> np.ndarray:
        """Whether each state in which one atom's share is the next but `shift` is within limits, shape (2, A)."""
        cells_A = self._cells(state_A)
        changed_SA = np.stack([self._cells((state_A + shift) % 3) for shift in (1, 2)])
        total_SA = cells_A.sum() + changed_SA - cells_A
        return (changed_SA <= limits.most_A) & (limits.least <= total_SA) & (total_SA <= limits.most)

    def _within(self, state_A: Integers, limits: Limits, rng: np.random.Generator) -> Integers:
        """A state within limits, or as near as shares of three kinds allow, by changes of atoms in random order."""
        state_A = np.where(limits.most_A > 0, state_A, NONE)
        for atom in rng.permutation(self.partition.atoms):
            total = int(self._cells(state_A).sum())
            free = total - int(self._cells(state_A)[atom])
            if total > limits.most:
                state_A[atom] = NONE
            elif total < limits.least and free + int(limits.most_A[atom]) <= limits.most and limits.most_A[atom]:
                state_A[atom] = WHOLE
        return state_A

    def region(self, state_A: Integers) -> Region:
        """The cells of whole atoms and the upper halves of halved ones."""
        if self.limits is None:
            return self.partition.part(self._cells(state_A))
        return self.limits.region(self.limits.fitted(self._cells(state_A), np.arange(self.partition.atoms)))
