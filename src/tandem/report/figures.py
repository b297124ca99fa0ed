"""The pictures of a report: each function takes metric rows and returns one matplotlib figure.

Figures are made without pyplot, so that nothing global changes and any thread may draw. The palette, the type sizes and
the place of titles and legends are set here once. Missing and non-finite values are gaps in a line.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Row = Mapping[str, Any]

INK, MUTED, GRID = "#22303c", "#6b7a88", "#e6eaee"
BLUE, ORANGE, GREEN, PLUM = "#2b6a99", "#d07c2e", "#3f8f74", "#855c8d"
# Rust for idle experts, paper for an even share, blue for busy ones: also told apart without color vision.
LOAD_COLORS = ("#b5622f", "#e9c9ae", "#f8f8f6", "#a9c8dc", "#1f5f8b")
PNG_DPI = 200
WIDE, HALF, CURVE_HEIGHT = 11.4, 5.6, 3.3


def loss_figure(train: Sequence[Row], validation: Sequence[Row], width: float = HALF) -> "matplotlib.figure.Figure":
    """Training loss (thin: each row, thick: running mean) and validation loss."""
    figure, axes = _figure(width, CURVE_HEIGHT)
    x_name = x_axis_of([*train, *validation])
    train = [row for row in train if is_number(row.get("loss"))]
    validation = [row for row in validation if is_number(row.get("loss"))]
    smooth = running_mean(column(train, "loss"))
    if train:
        x = column(train, x_name)
        axes.plot(x, column(train, "loss"), color=BLUE, alpha=0.22, linewidth=0.7)
        axes.plot(x, smooth, color=BLUE, linewidth=1.8, **_dots(train), label=f"training {smooth[-1]:.3f}")
    if validation:
        losses = column(validation, "loss")
        label = f"validation {losses[-1]:.3f}"
        x = column(validation, x_name)
        axes.plot(x, losses, color=ORANGE, linewidth=1.6, label=label, **_dots(validation))
    # The thin line's spikes and the fall of the first steps may leave the picture: the rest is what one compares.
    fit_y(axes, [*smooth[len(smooth) // 30 :], *column(validation, "loss")])
    _stages(axes, train, x_name)
    unit = ", nats per token" if x_name == "tokens" else ""
    return finish(figure, axes, f"Training and validation loss{unit}", x_name, legend=True)


def bits_per_byte_figure(
    validation: Sequence[Row], compressors: Mapping[str, int | float], width: float = HALF
) -> "matplotlib.figure.Figure":
    """Validation bits per byte, beside what general compressors need for the same text.

    Args:
        validation: rows with `bits_per_byte`.
        compressors: bits per byte of each compressor, by the name to show.
    """
    figure, axes = _figure(width, CURVE_HEIGHT)
    x_name = x_axis_of(validation)
    values = column(validation, "bits_per_byte")
    label = f"model {values[-1]:.3f}"
    axes.plot(column(validation, x_name), values, color=BLUE, linewidth=1.8, label=label, **_dots(validation))
    for (name, value), color in zip(compressors.items(), (GREEN, PLUM, ORANGE), strict=False):
        axes.axhline(value, color=color, linewidth=1.4, linestyle=(0, (5, 2)), label=f"{name} {value:.3f}")
    if compressors:
        # The first points of a run lie far above; the picture is about how the end compares.
        top = 1.5 * max(compressors.values())
        fit_y(axes, [*compressors.values(), *(value for value in values if value <= top)])
    return finish(figure, axes, "Validation bits per byte of text", x_name, legend=True)


def learning_rate_figure(train: Sequence[Row], width: float = HALF) -> "matplotlib.figure.Figure":
    """The learning rate of each training row."""
    figure, axes = _figure(width, CURVE_HEIGHT)
    x_name = x_axis_of(train)
    axes.plot(column(train, x_name), column(train, "lr"), color=PLUM, linewidth=1.8, **_dots(train))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    _stages(axes, train, x_name)
    peak = max(value for value in column(train, "lr") if math.isfinite(value))
    return finish(figure, axes, "Learning rate", x_name, note=f"largest {peak:.3g}")


def speed_figure(train: Sequence[Row], width: float = HALF) -> "matplotlib.figure.Figure":
    """Training speed of each row in tokens a second, with its median."""
    figure, axes = _figure(width, CURVE_HEIGHT)
    x_name, speed = x_axis_of(train), column(train, "tokens_per_second")
    middle = median(speed)
    axes.plot(column(train, x_name), speed, color=GREEN, linewidth=0.7, alpha=0.35)
    axes.plot(column(train, x_name), running_mean(speed), color=GREEN, linewidth=1.8, **_dots(train))
    axes.axhline(middle, color=MUTED, linewidth=1.0, linestyle=(0, (5, 2)), label=f"median {middle:,.0f}")
    axes.set_ylim(0, 1.15 * max(value for value in running_mean(speed) if math.isfinite(value)) or 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
    return finish(figure, axes, "Training speed, tokens per second", x_name, legend=True)


def expert_load_figure(records: Sequence[Row]) -> "matplotlib.figure.Figure":
    """Each expert's share of the tokens in the last record (1 = even), and the busiest expert's share over time."""
    layers = [[_float(value) * len(layer) for value in layer] for layer in records[-1]["layers"]]
    experts = max(map(len, layers))
    grid = [layer + [math.nan] * (experts - len(layer)) for layer in layers]
    height = min(7.5, max(3.2, 1.6 + 0.32 * len(layers)))
    figure, heat, line = _figure_of_two(WIDE, height, ratios=(1.45, 1.0))
    _heat_map(figure, heat, grid)
    x_name = x_axis_of(records)
    peaks = [[_peak(layer) for layer in record["layers"]] for record in records]
    x = column(records, x_name)
    worst, mean = [max(peak) for peak in peaks], [math.fsum(peak) / len(peak) for peak in peaks]
    line.plot(x, worst, color=ORANGE, linewidth=1.6, label="worst layer", **_dots(records))
    line.plot(x, mean, color=BLUE, linewidth=1.6, label="mean of layers", **_dots(records))
    line.axhline(1.0, color=MUTED, linewidth=1.0, linestyle=(0, (5, 2)))
    line.set_ylim(bottom=0.9)
    return finish(figure, line, "Busiest expert's load ÷ even share", x_name, legend=True)


def budget_figure(
    contexts: Sequence[int],
    kv_bytes: Sequence[int | float],
    ssm_bytes: Sequence[int | float],
    attention_twin_bytes: Sequence[int | float] | None = None,
) -> "matplotlib.figure.Figure":
    """Bytes of decode state that one sequence holds, against its context length, both axes logarithmic.

    Args:
        contexts: tokens of context, the same length as each of the other lists.
        kv_bytes: bytes of keys and values.
        ssm_bytes: bytes of recurrent state; it does not grow with the context.
        attention_twin_bytes: bytes of the same model with attention in place of every recurrent layer.
    """
    figure, axes = _figure(WIDE, 3.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    if attention_twin_bytes is not None:
        axes.plot(contexts, attention_twin_bytes, color=ORANGE, linewidth=1.8, label="all-attention twin")
    total = [kv + ssm for kv, ssm in zip(kv_bytes, ssm_bytes, strict=True)]
    axes.plot(contexts, total, color=BLUE, linewidth=2.2, label="hybrid")
    axes.plot(contexts, kv_bytes, color=PLUM, linewidth=1.2, linestyle=(0, (4, 2)), label="its keys and values")
    axes.plot(contexts, ssm_bytes, color=GREEN, linewidth=1.2, linestyle=(0, (1, 1.5)), label="its recurrent state")
    axes.yaxis.set_major_formatter(lambda value, _: binary_bytes(value))
    finish(figure, axes, "Decode state of one sequence, bytes", "context, tokens", legend=True)
    axes.xaxis.set_major_formatter(lambda value, _: binary_number(value))
    return figure


def comparison_figure(
    curves: Mapping[str, Sequence[Sequence[Row]]],
    bits_per_byte: Mapping[str, Sequence[float]],
    state_bytes: Mapping[str, int | float],
    context: int,
) -> "matplotlib.figure.Figure":
    """Several models side by side: training loss, and bits per byte against the decode state they need.

    Args:
        curves: for each model, the training rows of each of its runs.
        bits_per_byte: for each model, the held-out result of each run.
        state_bytes: for each model, bytes of one sequence of `context` tokens.
    """
    figure, left, right = _figure_of_two(WIDE, 3.8, ratios=(1.25, 1.0))
    shown: list[float] = []
    for (name, runs), color in zip(curves.items(), (BLUE, ORANGE, GREEN, PLUM), strict=False):
        x, smooth = common_points(runs)
        low, high = [min(values) for values in smooth], [max(values) for values in smooth]
        left.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        left.plot(x, [math.fsum(values) / len(values) for values in smooth], color=color, linewidth=1.6, label=name)
        shown += [*low[len(low) // 10 :], *high[len(high) // 10 :]]
        bits, size = bits_per_byte[name], state_bytes[name]
        mean = math.fsum(bits) / len(bits)
        right.errorbar([size], [mean], [[mean - min(bits)], [max(bits) - mean]], color=color, capsize=5, linewidth=1.6)
        right.plot([size] * len(bits), bits, "o", color=color, alpha=0.45, markersize=4, linewidth=0)
        right.plot([size], [mean], "o", color=color, markersize=8, linewidth=0, label=f"{name} {mean:.3f}")
    fit_y(left, shown)
    x_name = x_axis_of([row for runs in curves.values() for rows in runs for row in rows])
    finish(figure, left, "Training loss, mean and range of seeds", x_name, legend=True)
    right.set_xscale("log", base=2)
    right.margins(x=0.15, y=0.2)
    axis = f"decode state of {binary_number(context)} tokens"
    finish(figure, right, "Held-out bits per byte", axis, legend=True)
    right.xaxis.set_major_formatter(lambda value, _: binary_bytes(value))
    return figure


def lengths_figure(rows: Sequence[Row], title: str) -> "matplotlib.figure.Figure":
    """Time a token of a Mamba-2 layer and of attention against the length of a text, both axes logarithmic.

    Args:
        rows: `layer` (M or A), `length` in tokens, and nanoseconds a token, `forward` and `both` (with the backward pass).
    """
    figure, axes = _figure(WIDE, 4.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for layer, name, color in (("M", "Mamba-2", BLUE), ("A", "attention", ORANGE)):
        for field, label, style in (("both", "forward + backward", "-"), ("forward", "forward", (0, (4, 2)))):
            of_layer = [row for row in rows if row["layer"] == layer]
            points = column(of_layer, "length"), column(of_layer, field)
            axes.plot(
                *points, color=color, linewidth=1.8, linestyle=style, marker="o", markersize=4, label=f"{name}, {label}"
            )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.tick_params(which="minor", length=0, labelsize=9, labelcolor=MUTED)
    finish(figure, axes, title, "length of a text, tokens", legend=True)
    axes.set_xticks(column(rows, "length"))
    axes.xaxis.set_major_formatter(lambda value, _: binary_number(value))
    return figure


def retrieval_figure(
    panels: Mapping[str, Mapping[str, Mapping[float, tuple[float, float, float]]]],
    guesses: Mapping[str, Mapping[float, float]],
    trained_length: int,
) -> "matplotlib.figure.Figure":
    """How well models find something again, against the length of the text: one panel a task and metric, two in a line.

    Args:
        panels: title -> model -> length in tokens -> the result, and the ends of the band around it.
        guesses: title -> length -> what a guess gets.
        trained_length: tokens of the longest text in training, where a vertical line stands.
    """
    lines = math.ceil(len(panels) / 2)
    figure, grid = grid_of(WIDE, 2.8 * lines, lines, 2)
    for axes, (title, models) in zip(grid, panels.items(), strict=False):
        for place, ((name, results), color) in enumerate(
            zip(models.items(), (BLUE, ORANGE, GREEN, PLUM), strict=False)
        ):
            x = sorted(results)
            # Later lines are wider and lie below, so that equal results are seen.
            style: dict[str, Any] = {
                "linewidth": 1.4 + 0.9 * place,
                "markersize": 3.5 + place,
                "zorder": 3 - 0.1 * place,
            }
            values, low, high = ([results[k][end] for k in x] for end in range(3))
            axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
            axes.plot(x, values, color=color, marker="o", label=name, **style)
        x = sorted(guesses[title])
        guess = [guesses[title][k] for k in x]
        axes.plot(x, guess, color=MUTED, linewidth=1.2, linestyle=(0, (5, 2)), label="a guess")
        axes.axvline(trained_length, color="#b8c2cc", linewidth=0.9)
        axes.margins(x=0.03, y=0.08)
        finish(figure, axes, title, "tokens of prompt and answer", legend=True)
        axes.set_xticks(x)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def common_points(runs: Sequence[Sequence[Row]]) -> tuple[list[float], list[list[float]]]:
    """Positions on the x axis that all runs logged, and the smoothed losses of all runs at each."""
    x_name = x_axis_of([row for rows in runs for row in rows])
    losses = [
        dict(zip(column(rows, x_name), running_mean(column(rows, "loss")), strict=True))
        for rows in ([row for row in rows if is_number(row.get("loss"))] for rows in runs)
    ]
    common = sorted(set.intersection(*map(set, losses)))
    return common, [[run[x] for run in losses] for x in common]


def small_multiples_figure(rows_of: Mapping[str, Sequence[Row]], names: Sequence[str]) -> "matplotlib.figure.Figure":
    """One small panel a quantity, for what the report does not know by name.

    Args:
        rows_of: rows by kind (`train`, `validation`, …); kinds that share a quantity share its panel.
        names: the quantities, in the order to draw them.
    """
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure, panels = grid_of(WIDE if columns > 1 else HALF, 2.5 * lines, lines, columns)
    x_name = x_axis_of([row for rows in rows_of.values() for row in rows])
    for axes, name in zip(panels, names, strict=False):
        drawn = 0
        for (kind, rows), color in zip(rows_of.items(), (BLUE, ORANGE, GREEN, PLUM), strict=False):
            kept = [row for row in rows if is_number(row.get(name))]
            if kept:
                x, y = column(kept, x_name), column(kept, name)
                axes.plot(x, y, color=color, linewidth=1.3, label=kind, **_dots(kept))
                drawn += 1
        finish(figure, axes, name.replace("_", " "), x_name, legend=drawn > 1)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def png(figure: "matplotlib.figure.Figure") -> bytes:
    """The figure as PNG bytes at twice the density of a common screen."""
    from matplotlib.text import Text

    # A dollar sign in a name that a run logged is not the start of a formula.
    for text in (artist for artist in figure.findobj() if isinstance(artist, Text)):
        text.set_parse_math(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def column(rows: Sequence[Row], name: str) -> list[float]:
    """One field of all rows; NaN where it is missing or not a number."""
    return [_float(row.get(name)) for row in rows]


def x_axis_of(rows: Sequence[Row]) -> str:
    """`tokens` when all rows count them, else `step`."""
    return "tokens" if rows and all(is_number(row.get("tokens")) for row in rows) else "step"


def running_mean(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a fiftieth of the run, less at its start; gaps stay gaps."""
    total, weight, means = 0.0, 0.0, []
    for index, value in enumerate(values):
        # A window that grows from one row: a long one would lag behind the steep fall of the first steps.
        keep = 1.0 - 1.0 / max(1.0, min(index / 8, len(values) / 50))
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1.0
        means.append(total / weight if math.isfinite(value) else math.nan)
    return means


