"""The picture of a sweep over number formats."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tandem.report.figures import BLUE, GREEN, MUTED, ORANGE, PLUM, WIDE, finish, grid_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLORS = {None: MUTED, "E1M1": ORANGE, "E2M1": BLUE}


def formats_figure(
    rows: Sequence[Mapping[str, Any]], operands: Mapping[str, Sequence[float]], predicted: Sequence[Mapping[str, Any]]
) -> "matplotlib.figure.Figure":
    """Four panels: loss against tokens, operands one by one, formats at one size, and the law's word against what was measured.

    Args:
        rows: `width`, `D`, `format` (None where nothing was rounded), `block`, `targets` and `loss` of each training.
        operands: by the operands rounded, loss above that without rounding, of each seed.
        predicted: `format`, `loss` and `unseen`, the loss by a law that has not seen the run; may be empty.
    """
    figure, panels = grid_of(WIDE, 7.6, 2, 2)
    _against_tokens(panels[0], rows)
    finish(figure, panels[0], "Held-out loss, a line a width", "tokens", legend=True)
    _bars(panels[1], operands)
    finish(figure, panels[1], "Loss above bfloat16's by operand, E1M1", "")
    panels[1].set_xticks(range(len(operands)), labels=[name.replace(" ", "\n") for name in operands], fontsize=8)
    _against_bits(panels[2], rows)
    finish(figure, panels[2], "Loss by format, block 64", "bits of a number", note="line: bfloat16")
    _against_measured(panels[3], predicted)
    note = "" if predicted else "these runs do not determine the law"
    finish(figure, panels[3], "Loss by a law that has not seen the run", "measured loss", note=note)
    return figure


def _against_tokens(axes: "matplotlib.axes.Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    labeled: set[str | None] = set()
    for format, color in _COLORS.items():
        for width in sorted({row["width"] for row in rows}):
            line = sorted(
                (row["D"], row["loss"])
                for row in rows
                if (row["width"], row["format"], row["seed"]) == (width, format, 0) and row["block"] in (None, 64)
            )
            name = None if format in labeled else (format or "bfloat16")
            labeled.add(format)
            axes.plot(
                [D for D, _ in line], [loss for _, loss in line], marker="o", markersize=4, color=color, label=name
            )
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(sorted({float(row["D"]) for row in rows}))


def _bars(axes: "matplotlib.axes.Axes", operands: Mapping[str, Sequence[float]]) -> None:
    means = [statistics.mean(values) for values in operands.values()]
    axes.bar(range(len(means)), means, color=BLUE, alpha=0.75, width=0.6)
    for place, values in enumerate(operands.values()):
        axes.plot([place] * len(values), values, "o", color=PLUM, markersize=4)
    axes.axhline(0, color=MUTED, linewidth=1)


def _against_bits(axes: "matplotlib.axes.Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """Formats of the cell that has most of them."""
    cells = [(row["width"], row["D"]) for row in rows if row["format"] and row["block"] == 64 and row["seed"] == 0]
    if not cells:
        return
    middle = max(dict.fromkeys(cells), key=cells.count)
    there = [row for row in rows if (row["width"], row["D"], row["seed"]) == (*middle, 0)]
    for row in there:
        if row["format"] is None:
            axes.axhline(row["loss"], color=MUTED, linewidth=1)
    crowded: set[int] = set()
    for row in sorted((row for row in there if row["block"] == 64), key=lambda row: row["loss"]):
        bits = 1 + sum(int(part) for part in row["format"][1:].split("M"))
        axes.plot([bits], [row["loss"]], "o", color=BLUE, markersize=5)
        # Of formats of as many bits every other name stands on the left.
        side = "right" if bits in crowded else "left"
        crowded ^= {bits}
        axes.annotate(
            row["format"],
            (bits, row["loss"]),
            xytext=(-6 if side == "right" else 6, 3),
            textcoords="offset points",
            fontsize=8,
            ha=side,
        )
    axes.margins(x=0.12)


def _against_measured(axes: "matplotlib.axes.Axes", predicted: Sequence[Mapping[str, Any]]) -> None:
    for run in predicted:
        color = {"BF16": MUTED, "E1M1": ORANGE, "E2M1": BLUE}.get(run["format"], GREEN)
        axes.plot([run["loss"]], [run["unseen"]], "o", color=color, markersize=4)
    if predicted:
        ends = [min(run["loss"] for run in predicted), max(run["loss"] for run in predicted)]
        axes.plot(ends, ends, color=MUTED, linewidth=1)
