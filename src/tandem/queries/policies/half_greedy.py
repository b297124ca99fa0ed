"""Half-greedy questions: each atom is asked about whole, by half, or not at all.

Letters: B states searched side by side, R rows, T pairs of a row and an atom in it, A atoms, G groups of rows, Q shares (none, half, whole),
S shifts from one share to another, X counts 0 … K, and C codes: K + 1 times the objects in whole atoms, plus those in halved ones.
"""

from dataclasses import dataclass, field
from functools import cache
from math import log2
from typing import ClassVar

import numpy as np

from tandem.queries.answers import Answers, information
from tandem.queries.constraints import Constraints, NothingToAskError, refuse
from tandem.queries.measures import binomial_pmf, dyadic_bits, entropy_bits, sums
from tandem.queries.policies.limits import Limits, limited
from tandem.queries.policies.refine import groups_by_count, refined
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats, Integers
from tandem.queries.region import Region
from tandem.queries.table import runs_of

NONE, HALF, WHOLE = 0, 1, 2
HALF_COST = 1e-7  # bits for each that halves leave open; breaks ties against cuts, which make new atoms
ENOUGH = 1e-4  # bits; a move that gains less is not worth its time
TELLS_NOTHING = 1e-12  # bits
MAX_WORK = (
    2**21
)  # numbers that all changes of one state are scored from; more would take longer than a question is worth
MAX_ATOMS = 512


@dataclass(frozen=True)
class HalfGreedyPolicy:
    """Asks the set that is worth most among those that take of every atom a share q ∈ {0, ½, 1}: the default.

    A = argmax I(θ; Y | y_1 … y_n) + ahead · min(H(C | Y, y_1 … y_n), log2(k + 1)), where I is H(X) for exact answers and C says how
    many objects each atom holds after the question. Once that is known, no question reveals more than the dyadic D_k = H(Bin(k, ½))
    bits; what is open of it lets the next question reveal more, up to what an answer can carry. All ½ is among
    the choices, so that while atoms can be halved a question reveals at least D_k bits with ahead = 0, and otherwise at least
    D_k - ahead · log2(k + 1). The best set is looked for by steepest ascent from random starts: the count in a row depends only on
    how many objects its whole and its halved atoms hold, so all changes of one atom, of all starts, are scored together.

    >>> from tandem.queries import Prior, Session
    >>> session = Session(Prior.uniform(8, k=2), policy=HalfGreedyPolicy())
    >>> session.ask().ranges
    ((4, 8),)

    Attributes:
        restarts: random starts beside the one from all halves.
        constraints: sizes and forbidden cells are kept; atoms of which only a part may be taken are cut there first.
        ahead: what a bit is worth that stays open for the next question; 0 asks what reveals most now.
    Raises:
        ValueError: ahead is not in [0, 1), restarts is below 1, or a constraint is one of form.
    """

    restarts: int = 2
    constraints: Constraints = field(default_factory=Constraints)
    ahead: float = 0.1

    honors: ClassVar[frozenset[str]] = frozenset({"smallest", "largest", "forbidden"})

    def __post_init__(self):
        refuse(self, self.constraints)
        if self.restarts < 1:
            raise ValueError(
                f"restarts={self.restarts} leaves all halves alone, from where no climb leads; use 1 or more"
            )
        if not 0 <= self.ahead < 1:
            raise ValueError(f"ahead={self.ahead} bits are not what a bit is worth; use 0 or more, below 1")

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        region = best_beside(posterior, [], self.constraints, self.restarts, rng, self.ahead)
        if region is None:
            raise NothingToAskError("no question tells apart what is still possible; such answers cannot say more")
        return [region]

    def beside(self, posterior: Posterior, asked: list[Region], rng: np.random.Generator) -> Region | None:
        """One question more, while those asked have no answer yet; None when it would reveal nothing, or there is too much open."""
        return best_beside(posterior, asked, self.constraints, self.restarts, rng, self.ahead)


