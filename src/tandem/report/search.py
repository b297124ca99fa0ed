"""The picture of a search for several objects: where they were expected after each question, and the bits that were left."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tandem.report.figures import BLUE, MUTED, WIDE, finish, grid_of

if TYPE_CHECKING:
    import matplotlib.figure


def search_figure(
    expected_QB: Sequence[Sequence[float]], bits_Q: Sequence[float], items: int
) -> "matplotlib.figure.Figure":
    """Two panels over the questions: the map of the objects, and the entropy of where they are.

    Args:
        expected_QB: expected number of objects in each of B equal runs of items, before the first question and after each.
        bits_Q: bits left, at the same times.
        items: how many there are.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = grid_of(WIDE, 4.4, 1, 2, width_ratios=(2, 1))
    questions = len(bits_Q) - 1
    # Objects grow from a haze of k / items to spikes of 1; the root keeps the haze visible.
    root = PowerNorm(0.5, vmin=0)
    extent = (0.0, float(items), questions + 0.5, -0.5)
    left.imshow(expected_QB, aspect="auto", cmap="Blues", extent=extent, interpolation="nearest", norm=root)
    left.grid(visible=False)
    left.set_ylabel("questions", fontsize=9, color=MUTED)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, left, "Where objects are expected", "item", note="darker: more objects to a run of items")
    right.plot(range(questions + 1), bits_Q, color=BLUE, linewidth=1.8, marker="o", markersize=3)
    right.set_ylim(bottom=0)
    finish(figure, right, "Bits left", "questions", note=f"{bits_Q[0]:.1f} at first, {bits_Q[-1]:.1f} at the end")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
