"""The panels of a sweep over formats hold the numbers they were given."""

from typing import Any

import numpy as np
import pytest

from tandem.report import formats_figure, png


def row(width: int, D: int, loss: float, format: str | None = None, seed: int = 0) -> dict[str, Any]:
    block = 64 if format else None
    return {"width": width, "D": D, "format": format, "block": block, "seed": seed, "loss": loss}


ROWS = [
    row(64, 2048, 5.0),
    row(64, 4096, 4.0),
    row(64, 4096, 4.4, "E1M1"),
    row(64, 4096, 4.1, "E4M3"),
    row(64, 2048, 5.5, "E1M1"),
    row(64, 4096, 9.0, seed=1),
]
PREDICTED = [{"format": "E1M1", "loss": 4.4, "unseen": 4.5}, {"format": "BF16", "loss": 4.0, "unseen": 3.9}]


def test_lines_go_from_few_tokens_to_many():
    lines = [line.get_data() for line in formats_figure(ROWS, {}, []).axes[0].get_lines()]
    drawn = [(np.asarray(x).tolist(), np.asarray(y).tolist()) for x, y in lines]
    assert drawn[:2] == [([2048, 4096], [5.0, 4.0]), ([2048, 4096], [5.5, 4.4])]


def test_bars_are_means_of_seeds():
    axes = formats_figure(ROWS, {"P1": [0.1], "P5 P6": [0.2, 0.4]}, []).axes[1]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, 0.3])  # pyright: ignore[reportAttributeAccessIssue]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["P1", "P5\nP6"]


def test_formats_stand_at_their_bits_and_the_line_is_the_first_seed():
    axes = formats_figure(ROWS, {}, []).axes[2]
    drawn = sorted(
        (float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])) for line in axes.get_lines()
    )
    assert drawn == [(0, 4.0), (3, 4.4), (8, 4.1)]
    assert {text.get_text() for text in axes.texts} >= {"E1M1", "E4M3"}


def test_predictions_stand_against_what_was_measured():
    axes = formats_figure(ROWS, {"P1": [0.1]}, PREDICTED).axes[3]
    drawn = [tuple(float(np.asarray(data)[0]) for data in line.get_data()) for line in axes.get_lines()[:2]]
    assert drawn == [(4.4, 4.5), (4.0, 3.9)]


def test_a_sweep_that_determines_no_law_is_drawn_all_the_same():
    figure = formats_figure(ROWS, {"P1": [0.1]}, [])
    assert "these runs do not determine the law" in {text.get_text() for text in figure.axes[3].texts}
    assert png(figure)[:4] == b"\x89PNG"
