"""The picture of why hybrids are built: bytes of decode state of one sequence against its length."""

from pathlib import Path
from typing import Any

from tandem.nn import ModelConfig
from tandem.plan.memory import crossing, memory
from tandem.plan.twins import all_attention

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
    # matplotlib takes longer to import than the rest of the verb takes to answer
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    contexts = _contexts(context)
    hybrid = memory(config, value_bytes=value_bytes)
    if config.attention is not None:
        twin = memory(all_attention(config), value_bytes=value_bytes)
        axes.plot(contexts, [twin.sequence(n) for n in contexts], color="#b3541e", label="all-attention twin")
    axes.plot(contexts, [hybrid.sequence(n) for n in contexts], color="#1f5f8b", linewidth=2.2, label=title)
    if config.attention is not None and "M" in config.layers:
        _mark_crossing(axes, config, value_bytes)
    _label(axes)
    axes.set_title(f"Decode state of one sequence: {title}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144)
    return path


def _contexts(context: int) -> list[int]:
    """Powers of two from 64 tokens up to the context asked for, which is always the last."""
    powers = [2**n for n in range(6, 64) if 2**n < context]
    return [*powers, context]


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
    axes.xaxis.set_major_formatter(lambda n, _: f"{n / 1024:g}K" if n >= 1024 else f"{n:g}")
    axes.yaxis.set_major_formatter(lambda n, _: readable_bytes(n))
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("bytes a sequence")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)
