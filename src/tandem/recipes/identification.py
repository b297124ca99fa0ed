"""How many questions it takes to identify k objects among many cells, and how long a question takes. Start at `measure_searches`.

Beside half-greedy stand what sequential bifurcation needs, H0 / log2(k + 1), which is a bound that no policy reaches, and where
the project holds itself to one, a goal.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tandem.queries import HalfGreedyPolicy, Posterior, Prior, Session

SEARCHES = ((2**20, 2), (2**20, 3), (2**20, 5), (2**10, 10))
GOALS = {(2**20, 2): (26.9, 5.0), (2**20, 3): (31.7, 5.0), (2**20, 5): (41.4, 5.0), (2**10, 10): (28.9, 80.0)}
"""By cells and objects: the most questions on average and the most milliseconds a question that are good enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRow:
    """Random searches for k objects.

    Attributes:
        questions: of each search. milliseconds: the median time to ask, tell and see whether the search is done.
        bifurcation: mean questions of sequential bifurcation, exact. bound: H0 / log2(k + 1).
    """

    cells: int
    k: int
    questions: tuple[int, ...]
    milliseconds: float
    bifurcation: float
    bound: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.questions)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return statistics.stdev(self.questions) / len(self.questions) ** 0.5

    def cells_of_table(self) -> list[str]:
        """Cells, k, questions with error and goal, milliseconds with goal, bifurcation, bound."""
        most, slowest = GOALS[self.cells, self.k]
        return [
            f"2^{self.cells.bit_length() - 1}",
            str(self.k),
            f"{self.mean:.2f} ± {self.error:.2f} (≤ {most:g})",
            f"{self.milliseconds:.1f} (≤ {slowest:g})",
            f"{self.bifurcation:.1f}",
            f"{self.bound:.1f}",
        ]

    def plain(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        return {**asdict(self), "mean": self.mean, "error": self.error, "goal": list(GOALS[self.cells, self.k])}


def measure_searches(trials: int, seed: int = 0) -> Iterator[SearchRow]:
    """Searches by half-greedy questions; a quarter of `trials` for 10 objects, 2 at least.

    Raises:
        ValueError: fewer than 2 trials, or a seed below 0.
        AssertionError: a search ended with other objects than there were.
    """
    if trials < 2:
        raise ValueError(f"trials={trials} is below 2; use 2 or more, 200 for the documented rows")
    if seed < 0:
        raise ValueError(f"seed={seed} is below 0; use 0 or more")
    for cells, k in SEARCHES:
        yield measure_search(cells, k, trials if k < 10 else max(2, trials // 4), seed)


def measure_search(cells: int, k: int, trials: int, seed: int = 0) -> SearchRow:
    """Searches for k random objects among 2^L cells."""
    prior, times, questions = Prior.uniform(cells, k=k), [], []
    for trial in range(trials):
        truth = np.sort(np.random.default_rng([seed, k, trial]).integers(cells, size=k))
        session = Session(prior, policy=HalfGreedyPolicy(), seed=trial)
        done = session.done
        while not done:
            start = time.perf_counter()
            answer = session.ask().count(truth)
            session.tell(answer)
            done = session.done
            times.append(time.perf_counter() - start)
        assert session.answer == tuple(truth.tolist())
        questions.append(session.questions)
    return SearchRow(
        cells=cells,
        k=k,
        questions=tuple(questions),
        milliseconds=statistics.median(times) * 1e3,
        bifurcation=bifurcation_questions(cells, k),
        bound=Posterior(prior).entropy() / np.log2(k + 1),
    )


def bifurcation_questions(cells: int, k: int) -> float:
    """Mean questions of sequential bifurcation on 2^L cells: Σ_l 2^l (1 - (1 - 2^-l)^k), over the segments that hold an object.

    >>> round(bifurcation_questions(1024, 2), 3)
    18.002
    """
    parts = 2.0 ** np.arange(cells.bit_length() - 1)
    return float((parts * (1 - (1 - 1 / parts) ** k)).sum())
