"""`tandem eval`: perplexity, retrieval and lm-eval tasks of a model, as a table and a JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from tandem.cli.arguments import parse
from tandem.evaluate import EvaluateConfig, output_file, run_evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateArguments(EvaluateConfig):
    """Measure a model. Every result is written when it is done; Ctrl-C keeps them, and the same command goes on.

    Example: tandem eval nano --tasks perplexity,needle,phone-book --text book.txt --trained-length 512
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Name of a bundled checkpoint ("nano"), a model directory, or a GGUF file."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), measures, and prints a table."""
    arguments = parse(EvaluateArguments, "tandem eval", argv)
    console = Console(highlight=False, soft_wrap=True)
    try:
        results = run_evaluation(arguments.model, arguments)
    except KeyboardInterrupt:
        file = output_file(arguments.model, arguments.output)
        done = f"what is done is in {file}" if file.exists() else "nothing was done yet"
        console.print(f"stopped; {done}, and the same command goes on")
        raise
    console.print(table(results.plain, arguments.names))
    console.print(f"results: {results.path}")


def table(plain: Mapping[str, Any], tasks: Sequence[str]) -> Table:
    """One row a metric: the value, its 95 % interval, what a guess gets, and the number of samples."""
    versions = ", ".join(f"{name} {version}" for name, version in plain["versions"].items())
    caption = f"{plain['device']}, {plain['dtype']}, {versions}"
    caption = "\n".join([caption, *map(_rounded, plain["precision"].items())]) if plain.get("precision") else caption
    drawn = Table("task", "metric", "value", "95 %", "a guess", "n", title=plain["model"], caption=caption)
    drawn.box = box.SIMPLE_HEAD
    for cell in (cell for task in tasks for cell in plain["results"] if cell["task"] == task):
        head = cell["task"] if cell["length"] is None else f"{cell['task']} {cell['length']:,}"
        for name, value in cell["metrics"].items():
            interval = "" if value["low"] is None else f"{_number(value['low'])} – {_number(value['high'])}"
            guess = _number(cell.get("guess", {}).get(name))
            drawn.add_row(head, name, _number(value["value"]), interval, guess, f"{value['n']:,}")
            head = ""
    return drawn


def _rounded(of: tuple[str, Mapping[str, Any]]) -> str:
    """What was rounded, in a line: "kv: E4M3, block channel, float32 scales, 8.5 bits each, 272 bytes a token"."""
    name, how = of
    takes = [f"{how[key]:,.0f} {key.replace('_', ' ')}" for key in how if key.startswith("bytes_a")]
    takes += [f"{how['share']:.0%} of parameters"] if "share" in how else []
    each = f"{how['format']}, block {how['block']}, {how['scale']} scales, {how['bits']:.4g} bits each"
    return f"{name}: {each}, {', '.join(takes)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