def best_beside(
    posterior: Posterior,
    asked: list[Region],
    constraints: Constraints,
    restarts: int,
    rng: np.random.Generator,
    ahead: float = 0.0,
) -> Region | None:
    """The question that reveals most beside those asked, whose answers are open: argmax H(X | X_{asked}).

    With `ahead` it is the one worth most, see `HalfGreedyPolicy`.

    Where there are too many atoms for a search, half of each, which reveals the dyadic D_k; where open questions make them, none:
    halves on halves would make still more, and an answer to one of those asked makes them fewer.
    """
    search = HalfSearch.of(posterior, asked, constraints, ahead)
    if search.too_large and not constraints.used:
        return None if asked else halves(posterior, rng)
    state_BA = search.starts(restarts, rng)
    if not search.too_large:
        state_BA = search.ascend(state_BA)
    bits_B, regions = search.bits(state_BA), None
    if not asked and (search.uneven or search.limits is not None):
        # Halves of few cells, of lumpy weights or of distinct objects are not quite halves, and sets made to fit limits are not
        # those that were scored: compare what they really give.
        regions = [search.region(state_A) for state_A in state_BA]
        count_BX = np.stack([posterior.count_distribution(region) for region in regions])
        bits_B = information(search.f_XY, count_BX, search.noise_X)
    if bits_B.max() < TELLS_NOTHING:
        return None
    worth_B = np.where(bits_B < TELLS_NOTHING, -np.inf, search.worth(bits_B, (state_BA == HALF) @ search.halving_A))
    best = int(np.argmax(worth_B))
    return search.region(state_BA[best]) if regions is None else regions[best]


def halves(posterior: Posterior, rng: np.random.Generator) -> Region:
    """Half of every atom, of those of one cell a random half."""
    partition = posterior.engine.partition
    single = np.where(rng.random(partition.atoms) < 0.5, partition.size, 0)
    return partition.part(np.where(partition.size == 1, single, partition.upper))


