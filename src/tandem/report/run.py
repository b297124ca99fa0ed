"""What a run directory says about its run, read once and put in order for the report."""

import bisect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.report.metrics import read_metrics

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The files of one run directory; `rows` holds the metric rows of each kind, in order of their steps."""

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: tuple[Row, ...]
    rows: Mapping[str, list[Row]]

    def kind(self, name: str) -> list[Row]:
        """Rows of one kind, none when the run wrote none."""
        return self.rows.get(name, [])

    def last(self, kind: str, name: str) -> Any:
        """The latest value of one field that is not missing, else None."""
        return next((row[name] for row in reversed(self.kind(kind)) if row.get(name) is not None), None)


def read_run(run_dir: Path) -> Run:
    """Reads `metrics.jsonl` and, where they are present, `config.json`, `summary.json` and `samples.jsonl`.

    Raises:
        ValueError: metrics are missing or empty, or a file is not what its name says.
    """
    if not run_dir.is_dir():
        raise ValueError(f"run_dir={run_dir} is not a directory; give the run directory that holds metrics.jsonl")
    metrics = read_metrics(run_dir / "metrics.jsonl")
    if not metrics:
        raise ValueError(f"metrics={run_dir / 'metrics.jsonl'} is empty; let the run log its first step, then repeat")
    samples = run_dir / "samples.jsonl"
    return Run(
        name=run_dir.resolve().name,
        config=_read_object(run_dir / "config.json"),
        summary=_read_object(run_dir / "summary.json"),
        samples=tuple(read_metrics(samples)) if samples.exists() else (),
        rows=_by_kind(metrics),
    )


def _by_kind(metrics: list[Row]) -> dict[str, list[Row]]:
    """Rows of each kind sorted by step; of two rows of one step the later one counts, except for events.

    A run that goes on from a checkpoint makes steps again that the killed process had already logged.
    """
    kinds: dict[str, list[Row]] = {}
    for row in metrics:
        kinds.setdefault(str(row.get("kind", "train")), []).append(row)
    counted = sorted((row["step"], row["tokens"]) for row in kinds.get("train", []) if {"step", "tokens"} <= row.keys())
    for row in metrics:
        # One axis for all figures: other rows take the count of their step, a validation row too, whose own count is of
        # the tokens it scored.
        if counted and "step" in row and row.get("kind", "train") != "train":
            row["tokens"] = _tokens_at(row["step"], counted)
    return {kind: rows if kind == "event" else _latest_of_each_step(rows) for kind, rows in kinds.items()}


def _tokens_at(step: int, counted: list[tuple[int, int]]) -> int:
    """The count at a step, interpolated between those that training logged; the last one later on."""
    after = bisect.bisect_left(counted, step, key=lambda pair: pair[0])
    if after in (0, len(counted)) or counted[after][0] == step:
        return counted[min(after, len(counted) - 1)][1]
    (left, fewer), (right, more) = counted[after - 1 : after + 1]
    return round(fewer + (more - fewer) * (step - left) / (right - left))


def _latest_of_each_step(rows: list[Row]) -> list[Row]:
    latest = {row.get("step", index): row for index, row in enumerate(rows)}
    return [latest[step] for step in sorted(latest)]


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it or move it away, then repeat") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object; restore it or move it away")
    return value
