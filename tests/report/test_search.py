"""The picture of a search holds the map and the bits it was given."""

import numpy as np

from tandem.report import png, search_figure


def test_map_and_bits_are_those_given():
    expected_QB = [[0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]
    figure = search_figure(expected_QB, [4.0, 2.0, 0.0], 400)
    left, right = figure.axes[:2]
    (image,) = left.get_images()
    drawn = image.get_array()
    assert drawn is not None
    assert np.argsort(drawn[2])[-1] == 0  # the spike lies where the objects are
    assert drawn.shape == (3, 4)
    assert image.get_extent() == [0.0, 400.0, 2.5, -0.5]  # whole items across, a row a question
    (line,) = right.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [0, 1, 2]
    assert np.asarray(line.get_ydata()).tolist() == [4, 2, 0]
    assert png(figure)[:4] == b"\x89PNG"