class HalfSearch:
    """The rows of a posterior, prepared to score sets of whole and halved atoms.

    With groups of rows (what earlier questions of the same batch will tell apart) the score is the information within groups.
    """

    def __init__(
        self,
        rows: Rows,
        answers: Answers,
        group_R: Integers | None = None,
        limits: Limits | None = None,
        ahead: float = 0.0,
    ):
        self.limits, self.ahead = limits, ahead
        self.partition, self.k = rows.partition, rows.partition.prior.k
        self.runs, self.weight_R = runs_of(rows.ids_RK), rows.weight_R
        self.group_R = np.zeros(len(self.weight_R), dtype=np.int64) if group_R is None else group_R
        self.groups = int(self.group_R.max()) + 1
        mass_G = sums(self.group_R, self.weight_R, self.groups)
        # The information of counts with a total of P is P times that of the distribution, up to this: Σ P log2 1/P.
        self.offset = float(entropy_bits(mass_G))
        self.f_XY = answers.matrix(self.k)
        self.noise_X = entropy_bits(self.f_XY)
        self.single_A = self.partition.size == 1
        self.codes = (self.k + 1) ** 2
        work = self.partition.atoms**2 * self.groups * self.codes
        self.too_large = self.partition.atoms > MAX_ATOMS or (self.groups > 1 and work > MAX_WORK)
        self.uneven = self.partition.prior.digits is None
        self.step_Q = np.array([0, 1, self.k + 1])  # what an object adds to the code of a row, by its atom's share
        bins_T = self.runs.atom * self.groups + self.group_R[self.runs.row]
        bins_QT = bins_T + np.arange(3)[:, None] * self.partition.atoms * self.groups
        self.added_QT = bins_QT * self.codes + self.step_Q[:, None] * self.runs.count
        weight_T = self.weight_R[self.runs.row]
        self.weight_QT = np.tile(weight_T, (3, 1))
        # How many bits more there are to know about rows once an atom is halved, and how many there are already within groups.
        split_X = np.array([dyadic_bits(count) for count in range(self.k + 1)])
        self.halving_A = sums(self.runs.atom, weight_T * split_X[self.runs.count], self.partition.atoms)
        self.open = float(entropy_bits(self.weight_R)) - self.offset
        self.most_open = log2(self.k + 1)  # more open than the next answer can carry helps less, and makes tables long

    @classmethod
    def of(
        cls, posterior: Posterior, asked: list[Region], constraints: Constraints, ahead: float = 0.0
    ) -> "HalfSearch":
        """A search for one question more beside those asked, whose answers are open."""
        if constraints.used:
            rows, limits = limited(posterior, asked, constraints)
        else:
            rows, limits = refined(posterior, asked) if asked else posterior.rows(), None
        return cls(rows, posterior.answers, groups_by_count(rows, asked), limits, ahead)

    def starts(self, restarts: int, rng: np.random.Generator) -> Integers:
        """All halves (cells that cannot be halved at random); then random wholes, then random shares of all three kinds; shape (B, A)."""
        atoms = self.partition.atoms
        states = [np.where(self.single_A, WHOLE * rng.integers(2, size=atoms), HALF)]
        for restart in range(restarts):
            state = rng.integers(3, size=atoms) if restart % 2 else WHOLE * rng.integers(2, size=atoms)
            states.append(np.where(self.single_A & (state == HALF), WHOLE, state))
        if self.limits is None and not np.array_equal(self.f_XY, np.eye(self.k + 1)):
            # Of counts that an answer does not tell apart, such as many from one, every start may hold too many; then none gains.
            states.append(np.full(atoms, NONE))
        if self.limits is not None:
            states += [np.full(atoms, NONE), np.full(atoms, WHOLE)]
            states = [self._within(state_A, self.limits, rng) for state_A in states]
        elif not self.partition.prior.k_known:
            states.append(np.full(atoms, WHOLE))  # the question that counts all objects
        return np.stack(states)

    def bits(self, state_BA: Integers) -> Floats:
        """What the states reveal, shape (B,)."""
        return self._bits(self._counts(self._codes(state_BA)[1]))

    def worth(self, bits: Floats, halving: Floats) -> Floats:
        """Bits that a question reveals, and what those that stay open are worth ahead; `halving` is the sum over halved atoms."""
        left = np.minimum(self.left_open(bits, halving), self.most_open)
        return bits + self.ahead * left - HALF_COST * halving

    def left_open(self, bits: Floats, halving: Floats) -> Floats:
        """Bits about which row it is that are open after the answer, on average."""
        return self.open + halving - bits

    def ascend(self, state_BA: Integers) -> Integers:
        """Changes one atom of each state after another, the best change first, until none gains; the states then."""
        state_BA, rising = state_BA.copy(), np.arange(len(state_BA))
        for _ in range(4 * self.partition.atoms + 4):
            now_B, gain_BSA = self.scores(state_BA[rising])
            if self.limits is not None:
                gain_BSA = np.where(self._keeps(state_BA[rising], self.limits), gain_BSA, -np.inf)
            gain_BN = gain_BSA.reshape(len(rising), -1)
            choice_B = gain_BN.argmax(1)
            gains = gain_BN[np.arange(len(rising)), choice_B] >= now_B + ENOUGH
            if not gains.any():
                break
            rising = rising[gains]
            shift_B, atom_B = np.divmod(choice_B[gains], self.partition.atoms)
            state_BA[rising, atom_B] = (state_BA[rising, atom_B] + shift_B + 1) % 3
        return state_BA

    def scores(self, state_BA: Integers) -> tuple[Floats, Floats]:
        """Worth of states, shape (B,), and of each state in which one atom's share is the next but `shift`, shape (B, 2, A)."""
        code_BT, code_BR = self._codes(state_BA)
        count_BGX = self._counts(code_BR)
        share_BSA = (state_BA[:, None] + np.arange(3)[:, None]) % 3  # the state itself, then shifted by 1 and 2
        share_BSAGX = self._shares(code_BR[:, self.runs.row] - code_BT, share_BSA)
        changed_BSAGX = count_BGX[:, None, None] + share_BSAGX[:, 1:] - share_BSAGX[:, :1]
        changed_BNGX = np.maximum(changed_BSAGX, 0.0).reshape(len(state_BA), -1, *count_BGX.shape[1:])
        bits_BN = self._bits(np.concatenate([count_BGX[:, None], changed_BNGX], axis=1))
        half_BSA = share_BSA == HALF
        halving_B = half_BSA[:, 0] @ self.halving_A
        change_BSA = (half_BSA[:, 1:] - 1.0 * half_BSA[:, :1]) * self.halving_A
        bits_BSA = bits_BN[:, 1:].reshape(-1, 2, self.partition.atoms)
        worth_BSA = self.worth(bits_BSA, halving_B[:, None, None] + change_BSA)
        worth_BSA[self.single_A & half_BSA[:, 1:]] = -np.inf
        return self.worth(bits_BN[:, 0], halving_B), worth_BSA

    def _bits(self, count_GX: Floats) -> Floats:
        """What the question reveals within groups; the last two axes of the counts go."""
        return information(self.f_XY, count_GX, self.noise_X).sum(-1) - self.offset

    def _codes(self, state_BA: Integers) -> tuple[Integers, Integers]:
        """What each atom of a row adds to the row's code, shape (B, T), and the codes of rows, shape (B, R)."""
        code_BT = self.step_Q[state_BA][:, self.runs.atom] * self.runs.count
        return code_BT, _sums_by_state(self.runs.row, code_BT, len(self.weight_R)).astype(np.int64)

    def _counts(self, code_BR: Integers) -> Floats:
        """Σ over a group's rows of P(X | row), shape (B, G, X)."""
        key_BR = self.group_R * self.codes + code_BR
        held_BC = _sums_by_state(key_BR, self.weight_R, self.groups * self.codes)
        return (held_BC.reshape(-1, self.codes) @ counts_of_codes(self.k)).reshape(-1, self.groups, self.k + 1)

    def _shares(self, others_BT: Integers, share_BSA: Integers) -> Floats:
        """Σ over a group's rows that have an atom of P(X | row), were the atom's share this one, shape (B, S, A, G, X).

        `others_BT` is what the other atoms of a row add to its code.
        """
        states, atoms = len(others_BT), self.partition.atoms
        key_BQT = others_BT[:, None] + self.added_QT
        held_BC = _sums_by_state(key_BQT, self.weight_QT, 3 * atoms * self.groups * self.codes)
        count_NGX = (held_BC.reshape(-1, self.codes) @ counts_of_codes(self.k)).reshape(-1, self.groups, self.k + 1)
        return count_NGX[(np.arange(states)[:, None, None] * 3 + share_BSA) * atoms + np.arange(atoms)]

    def _cells(self, state_A: Integers) -> Integers:
        return np.choose(state_A, [0 * self.partition.size, self.partition.upper, self.partition.size])

    def _keeps(self, state_BA: Integers, limits: Limits) -> np.ndarray:
        """Whether each state in which one atom's share is the next but `shift` is within limits, shape (B, 2, A)."""
        cells_BA = self._cells(state_BA)[:, None]
        changed_BSA = np.stack([self._cells((state_BA + shift) % 3) for shift in (1, 2)], axis=1)
        total_BSA = cells_BA.sum(-1, keepdims=True) + changed_BSA - cells_BA
        return (changed_BSA <= limits.most_A) & (limits.least <= total_BSA) & (total_BSA <= limits.most)

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


@cache
def counts_of_codes(k: int) -> Floats:
    """P(X | code): objects in whole atoms count, those in halved ones count with probability ½ each; shape (C, X)."""
    width = k + 1
    count_WHX = np.zeros((width, width, width))
    for whole in range(width):
        for half in range(width - whole):
            count_WHX[whole, half, whole : whole + half + 1] = binomial_pmf(half, 0.5)
    return count_WHX.reshape(-1, width)


def _sums_by_state(key: Integers, weight: np.ndarray, size: int) -> Floats:
    """`sums` of each state, shape (B, size); keys or weights without an axis B are the same in every state."""
    shape = key.shape if key.ndim > weight.ndim else weight.shape
    keys, weights = np.empty(shape, dtype=np.int64), np.empty(shape)  # np.broadcast_to takes longer
    keys[...], weights[...] = key, weight
    keys_BN = keys.reshape(len(keys), -1)
    keys_BN += np.arange(0, len(keys) * size, size)[:, None]
    return sums(keys_BN.ravel(), weights.ravel(), len(keys) * size).reshape(-1, size)
