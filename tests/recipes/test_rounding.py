"""Rows of the bench: which way their ratios go, and that they are of the work they name."""

import importlib.util

import pytest
from recipe_toys import toy_hybrid

from tandem.recipes.rounding import FORMATS, Cost, measure_quantizer, measure_steps


def test_a_ratio_is_ours_by_the_other_or_the_other_by_ours():
    cost = Cost(name="P5", seconds=(0.2, 0.3, 0.2), other=(0.1, 0.1, 0.1))
    assert cost.cells(slower=True) == ["P5", "200.0", "100.0", "2.00 (2.00–3.00)"]
    assert cost.cells(slower=False) == ["P5", "200.0", "100.0", "0.50 (0.33–0.50)"]


def test_without_a_peer_there_is_no_ratio():
    assert Cost(name="E4M3", seconds=(0.002,), other=None).cells(slower=False) == ["E4M3", "2.0", "not installed", ""]


def test_steps_are_timed_with_the_papers_operands_and_with_all():
    rows = measure_steps(toy_hybrid(), block=8, pairs=2)
    assert [row.name for row in rows] == ["P2, P4, P6", "P1, P2, P3, P4, P5, P6"]
    assert all(len(row.seconds) == len(row.other or ()) == 2 and min(row.seconds) > 0 for row in rows)


@pytest.mark.skipif(
    importlib.util.find_spec("qtorch") is not None, reason="qtorch is compiled first, which takes a minute"
)
def test_the_quantizer_is_timed_without_its_peer_too():
    rows = measure_quantizer(pairs=1)
    assert [row.name for row in rows] == list(FORMATS)
    assert all(row.other is None for row in rows)
