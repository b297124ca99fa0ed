"""Pictures: the decode state of a sequence against its length, where TransMamba should switch, what a number format costs."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem.nn import ModelConfig
from tandem.plan.memory import crossing, memory
from tandem.plan.parameters import readable_count
from tandem.plan.precision import RUN_BITS, RUN_PARAMETERS, RUN_TOKENS, PrecisionPlan, block_words
from tandem.plan.timing import MeasuredCost
from tandem.plan.transpoints import TransPointCost
from tandem.plan.twins import all_attention
from tandem.precision import CAPYBARA
from tandem.report import atomic_path

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def readable_bytes(count: float) -> str:
    """A number of bytes in binary units, e.g. 17.5 KiB."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.4g} {_UNITS[unit]}"


def state_figure(config: ModelConfig, path: Path, *, title: str, context: int, value_bytes: int = 2) -> Path:
    """Draws the bytes of a sequence's decode state up to `context` tokens, beside the all-attention twin.

    Both axes are logarithmic. The twin is left out when the config has no attention shape to copy, the mark of the
    crossing when there is nothing to cross.

    Args:
        path: where the PNG goes; missing parents are made.
    Returns:
        path.
    """
    axes = _axes()
    hybrid = memory(config, value_bytes=value_bytes)
    contexts = _contexts(context, [transpoint for transpoint, _ in hybrid.kv_until])
    has_twin = bool(config.attention or config.transmamba)
    if has_twin:
        twin = memory(all_attention(config), value_bytes=value_bytes)
        axes.plot(contexts, [twin.sequence(n) for n in contexts], color="#b3541e", label="all-attention twin")
    axes.plot(contexts, [hybrid.sequence(n) for n in contexts], color="#1f5f8b", linewidth=2.2, label=title)
    if has_twin and {"M", "T"} & set(config.layers):
        _mark_crossing(axes, config, value_bytes)
    _label(axes)
    axes.set_title(f"Decode state of one sequence: {title}")
    return _save(axes, path)


def transpoints_figure(
    path: Path,
    formula: TransPointCost,
    counted: TransPointCost,
    measured: MeasuredCost | None = None,
    *,
    title: str,
    transpoints: Sequence[int] = (),
) -> Path:
    """Draws the cost of a `T` layer against its TransPoint, pure attention being 1, as in the paper's Fig. 4a.

    Args:
        formula: the paper's operations. counted: those of the layer. measured: seconds here, with the range of its rounds.
        transpoints: those of a schedule, marked on the curves.
    Returns:
        path.
    """
    axes = _axes()
    _cost_curve(axes, formula, transpoints, color="#1f5f8b", label="the paper's formula")
    _cost_curve(axes, counted, transpoints, color="#3f8f74", label="operations counted")
    if measured is not None:
        x = _grid(formula.context)
        rounds = [[cost.layer(point) / cost.attention for point in x] for cost in measured.in_rounds]
        band = [[end(values) for values in zip(*rounds, strict=True)] for end in (min, max)]
        axes.fill_between(x, *band, color="#b3541e", alpha=0.2, linewidth=0)
        _cost_curve(axes, measured.cost, transpoints, color="#b3541e", label=f"time measured ({measured.where})")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(_tokens)
    axes.set_xticks([formula.context * eighth / 8 for eighth in range(9)])
    axes.set_xlabel(f"TransPoint of a layer, tokens of {formula.context:,}")
    axes.set_ylabel("cost of a layer ÷ pure attention")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)
    axes.set_title(f"Where to switch: {title}")
    return _save(axes, path)


def precision_figure(plan: PrecisionPlan, path: Path) -> Path:
    """Draws the loss that a number format adds against its bits, and the critical tokens of formats against parameters.

    Curves on the left are of the best split of so many bits, whole or not; dots are formats, filled where the chip multiplies them.
    The right is of one block, the advised one or else the coarsest; the runs behind the law are a gray rectangle.

    Returns:
        path.
    """
    left, right = _axes(columns=2)
    _bits_panel(left, plan)
    block = plan.best.block if plan.best else plan.blocks[-1]
    _critical_panel(right, plan, block)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False)
    return _save(left, path)


_SHADES = ("#1f5f8b", "#3f8f74", "#b3541e", "#7a5195", "#8a8a2b", "#555555")