def median(values: Iterable[float]) -> float:
    """The middle of the finite values, NaN when there is none."""
    finite = sorted(value for value in values if math.isfinite(value))
    return finite[len(finite) // 2] if finite else math.nan


def short_number(value: int | float) -> str:
    """1,500,000 as `1.5M`: three figures with k, M, B or T."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def binary_number(value: int | float) -> str:
    """65,536 as `64K`, the way context lengths are named."""
    for size, suffix in ((2**20, "M"), (2**10, "K")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def binary_bytes(value: int | float) -> str:
    """Bytes in KiB, MiB, GiB or TiB with three figures."""
    for size, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g} B"


def _figure(width: float, height: float) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    figure, panels = grid_of(width, height, 1, 1)
    return figure, panels[0]


def _figure_of_two(
    width: float, height: float, ratios: tuple[float, float]
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes, matplotlib.axes.Axes]":
    figure, (left, right) = grid_of(width, height, 1, 2, width_ratios=ratios)
    return figure, left, right


def grid_of(
    width: float, height: float, lines: int, columns: int, **options: Any
) -> "tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]":
    """A figure of panels in the style of the house, in reading order."""
    # Imported where a figure is made: it takes half a second, and most who import this room draw nothing.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", h_pad=0.08)
    panels = figure.subplots(lines, columns, squeeze=False, gridspec_kw=options)
    for axes in panels.flat:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#b8c2cc")
        axes.grid(axis="y", color=GRID, linewidth=0.9)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9, labelcolor=MUTED, pad=5)
        axes.margins(x=0.015)
    return figure, list(panels.flat)


def finish(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    title: str,
    x_name: str,
    *,
    legend: bool = False,
    note: str = "",
) -> "matplotlib.figure.Figure":
    """Writes title and axis name; the legend or a note stands between title and axes, where it never covers data."""
    pad = 27 if legend or note else 10
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=pad)
    axes.set_xlabel("training tokens" if x_name == "tokens" else x_name, color=MUTED, fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    if legend:
        options = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 1.6, "columnspacing": 1.5}
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.005, 1.0), borderaxespad=0.2, borderpad=0.2, ncols=7, **options
        )
    if note:
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (0, 9)}
        axes.annotate(note, (0, 1), fontsize=9, color=MUTED, **place)
    return figure


def _stages(axes: "matplotlib.axes.Axes", train: Sequence[Row], x_name: str) -> None:
    """A thin vertical line with its name where a stage of the curriculum begins, if there is more than one."""
    stages = [row.get("stage") for row in train]
    starts = [index for index in range(len(stages)) if index == 0 or stages[index] != stages[index - 1]]
    if len(starts) < 2:
        return
    style = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "fontsize": 8, "color": MUTED}
    for before, index in pairwise(starts):
        x = _float(train[index].get(x_name))
        axes.axvline(x, color="#b8c2cc", linewidth=0.9)
        axes.annotate(str(stages[index]), (x, 1.0), xytext=(4, -2), va="top", **style)
        if not before:
            # The first name stands at its end: at its beginning the curves fall through it.
            axes.annotate(str(stages[before]), (x, 1.0), xytext=(-4, -2), va="top", ha="right", **style)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.09 * (high - low))


def _heat_map(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", grid: list[list[float]]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("load", LOAD_COLORS)
    image = axes.imshow(grid, cmap=colors, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    finish(figure, axes, "Expert load ÷ even share, last record", "expert", note="1 is an even share")
    axes.set_ylabel("F layer", color=MUTED, fontsize=9)
    for axis, size in ((axes.xaxis, len(grid[0])), (axes.yaxis, len(grid))):
        axis.set_ticks(range(0, size, math.ceil(size / 16)))
        axis.set_major_formatter(lambda value, _: f"{value + 1:.0f}")
    if len(grid) * len(grid[0]) <= 160:
        for y, layer in enumerate(grid):
            for x, value in enumerate(layer):
                tone = "white" if math.isfinite(value) and not 0.25 < value < 1.7 else INK
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=tone)
    bar = figure.colorbar(image, ax=axes, extend="max", pad=0.02, aspect=30, ticks=[0, 0.5, 1, 1.5, 2])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)


def _peak(layer: Sequence[Any]) -> float:
    return max((_float(value) for value in layer), default=math.nan) * len(layer)


def _dots(rows: Sequence[Row]) -> dict[str, Any]:
    """Marks for lines of few rows; a line of one row would be nothing without."""
    return {"marker": "o", "markersize": 3.2} if len(rows) < 40 else {}


def fit_y(axes: "matplotlib.axes.Axes", values: Iterable[float]) -> None:
    """Lets the y axis show these values and little more."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and (span := max(finite) - min(finite)) > 0:
        axes.set_ylim(min(finite) - 0.06 * span, max(finite) + 0.06 * span)


def is_number(value: object) -> bool:
    """Whether a logged value is a finite number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
