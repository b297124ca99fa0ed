"""Pictures of questions hold the numbers they were given."""

import numpy as np
import pytest

from tandem.report import faces_figure, png, questions_figure, screening_figure, spread_figure


def test_a_panel_for_each_number_of_objects():
    curves = {
        k: {"policies": {"half-greedy": [9.0, 4.0 - k, 0.0]}, "dyadic": [9.0, 5.0], "bound": [9.0, 3.0]} for k in (2, 3)
    }
    figure = questions_figure(curves)
    for axes, k in zip(figure.axes, (2, 3), strict=False):
        drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}
        assert drawn == {"bound": [9.0, 3.0], "half-greedy": [9.0, 4.0 - k, 0.0], "dyadic": [9.0, 5.0]}
        assert str(k) in axes.get_title(loc="left")
    assert not figure.axes[0].get_ylim()[0]


def test_the_normal_density_stands_over_the_histogram():
    case = {"title": "k = 2", "edges": [-1.0, 0.0, 1.0], "heights": [0.4, 0.6], "distance": 0.1234}
    axes = spread_figure([case]).axes[0]
    x, y = (np.asarray(data) for data in axes.get_lines()[0].get_data())
    assert y.max() == pytest.approx(0.39894, abs=1e-5)
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-3)
    assert any("0.123" in text.get_text() for text in axes.texts)


def test_rankings_and_points_of_the_paper():
    lines = {"PR": {8: 2.5, 1024: 9.0}, "PR, noise 0.5": {8: 3.0, 1024: 13.0}}
    figure = screening_figure({"2 targets": lines}, {"2 targets": [(8, 2.8), (1024, 9.5)]})
    drawn = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in figure.axes[0].get_lines()}
    assert drawn == {
        "PR": [[8, 2.5], [1024, 9.0]],
        "PR, noise 0.5": [[8, 3.0], [1024, 13.0]],
        "paper, read off": [[8, 2.8], [1024, 9.5]],
    }


def test_faces_are_framed():
    picture = np.full((20, 20), 128, dtype=np.uint8)
    figure = faces_figure([picture, picture], [[(5, 10, 4)], []], ["first", "second"])
    axes = figure.axes[0]
    drawn = axes.transData.inverted().transform(axes.patches[0].get_window_extent().get_points())
    assert sorted(drawn[:, 0]) == pytest.approx([5, 9])
    assert sorted(drawn[:, 1]) == pytest.approx([10, 14])
    assert len(figure.axes[1].patches) == 0
    assert png(figure)[:4] == b"\x89PNG"
