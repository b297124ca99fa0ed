"""A run directory read for the report: one axis for rows of every kind."""

from pathlib import Path

import pytest

from tandem.report.metrics import MetricsWriter
from tandem.report.run import read_run


@pytest.mark.parametrize(("step", "tokens"), [(10, 1000), (15, 1500), (20, 2000), (25, 2000)])
def test_a_validation_row_lies_where_its_step_does(step: int, tokens: int, tmp_path: Path):
    """Its own count is of the tokens it scored; a step that training did not log lies between those that it did."""
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for logged in (10, 20):
            metrics.write(step=logged, kind="train", loss=1.0, tokens=100 * logged)
        metrics.write(step=step, kind="validation", loss=1.0, tokens=77)
    run = read_run(tmp_path)
    assert run.last("validation", "tokens") == tokens
    assert [row["tokens"] for row in run.kind("train")] == [1000, 2000]
