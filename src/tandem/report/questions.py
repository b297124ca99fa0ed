"""Pictures of what questions about several objects reveal: by policy, in their spread, and in searches of images."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tandem.report.figures import BLUE, GREEN, MUTED, ORANGE, PLUM, WIDE, finish, grid_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_POLICIES = {"bifurcation": ORANGE, "greedy": PLUM, "half-greedy": BLUE}
_BROKEN = (0, (5, 2))


def questions_figure(curves: Mapping[int, Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """Entropy left against questions, a panel for each number of objects.

    Args:
        curves: by number of objects: `policies`, the bits left by each, from before the first question on; `dyadic`, the same
            exactly, as far as there are dyadic questions; `bound`, that of all policies at each question.
    """
    columns = min(3, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure, panels = grid_of(WIDE, 3.0 * lines, lines, columns)
    for axes, (k, of_k) in zip(panels, curves.items(), strict=False):
        axes.plot(
            range(len(of_k["bound"])), of_k["bound"], color=MUTED, linewidth=1.1, linestyle=_BROKEN, label="bound"
        )
        for name, left in of_k["policies"].items():
            axes.plot(range(len(left)), left, color=_POLICIES[name], linewidth=1.6, label=name)
        dyadic = of_k["dyadic"]
        axes.plot(range(len(dyadic)), dyadic, "o", color=GREEN, markersize=3.5, label="dyadic")
        axes.set_ylim(0, 1.03 * dyadic[0])
        finish(figure, axes, f"Bits left, {k} objects", "questions")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    return figure


def spread_figure(cases: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """Histograms of standardized posterior entropies beside the normal density.

    Args:
        cases: `title`, `edges` and `heights` of each histogram, and its `distance` from the normal distribution.
    """
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    figure, panels = grid_of(WIDE, 2.9 * lines, lines, columns)
    z = [-4 + place / 20 for place in range(161)]
    for axes, case in zip(panels, cases, strict=False):
        axes.stairs(case["heights"], case["edges"], fill=True, color=BLUE, alpha=0.45)
        axes.plot(z, [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in z], color=ORANGE, linewidth=1.6)
        note = f"Kolmogorov-Smirnov distance {case['distance']:.3f}"
        finish(figure, axes, case["title"], "(entropy - mean) / deviation, both of the theory", note=note)
        axes.set_xlim(-4, 4)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    return figure


def screening_figure(
    panels_of: Mapping[str, Mapping[str, Mapping[int, float]]], read_off: Mapping[str, Sequence[tuple[int, float]]]
) -> "matplotlib.figure.Figure":
    """Mean log2 oracle calls against pixels a side, a panel for each number of targets.

    Args:
        panels_of: title -> line -> pixels a side -> mean log2 calls. Lines of one ranking have its name at their start.
        read_off: title -> points of the paper's figure.
    """
    figure, panels = grid_of(WIDE, 4.2, 1, len(panels_of))
    colors = {"IR": MUTED, "PR": ORANGE, "IPR": BLUE, "counts": GREEN}
    for axes, (title, lines) in zip(panels, panels_of.items(), strict=True):
        for name, line in lines.items():
            ranking, _, noise = name.partition(", ")
            style = {"": "-", "noise 0.5": _BROKEN, "noise 1": (0, (1.2, 1.5))}[noise]
            axes.plot(
                list(line), list(line.values()), color=colors[ranking], linewidth=1.5, linestyle=style, label=name
            )
        axes.plot(*zip(*read_off[title], strict=True), "x", color=PLUM, markersize=6, label="paper, read off")
        axes.set_xscale("log", base=2)
        finish(figure, axes, title, "pixels a side")
        axes.set_xticks([8, 32, 128, 512])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_ylabel("mean log2 oracle calls; for counts, of questions", color=MUTED, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    return figure


def faces_figure(
    pictures: Sequence[Any], boxes: Sequence[Sequence[tuple[float, float, float]]], titles: Sequence[str]
) -> "matplotlib.figure.Figure":
    """Pictures side by side, with the places found.

    Args:
        pictures: gray, 0 to 255, shape (height, width) each.
        boxes: for each picture left, top and side of squares, in pixels.
    """
    from matplotlib.patches import Rectangle

    figure, panels = grid_of(WIDE, 4.4, 1, len(pictures))
    for axes, picture, squares, title in zip(panels, pictures, boxes, titles, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.grid(visible=False)
        for left, top, side in squares:
            axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=ORANGE, linewidth=1.8))
        finish(figure, axes, title, "")
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
