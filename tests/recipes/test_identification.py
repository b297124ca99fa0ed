"""The bench of searches: its bounds and its rows."""

import numpy as np
import pytest

from tandem.queries import Prior, SequentialBifurcation, Session
from tandem.recipes.identification import GOALS, SEARCHES, bifurcation_questions, measure_search, measure_searches


def test_every_search_has_a_goal():
    assert set(SEARCHES) == set(GOALS)


@pytest.mark.parametrize(
    ("cells", "k", "mean"), [(64, 2, 10.0312), (64, 3, 13.4268), (1024, 5, 38.705), (2**20, 5, 88.686)]
)
def test_bifurcation_needs_what_its_sum_says(cells: int, k: int, mean: float):
    assert bifurcation_questions(cells, k) == pytest.approx(mean, abs=1e-3)


def test_bifurcation_by_trying_all_places():
    prior, needed = Prior.uniform(8, k=2), []
    for a, b in np.ndindex(8, 8):
        session = Session(prior, policy=SequentialBifurcation())
        while not session.done:
            session.tell(session.ask().count([a, b]))
        needed.append(session.questions)
    assert np.mean(needed) == pytest.approx(bifurcation_questions(8, 2))


def test_a_row_lies_between_the_bound_and_bifurcation():
    row = measure_search(2**20, 2, trials=5)
    assert row.bound < row.mean < row.bifurcation
    assert row.bound == pytest.approx(39 / np.log2(3), abs=1e-3)
    cells = row.cells_of_table()
    assert cells[:2] == ["2^20", "2"]
    assert cells[2].endswith("(≤ 26.9)")
    assert row.plain()["questions"] == row.questions


def test_one_trial_has_no_error():
    with pytest.raises(ValueError, match="trials=1 is below 2; use 2 or more"):
        list(measure_searches(1))
    with pytest.raises(ValueError, match="seed=-1 is below 0; use 0 or more"):
        list(measure_searches(2, -1))
