"""What a sweep over formats has shown: tables, the refitted law with its intervals, and where the paper agrees."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tandem import hub
from tandem.nn import ModelConfig
from tandem.plan import parameters
from tandem.precision import CAPYBARA, Chinchilla, Fit, Kumar, PrecisionLaw, Run, fit
from tandem.precision.recipe import PAPER_TARGETS
from tandem.recipes.comparison import command_of, last_validation, machine, write_files
from tandem.recipes.pretrain import PretrainConfig
from tandem.report import formats_figure, png

BF16 = "E8M7"


def row_of(model: ModelConfig, run: PretrainConfig) -> dict[str, Any]:
    """The numbers of one training; `loss` is nats a token of the held-out text, `format` None where nothing was rounded."""
    rounded = run.precision
    return {
        "width": model.width,
        "N": linear_parameters(model),
        "D": run.train.steps * run.batch_tokens,
        "format": rounded.format,
        "block": rounded.block if rounded.format else None,
        "targets": list(rounded.targets or ()),
        "seed": run.train.seed,
        "loss": last_validation(run)["loss"],
    }


def linear_parameters(model: ModelConfig) -> int:
    """N of the law: parameters of linear layers that a token uses; no embedding, head, norms or routers."""
    return sum(n for kind, n in parameters(model).active_by_kind.items() if kind not in _NOT_LINEAR)


_NOT_LINEAR = ("embedding", "head", "norms", "router")


def write_results(config: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Writes precision.json, precision.md and precision.png."""
    results = results_of(rows)
    results |= {
        "machine": machine(hub.choose_device(config.device)),
        "command": command_of("precision", config, ("widths", "steps", "seeds", "batch_tokens", "context", "lr")),
    }
    files = {
        "precision.json": json.dumps(results, indent=1).encode(),
        "precision.md": report_of(results).encode(),
        "precision.png": png(formats_figure(results["rows"], results["operands"], results["predicted"])),
    }
    write_files(config.run_dir, files)


def results_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything that the report says, from the rows of all trainings."""
    middle = _middle(rows)
    operands: dict[str, list[float]] = {}
    alone = [row for row in rows if row["block"] == 32 and _is_at(row, middle)]
    for row in sorted(alone, key=lambda row: (len(row["targets"]), row["targets"], row["seed"])):
        operands.setdefault(" ".join(row["targets"]), []).append(row["loss"] - _plain(rows, row))
    law, held = _refit(rows)
    return {
        "rows": list(rows),
        "operands": operands,
        "chance": _deviation([row["loss"] for row in rows if row["format"] is None and _is_at(row, middle)]),
        "law": law if isinstance(law, str) else _constants(law),
        "held": held,
        "peers": {} if isinstance(law, str) else _peers(rows),
        "predicted": [] if isinstance(law, str) else _predictions(rows, law),
    }


def _middle(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Width and tokens at which operands were tried one by one."""
    return next((row["width"], row["D"]) for row in rows if row["targets"] == ["P5"])


def _is_at(row: dict[str, Any], cell: tuple[int, int]) -> bool:
    return (row["width"], row["D"]) == cell


def _plain(rows: Sequence[dict[str, Any]], like: dict[str, Any]) -> float:
    """Loss without rounding of the same size, tokens and seed; of seed 0 where that was not trained."""
    same = {
        row["seed"]: row["loss"] for row in rows if row["format"] is None and _is_at(row, (like["width"], like["D"]))
    }
    return same.get(like["seed"], same[0])


def _deviation(losses: Sequence[float]) -> float | None:
    return statistics.stdev(losses) if len(losses) > 1 else None