def _bits_panel(axes: Any, plan: PrecisionPlan) -> None:
    bits = [RUN_BITS[0] + (RUN_BITS[1] - RUN_BITS[0]) * step / 100 for step in range(101)]
    for block, color in zip(plan.blocks, itertools.cycle(_SHADES), strict=False):
        added = [CAPYBARA.loss_at_bits(N=plan.N, D=plan.D, bits=b, block=block) - plan.bf16_loss for b in bits]
        axes.plot(bits, added, color=color, linewidth=1.6, label=f"a scale for {block_words(block)}")
        for choice in (choice for choice in plan.choices if choice.block == block and choice.bits <= RUN_BITS[1]):
            fill = color if choice.native else "white"
            axes.plot([choice.bits], [choice.added], "o", color=color, markerfacecolor=fill, markersize=5)
    axes.set_xlabel("bits of a number")
    axes.set_ylabel(f"loss over BF16's {plan.bf16_loss:.4f}, nats a token")
    axes.set_title(
        f"{readable_count(plan.N)} parameters, {readable_count(plan.D)} tokens; filled: {plan.hardware} multiplies it"
    )


def _critical_panel(axes: Any, plan: PrecisionPlan, block: int | str) -> None:
    ends = min(plan.N, RUN_PARAMETERS[0]) / 2, max(plan.N, RUN_PARAMETERS[1]) * 8
    sizes = [ends[0] * (ends[1] / ends[0]) ** (step / 32) for step in range(33)]
    for name, color in zip(("E1M1", "E2M1", "E3M2", "E4M3", "E5M4", "E8M7"), _SHADES, strict=False):
        tokens = [CAPYBARA.critical_tokens(N=N, format=name, block=block) for N in sizes]
        axes.plot(sizes, tokens, color=color, linewidth=1.6)
        axes.annotate(name, (sizes[-1], tokens[-1]), xytext=(3, -3), textcoords="offset points", color=color)
    axes.fill_between(RUN_PARAMETERS, *RUN_TOKENS, color="#cccccc", linewidth=0, zorder=0, label="runs behind the law")
    axes.plot([plan.N], [plan.D], "*", color="#222222", markersize=12, label="this training")
    axes.set_xlim(ends[0], ends[1] * 4)
    axes.set_xscale("log")
    axes.set_xlabel("parameters of linear layers")
    axes.set_ylabel("tokens past which more raise the loss")
    axes.set_title(f"Critical tokens, a scale for {block_words(block)}")


def _cost_curve(axes: Any, cost: TransPointCost, transpoints: Sequence[int], *, color: str, label: str) -> None:
    """The curve, a dot at each TransPoint within the sequence, and a ring at the optimum."""
    x = _grid(cost.context)
    dots = sorted({min(point, cost.context) for point in transpoints})
    label = f"{label}: P* = {cost.optimum:,.0f}"
    axes.plot(x, [cost.layer(point) / cost.attention for point in x], color=color, linewidth=2.0, label=label)
    axes.plot(dots, [cost.layer(point) / cost.attention for point in dots], "o", color=color, markersize=4)
    ring = {"color": color, "markerfacecolor": "white", "markeredgewidth": 2.0, "markersize": 9, "zorder": 3}
    axes.plot([cost.optimum], [cost.least / cost.attention], "o", **ring)


def _grid(context: int) -> list[float]:
    """TransPoints close enough to one another for a smooth curve; the last two are both sides of never switching."""
    return [context * step / 256 for step in range(256)] + [context * (1 - 1e-9), float(context)]


def _axes(columns: int = 1) -> Any:
    # matplotlib takes longer to import than the rest of the verb takes to answer
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if columns == 1 else 6.2 * columns, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(ncols=columns)


def _save(axes: Any, path: Path) -> Path:
    if path.suffix.removeprefix(".").lower() not in axes.figure.canvas.get_supported_filetypes():
        raise ValueError(f"out={path} does not end as a picture does; use .png, .svg or .pdf")
    with atomic_path(path) as temporary:
        axes.figure.savefig(temporary, dpi=144)
    return path


def _contexts(context: int, transpoints: Sequence[int]) -> list[int]:
    """Powers of two from 64 tokens up to the context asked for, and both sides of every step at a TransPoint."""
    powers = [2**n for n in range(6, 64)]
    steps = [n for transpoint in transpoints for n in (transpoint - 1, transpoint) if n >= 64]
    return sorted({n for n in powers + steps if n < context} | {context})


def _mark_crossing(axes: Any, config: ModelConfig, value_bytes: int) -> None:
    tokens = crossing(config, value_bytes=value_bytes)
    size = memory(config, value_bytes=value_bytes).sequence(round(tokens))
    axes.plot([tokens], [size], "o", color="#222222", zorder=3)
    axes.annotate(
        f"equal at {tokens:,.0f} tokens\n{readable_bytes(size)}",
        (tokens, size),
        xytext=(12, -30),
        textcoords="offset points",
    )


def _label(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(_tokens)
    axes.yaxis.set_major_formatter(lambda n, _: readable_bytes(n))
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("bytes a sequence")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)


def _tokens(count: float, _: int) -> str:
    return f"{count / 1024:g}K" if count >= 1024 else f"{count:g}"
