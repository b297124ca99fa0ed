"""The panels hold the numbers they were given, at their places, and every model its look."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from tandem.report import png, study_figure
from tandem.report.study import Band, _looks


def figure(models: int, lengths: tuple[int, ...] = (256, 512)):
    names = [f"m{k}" for k in range(models)]
    band: Band = (0.5, 0.25, 0.75)
    runs = [[{"tokens": 60.0 * t, "loss": 5.0 - t + seed} for t in (1, 2, 3)] for seed in (0, 1)]
    return study_figure(
        curves=dict.fromkeys(names, runs),
        tokens_per_second={name: 1.0 + k for k, name in enumerate(names)},
        bits_per_byte={name: [2.0 + k, 3.0 + k] for k, name in enumerate(names)},
        times={name: dict.fromkeys(lengths, band) for name in names},
        found={name: dict.fromkeys((256.0, 512.0, 1024.0), band) for name in names},
        guess={256.0: 0.1, 512.0: 0.05, 1024.0: 0.02},
        changes={"v9": ([2.0, 3.0], [1.0, 2.0]), "mamba": ([4.0], [3.0])},
    )


def points(axes: Axes, axis: str) -> list[list[float]]:
    return [np.asarray(line.get_data()["xy".index(axis)]).tolist() for line in axes.get_lines()]


def test_time_is_tokens_over_speed():
    tokens, minutes = figure(2).axes[:2]
    assert points(tokens, "x") == [[60, 120, 180]] * 2
    assert points(minutes, "x") == [[1, 2, 3], pytest.approx([0.5, 1, 1.5])]
    mean_of_two_runs = points(minutes, "y")[0]
    assert mean_of_two_runs[0] == pytest.approx(4.5)


def test_columns_of_seeds_have_their_names_and_means():
    axes = figure(7).axes[2]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"m{k}" for k in range(7)]
    assert [note.get_text() for note in axes.texts] == [f"{2.5 + k:.3f}" for k in range(7)]


def test_bars_stand_in_pairs_under_their_schedule():
    axes = figure(2).axes[5]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["v9", "mamba"]
    heights = [bar.get_height() for bars in axes.containers for bar in bars]
    assert heights == [2.5, 4.0, 1.5, 3.0]


def test_seven_models_look_different():
    assert len({str(look) for look in _looks([f"m{k}" for k in range(7)]).values()}) == 7


@pytest.mark.parametrize("lengths", [(512,), (512, 2048, 4096)])
def test_it_is_drawn_at_one_length_and_at_many(lengths: tuple[int, ...]):
    drawn = figure(7, lengths)
    assert png(drawn).startswith(b"\x89PNG")
    assert [label.get_text() for label in drawn.axes[3].get_xticklabels()][-1] == ("512" if len(lengths) == 1 else "4K")