def _of_the_law(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the law speaks of: nothing rounded, or weights and the activations of the weight gradient."""
    return [row for row in rows if row["format"] is None or row["targets"] == list(PAPER_TARGETS)]


def _refit(rows: Sequence[dict[str, Any]]) -> tuple[Fit[PrecisionLaw] | str, dict[str, float]]:
    """The law fitted to all runs that it speaks of, or why it could not be; and constants that were not fitted.

    Short trainings do not tell what the loss falls towards: where nothing else is lacking, ε is held at 0.
    """
    runs = _runs(rows)
    why = ""
    for held in ({}, {"epsilon": 0.0}):
        try:
            return fit(runs, fixed=held), held
        except ValueError as error:
            why = why or str(error)
    return why, {}


def _peers(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean error of each run's loss by other laws, fitted to the same runs."""
    errors: dict[str, float] = {}
    for law in (Chinchilla, Kumar):
        try:
            errors[law.__name__] = statistics.mean(map(abs, fit(_runs(rows), law, resamples=0).errors))
        except ValueError:  # these runs do not tell its constants apart
            continue
    return errors


def _runs(rows: Sequence[dict[str, Any]]) -> list[Run]:
    return [
        Run(N=row["N"], D=row["D"], format=row["format"] or BF16, block=row["block"] or 64, loss=row["loss"])
        for row in _fitted(rows)
    ]


def _fitted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without scales of whole channels: how many numbers those are worth is a constant of the paper's models."""
    return [row for row in _of_the_law(rows) if row["block"] != "channel"]


def _constants(law: Fit[PrecisionLaw]) -> dict[str, Any]:
    return {
        name: {"value": getattr(law.law, name), "interval": list(interval), "paper": getattr(CAPYBARA, name)}
        for name, interval in law.intervals.items()
    }


def _predictions(rows: Sequence[dict[str, Any]], law: Fit[PrecisionLaw]) -> list[dict[str, Any]]:
    """Each run's loss by the law, and by one that was fitted without it and a fifth of the others.

    Whole sizes are not left out: most formats were trained at one of them.
    """
    unseen = law.left_out or law.errors
    return [
        {
            "format": row["format"] or "BF16",
            "loss": row["loss"],
            "fitted": row["loss"] + seen,
            "unseen": row["loss"] + not_seen,
        }
        for row, seen, not_seen in zip(_fitted(rows), law.errors, unseen, strict=True)
    ]


def report_of(results: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    chance = "one seed" if results["chance"] is None else f"{results['chance']:.4f} between seeds"
    parts = [
        f"{len(results['rows'])} trainings. Loss in nats a token of held-out text; without rounding it deviates by {chance}.",
        _table("operand rounded, E1M1, block 32", _operand_lines(results["operands"])),
        _table("format, block 64", _more(results["rows"], lambda row: row["block"] == 64, lambda row: row["format"])),
        _table(
            "block, E1M1", _more(results["rows"], lambda row: row["format"] == "E1M1", lambda row: str(row["block"]))
        ),
        _growth(results["rows"]),
        _tokens(results["rows"]),
        _law_table(results),
        f"{results['machine']}. `{results['command']}`",
    ]
    return "\n\n".join(parts) + "\n"


def _table(what: str, lines: Sequence[str]) -> str:
    return "\n".join([f"| {what} | loss above bfloat16's |", "|---|---|", *lines])


def _operand_lines(operands: dict[str, list[float]]) -> list[str]:
    return [f"| {name} | {_mean(values)} |" for name, values in operands.items()]


def _more(
    rows: Sequence[dict[str, Any]], chosen: Callable[[dict[str, Any]], bool], label: Callable[[dict[str, Any]], str]
) -> list[str]:
    """What runs of the law's operands lose at the middle cell, by label, the smallest loss first."""
    middle = _middle(rows)
    losses: dict[str, list[float]] = {}
    for row in _of_the_law(rows):
        if row["format"] and _is_at(row, middle) and chosen(row):
            losses.setdefault(label(row), []).append(row["loss"] - _plain(rows, row))
    return [
        f"| {name} | {_mean(values)} |"
        for name, values in sorted(losses.items(), key=lambda pair: statistics.mean(pair[1]))
    ]


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):+.4f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):+.4f} to {max(values):+.4f})"


def _growth(rows: Sequence[dict[str, Any]]) -> str:
    """Loss above bfloat16's at every size and length."""
    cells: dict[tuple[int, int], dict[str, float]] = {}
    for row in _of_the_law(rows):
        if row["block"] == 64 and row["seed"] == 0:
            above = row["loss"] - _plain(rows, row)
            cells.setdefault((row["width"], row["D"]), {})[row["format"]] = above
    formats = [name for name in ("E1M1", "E2M1") if all(name in of for of in cells.values())]
    lines = [
        f"| {width} | {D / 1e6:.2f}M | {' | '.join(f'{of[name]:+.4f}' for name in formats)} |"
        for (width, D), of in sorted(cells.items())
    ]
    return "\n".join([f"| width | tokens | {' | '.join(formats)} |", "|---" * (2 + len(formats)) + "|", *lines])


def _tokens(rows: Sequence[dict[str, Any]]) -> str:
    """The smallest model with its coarsest scales: does more data hurt?"""
    width = min(row["width"] for row in rows)
    coarse = [row for row in _of_the_law(rows) if row["width"] == width and row["block"] == "channel"]
    lines = [
        f"| {row['D'] / 1e6:.2f}M | {_plain(rows, row):.4f} | {row['loss']:.4f} | {row['loss'] - _plain(rows, row):+.4f} |"
        for row in sorted(coarse, key=lambda row: row["D"])
    ]
    return "\n".join(
        [f"| tokens, width {width} | bfloat16 | E1M1, channel | difference |", "|---|---|---|---|", *lines]
    )


def _law_table(results: dict[str, Any]) -> str:
    law, held, predicted = results["law"], results["held"], results["predicted"]
    if isinstance(law, str):
        return f"The law could not be fitted: {law}"
    lines = [
        f"| {name} | {of['value']:.4g} | {of['interval'][0]:.4g} to {of['interval'][1]:.4g} | {of['paper']:.6g} |"
        for name, of in law.items()
    ]
    errors = {key: statistics.mean(abs(run[key] - run["loss"]) for run in predicted) for key in ("fitted", "unseen")}
    note = f"Mean error of a run's loss: {errors['fitted']:.4f} nats, and {errors['unseen']:.4f} by laws that have not seen the run."
    if results["peers"]:
        others = (f"{error:.4f} by {name}'s" for name, error in results["peers"].items())
        note += f" Other laws, fitted to the same runs: {', '.join(others)}."
    lines += [
        f"| {name} | {value:g}, not told by these runs | – | {getattr(CAPYBARA, name):.6g} |"
        for name, value in held.items()
    ]
    table = ["| constant | refitted | 90 % interval | paper |", "|---|---|---|---|", *lines]
    return "\n".join([*table, "", note])
