"""The picture of a study: several models, trained several times, by loss, time, retrieval and what a change does to them.

Models keep their look in all panels: a color each for the first four, thin broken lines for the others, which are
variants of the fourth.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tandem.report.figures import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PLUM,
    WIDE,
    Row,
    binary_number,
    common_points,
    finish,
    fit_y,
    grid_of,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLORS = (ORANGE, GREEN, BLUE, PLUM)
_VARIANT = "#a98fb0"
_DASHES = ((0, (5, 2)), (0, (1.2, 1.5)), (0, (7, 2, 1.2, 2)), (0, (3, 1)))

Band = tuple[float, float, float]
"""A middle, and the ends of the range around it."""


def study_figure(
    *,
    curves: Mapping[str, Sequence[Sequence[Row]]],
    tokens_per_second: Mapping[str, float],
    bits_per_byte: Mapping[str, Sequence[float]],
    times: Mapping[str, Mapping[int, Band]],
    found: Mapping[str, Mapping[float, Band]],
    guess: Mapping[float, float],
    changes: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> "matplotlib.figure.Figure":
    """Six panels; every mapping but the last two is by model, in one order.

    Args:
        curves: training rows of each of a model's runs.
        tokens_per_second: how fast each trains, which turns tokens into time.
        bits_per_byte: the held-out result of each run.
        times: length of a text -> time of a training step as a share of the first model's.
        found: tokens of a text -> share of numbers found again.
        guess: the same of a guess.
        changes: by the schedule that the fourth model's weights are run with, bits a byte of each run, as trained and after
            a short training with it.
    """
    figure, panels = grid_of(WIDE, 11.4, 3, 2)
    _curves(panels[0], curves, dict.fromkeys(curves, 1.0))
    finish(figure, panels[0], "Training loss, mean and range of seeds", "tokens", legend=True)
    _curves(panels[1], curves, {name: 1 / (60 * speed) for name, speed in tokens_per_second.items()})
    finish(figure, panels[1], "The same against time", "minutes of training at the measured speed")
    _points(panels[2], bits_per_byte)
    finish(figure, panels[2], "Held-out bits per byte, a point a seed", "")
    panels[2].set_xticks(range(len(bits_per_byte)), labels=list(bits_per_byte))
    _lengths(panels[3], times)
    finish(figure, panels[3], "Time of a training step, first model = 1", "length of a text, tokens")
    _lengths(panels[4], found)
    x = sorted(guess)
    panels[4].plot(x, [guess[k] for k in x], color=MUTED, linewidth=1.2, linestyle=_DASHES[0])
    finish(
        figure, panels[4], "Share of phone numbers found again", "tokens of prompt and answer", note="dashed: a guess"
    )
    for axes, lengths in ((panels[3], next(iter(times.values()))), (panels[4], guess)):
        ticks = sorted(lengths)
        axes.set_xticks(ticks, labels=[binary_number(length) for length in ticks])
    _changes(panels[5], changes)
    finish(figure, panels[5], "Bits per byte under another schedule", "schedule in use", legend=True)
    panels[5].set_xticks(range(len(changes)), labels=list(changes))
    return figure


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    looks: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(names):
        if place < len(_COLORS):
            looks[name] = {"color": _COLORS[place], "linewidth": 2.2 if place == len(_COLORS) - 1 else 1.7}
        else:
            dashes = _DASHES[(place - len(_COLORS)) % len(_DASHES)]
            looks[name] = {"color": _VARIANT, "linewidth": 1.4, "linestyle": dashes}
    return looks


def _curves(
    axes: "matplotlib.axes.Axes", curves: Mapping[str, Sequence[Sequence[Row]]], scale: Mapping[str, float]
) -> None:
    """Loss against tokens · scale."""
    shown: list[float] = []
    for name, look in _looks(list(curves)).items():
        tokens, smooth = common_points(curves[name])
        x = [scale[name] * value for value in tokens]
        low, high = [min(values) for values in smooth], [max(values) for values in smooth]
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.plot(x, [math.fsum(values) / len(values) for values in smooth], label=name, **look)
        shown += [*low[len(low) // 10 :], *high[len(high) // 10 :]]
    fit_y(axes, shown)


def _points(axes: "matplotlib.axes.Axes", results: Mapping[str, Sequence[float]]) -> None:
    """A column of points a model, with a bar at their mean."""
    for place, (name, look) in enumerate(_looks(list(results)).items()):
        values = results[name]
        mean = math.fsum(values) / len(values)
        axes.plot([place] * len(values), values, "o", color=look["color"], alpha=0.6, markersize=5, linewidth=0)
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color=look["color"], linewidth=2)
        axes.annotate(f"{mean:.3f}", (place, max(values)), xytext=(0, 6), textcoords="offset points", **_NOTE)
    axes.margins(x=0.08, y=0.18)


def _lengths(axes: "matplotlib.axes.Axes", results: Mapping[str, Mapping[Any, Band]]) -> None:
    """Lines with bands against a length on a logarithmic axis; later models lie below, so that equal ones are seen."""
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    for place, (name, look) in enumerate(_looks(list(results)).items()):
        x = sorted(results[name])
        middle, low, high = ([results[name][k][end] for k in x] for end in range(3))
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.plot(x, middle, marker="o", markersize=4, label=name, zorder=3 - 0.1 * place, **look)
    axes.margins(x=0.05, y=0.1)


def _changes(axes: "matplotlib.axes.Axes", changes: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Two bars a schedule, with a point a run."""
    for side, (label, color) in enumerate((("weights as trained", MUTED), ("after a short training with it", PLUM))):
        for place, results in enumerate(changes.values()):
            values, x = results[side], place + (side - 0.5) * 0.38
            mean = math.fsum(values) / len(values)
            axes.bar([x], [mean], width=0.34, color=color, alpha=0.75, label=label if not place else None)
            axes.plot([x] * len(values), values, "o", color=color, markersize=3.5, linewidth=0)
            axes.annotate(f"{mean:.2f}", (x, max(values)), xytext=(0, 5), textcoords="offset points", **_NOTE)
    least = min((value for results in changes.values() for side in results for value in side), default=0.0)
    axes.set_ylim(bottom=0.9 * least)
    axes.margins(x=0.05, y=0.15)


_NOTE: dict[str, Any] = {"ha": "center", "fontsize": 8, "color": MUTED}
