"""Do models find a number again, in texts up to four times as long as those they were trained on? Start at `compare_retrieval`.

The hybrid and its twins, as `tandem recipe twins` left them, and a bundled checkpoint answer the same questions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from tandem import hub
from tandem.data import read_json_object
from tandem.evaluate import EvaluateConfig, run_evaluation
from tandem.recipes.comparison import mean_range, write_files
from tandem.report import png, retrieval_figure

TASKS = ("needle", "phone-book")
TITLES = {
    "exact": "share of numbers written right",
    "logp": "log-probability of the answer, nats a digit",
    "margin": "answer above a decoy, nats a digit",
}
METRICS = ("exact", "choice", "margin", "logp")
Results = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig:
    """Asks a hybrid and its twins for numbers that stand far back in a text.

    Ctrl-C keeps what is measured; the same command goes on. The run directory holds a results file a model, retrieval.json,
    retrieval.md (a table for the docs) and retrieval.png.
    """

    run_dir: Path = Path("runs/retrieval")
    """Where everything is written."""

    twins: Path = Path("runs/twins")
    """Run directory of `tandem recipe twins`."""

    also: tuple[str, ...] = ("nano",)
    """More models: bundled checkpoints or directories."""

    seeds: int | None = None
    """Trainings of each twin to ask, those of seeds 0, 1, …; all there are when left out. More may be asked later."""

    samples: int = 50
    """Questions at each length."""

    seed: int = 0
    """Of the questions."""

    batch: int = 4
    """Questions side by side."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} is below 1; use 1 or more")


def compare_retrieval(config: RetrievalConfig) -> Path:
    """Measures what is not measured yet, and writes table and figure; returns the run directory.

    Raises:
        ValueError: no twins there, an unknown model, or results of other settings in the run directory.
    """
    console = Console(highlight=False, soft_wrap=True)
    trained = _trained_length(config.twins)
    results: dict[str, list[dict[str, Any]]] = {}
    for name, sources in _models(config).items():
        for number, source in enumerate(sources):
            console.print(f"{name} {number}: {source}")
            file = config.run_dir / f"{name}-{number}.json"
            results.setdefault(name, []).append(run_evaluation(source, _settings(config, file, trained)).plain)
    _write(config, results, trained)
    console.print(Markdown((config.run_dir / "retrieval.md").read_text(encoding="utf-8")))
    console.print(f"comparison: {config.run_dir / 'retrieval.json'}, retrieval.md and retrieval.png beside it")
    return config.run_dir


def _trained_length(twins: Path) -> int:
    file = twins / "config.json"
    if not file.is_file():
        raise ValueError(f"twins={twins} is no run of `tandem recipe twins`; make one, or name its directory")
    return read_json_object(file)["context"]


def _models(config: RetrievalConfig) -> dict[str, list[str]]:
    """The checkpoints of each model, one a seed.

    Raises:
        ValueError: twins that are not trained yet, or a source that is none.
    """
    twins = read_json_object(config.twins / "config.json")
    names = ("hybrid", *twins["against"])
    seeds = {name: _seeds(config.twins, name)[: config.seeds] for name in names}
    missing = [name for name, checkpoints in seeds.items() if not checkpoints]
    if missing:
        raise ValueError(f"twins={config.twins} has no trained {missing[0]}; finish `tandem recipe twins`")
    for source in config.also:
        hub.find(source)
    return {**seeds, **{Path(source).name: [source] for source in config.also}}


def _seeds(twins: Path, name: str) -> list[str]:
    models = [path for path in twins.glob(f"{name}-seed-*/model") if path.is_dir()]
    return [str(path) for path in sorted(models, key=lambda path: int(path.parent.name.rpartition("-")[2]))]


def _settings(config: RetrievalConfig, file: Path, trained: int) -> EvaluateConfig:
    return EvaluateConfig(
        tasks=",".join(TASKS),
        trained_length=trained,
        lengths=tuple(k * trained for k in (1, 2, 3, 4)),
        samples=config.samples,
        seed=config.seed,
        batch=config.batch,
        device=config.device,
        output=file,
    )


def _write(config: RetrievalConfig, results: Results, trained: int) -> None:
    panels, guesses = {}, {}
    for metric, title in TITLES.items():
        for task in TASKS:
            panel = f"{task.replace('-', ' ').capitalize()}: {title}"
            panels[panel] = {name: band_by_length(files, task, metric) for name, files in results.items()}
            curve = by_length(next(iter(results.values()))[:1], task, metric, "guess")
            guesses[panel] = {length: values[0] for length, values in curve.items()}
    rows = [line for task in TASKS for line in table_rows(results, task)]
    files = {
        "retrieval.json": json.dumps(results, indent=1).encode(),
        "retrieval.md": _table(config, rows).encode(),
        "retrieval.png": png(retrieval_figure(panels, guesses, trained)),
    }
    write_files(config.run_dir, files)


def by_length(files: Sequence[Mapping[str, Any]], task: str, metric: str, kind: str) -> dict[float, list[float]]:
    """One value a file at each length."""
    curve: dict[float, list[float]] = {}
    for cell in (cell for file in files for cell in file["results"] if cell["task"] == task):
        value = cell[kind][metric]
        curve.setdefault(cell["length"], []).append(value["value"] if kind == "metrics" else value)
    return curve


def band_by_length(
    files: Sequence[Mapping[str, Any]], task: str, metric: str
) -> dict[float, tuple[float, float, float]]:
    """The mean of all trainings with their range at each length; of one training, its 95 % interval."""
    if len(files) > 1:
        curve = by_length(files, task, metric, "metrics")
        return {length: (sum(values) / len(values), min(values), max(values)) for length, values in curve.items()}
    band: dict[float, tuple[float, float, float]] = {}
    for cell in (cell for cell in files[0]["results"] if cell["task"] == task):
        found = cell["metrics"][metric]
        # One sample has no interval.
        low, high = (found["value"] if found[end] is None else found[end] for end in ("low", "high"))
        band[cell["length"]] = (found["value"], low, high)
    return band


def table_rows(models: Results, task: str) -> Iterator[str]:
    """Lines of the table: a task at each length, each model and a guess."""
    of_model = {
        name: {metric: by_length(files, task, metric, "metrics") for metric in METRICS}
        for name, files in models.items()
    }
    guess = {metric: by_length(next(iter(models.values()))[:1], task, metric, "guess") for metric in METRICS}
    for length in guess["exact"]:
        for name, curves in {**of_model, "a guess": guess}.items():
            values = " | ".join(mean_range(curves[metric][length]) for metric in METRICS)
            yield f"| {task} | {length:,.0f} | {name} | {values} |"


def _table(config: RetrievalConfig, rows: Sequence[str]) -> str:
    head = [f"| task | tokens | model | {' | '.join(METRICS)} |", f"|---|---|---|{'---|' * len(METRICS)}"]
    command = f"tandem recipe retrieval --samples {config.samples} --seed {config.seed}"
    if config.seeds is not None:
        command += f" --seeds {config.seeds}"
    note = f"{config.samples} questions at each length to each training; mean (lowest–highest). `{command}`"
    return "\n".join([*head, *rows, "", note, ""])
