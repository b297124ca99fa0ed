"""`tandem eval` as a function: which cells are asked for, which are there, and the loop over the rest."""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from tandem import hub
from tandem._version import __version__
from tandem.data import read_documents, read_text
from tandem.evaluate.needle import draw_needle
from tandem.evaluate.perplexity import Mode, Reading, measure_text
from tandem.evaluate.phone_book import draw_phone_book
from tandem.evaluate.results import Results, fingerprint
from tandem.evaluate.retrieval import Draw, Grid, Outcome, estimates, guesses, measure_retrieval
from tandem.evaluate.subject import Subject
from tandem.precision import RoundingConfig
from tandem.report import progress
from tandem.serve import Thinking

RETRIEVAL: Mapping[str, Draw] = {"needle": draw_needle, "phone-book": draw_phone_book}
PERPLEXITY = "perplexity"
MULTIPLES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What to measure, and how."""

    tasks: str
    """Comma-separated: perplexity, needle, phone-book, and names of lm-eval tasks."""

    text: Path | None = None
    """For perplexity: a UTF-8 text file of any length, or a .jsonl file with a `text` on each line."""

    reading: Mode = "windows"
    """For perplexity: read windows of the model's context, or the whole text through the decode state."""

    window: int | None = None
    """Tokens of a window; the model's context when left out."""

    overlap: int | None = None
    """Tokens that a window reads again from the one before; half a window when left out."""

    lengths: tuple[int, ...] = ()
    """For needle and phone-book: tokens of prompt and answer; 1, 2, 3 and 4 times the trained length when left out."""

    trained_length: int | None = None
    """Tokens of the longest text in training; the model's context when left out."""

    samples: int = 50
    """For needle and phone-book: questions at each length."""

    depths: int = 5
    """Places where the answer may stand, evenly from the beginning to the end."""

    thinking: Thinking = "short"
    """For chat models: short closes an empty think block, long opens one, auto leaves it to the model."""

    answer_tokens: int = 16
    """Most tokens of an answer to needle and phone-book, thinking included."""

    fewshot: int | None = None
    """For lm-eval tasks: examples in front; what the task says when left out."""

    schedule: tuple[int, ...] | str | None = None
    """TransPoints of the T layers in place of the model's: a name such as v7, or one a layer."""

    precision: RoundingConfig = field(default_factory=RoundingConfig)
    """Rounds weights, keys and values, or SSM states before anything is measured."""

    limit: int | None = None
    """For lm-eval tasks: only the first items of each."""

    include_path: Path | None = None
    """For lm-eval tasks: a directory with task YAML files of your own, whose data is on disk."""

    seed: int = 0
    """Of the questions; the same seed asks the same ones."""

    batch: int = 4
    """Texts read side by side."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the weights; that of the file when left out."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""

    output: Path | None = None
    """JSON file, or a directory to hold eval.json; left out, it is made from the model's name under runs/eval."""

    def __post_init__(self) -> None:
        for name in ("samples", "depths", "answer_tokens", "batch", "trained_length", "fewshot", "limit"):
            value, least = getattr(self, name), 0 if name == "fewshot" else 1
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is below {least}; use {least} or more")
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"lengths={self.lengths} holds one below 1; use counts of tokens such as 512 1024")
        if not self.names:
            raise ValueError(f"tasks={self.tasks!r} names no task; use {', '.join((PERPLEXITY, *RETRIEVAL))}")
        if PERPLEXITY in self.names and self.text is None:
            raise ValueError("text is missing for perplexity; give --text FILE")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.tasks.split(",") if name.strip()))

    @property
    def foreign(self) -> tuple[str, ...]:
        """The tasks of lm-eval."""
        return tuple(name for name in self.names if name != PERPLEXITY and name not in RETRIEVAL)


class Cell(NamedTuple):
    """One measurement to make.

    Attributes:
        tokens: how much is read, for the progress bar.
        settings: what its numbers depend on, besides the model.
        measure: does it; told to whom it reports the tokens it has read.
    """

    task: str
    length: int | None
    tokens: int
    settings: dict[str, Any]
    measure: Callable[[Callable[[int], None]], dict[str, Any]]


def run_evaluation(model: str, config: EvaluateConfig) -> Results:
    """Measures every cell that the output file does not have yet.

    Each cell is written when it is done, so after Ctrl-C the same call goes on, to the same numbers.

    Raises:
        ValueError: an unknown model, text or task, a schedule for a model without T layers, rounding of what the model does not
            keep, a length that a task cannot fill, or an output file of something else.
        ImportError: a task of lm-eval without lm-eval.
    """
    device = hub.choose_device(config.device)
    # First what fails at once: a missing package, an unknown task, a text that cannot be read.
    foreign_cells = _foreign(config)
    texts = _texts(config.text) if PERPLEXITY in config.names and config.text else []
    subject = Subject.load(
        model, dtype=config.dtype, device=device, thinking=config.thinking, answer_tokens=config.answer_tokens
    )
    if config.schedule is not None:
        subject.model.reschedule(config.schedule)
    with _seeded(config.seed):
        rounded = config.precision.apply(subject.model)
    results = Results(output_file(model, config.output), _header(model, subject, device, rounded))

    def missing(cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if results.find(cell.task, cell.length, cell.settings) is None]

    own, foreign = plan_cells(subject, config, texts), foreign_cells(subject)
    todo, others = missing(own), missing(foreign)
    total = sum(cell.tokens for cell in own)
    if todo:
        with progress("eval", total, unit="tokens", done=total - sum(cell.tokens for cell in todo)) as bar:
            for cell in todo:
                where = f"{cell.task} {cell.length:,}" if cell.length else cell.task
                _add(results, cell, config.seed, lambda n, where=where: bar.advance(n, at=where))
    for cell in others:  # they show progress of their own
        _add(results, cell, config.seed, lambda n: None)
    return results


def _add(results: Results, cell: Cell, seed: int, advance: Callable[[int], None]) -> None:
    with _seeded(seed):
        measured = cell.measure(advance)
    results.add({"task": cell.task, "length": cell.length, "settings": cell.settings, **measured})


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Has stochastic rounding draw the same numbers whatever was measured before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def output_file(model: str, output: Path | None) -> Path:
    """Where the results are written."""
    if output is None:
        return Path("runs/eval") / ("-".join(Path(model).parts).strip("/-.") + ".json")
    return output if output.suffix == ".json" else output / "eval.json"


def plan_cells(subject: Subject, config: EvaluateConfig, texts: Sequence[str]) -> list[Cell]:
    """The cells of our own tasks, in the order they were named, short lengths first."""
    cells: list[Cell] = []
    for name in config.names:
        if name == PERPLEXITY:
            cells.append(_perplexity(subject, config, texts))
        elif name in RETRIEVAL:
            cells += [_retrieval(subject, config, name, length) for length in lengths(subject, config)]
    return cells


def lengths(subject: Subject, config: EvaluateConfig) -> tuple[int, ...]:
    """Tokens of prompt and answer to ask at."""
    trained = config.trained_length or subject.context
    return tuple(sorted(set(config.lengths))) or tuple(k * trained for k in MULTIPLES)


def _perplexity(subject: Subject, config: EvaluateConfig, texts: Sequence[str]) -> Cell:
    reading = Reading(mode=config.reading, window=config.window, overlap=config.overlap, batch=config.batch)
    window, overlap = reading.resolved(subject.context) if config.reading == "windows" else (None, None)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

    def measure(advance: Callable[[int], None]) -> dict[str, Any]:
        score = measure_text(subject, texts, reading, advance)
        metrics = {"bits_per_byte": score.bits_per_byte, "perplexity": score.perplexity}
        return {"tokens": score.tokens, "bytes": score.bytes, "metrics": metrics}

    settings = {"text": config.text and config.text.name, "text_sha256": digest, "reading": config.reading}
    tokens = sum(len(subject.tokenizer.encode(text)) for text in texts)
    return Cell(PERPLEXITY, None, tokens, {**settings, "window": window, "overlap": overlap}, measure)


def _retrieval(subject: Subject, config: EvaluateConfig, task: str, length: int) -> Cell:
    grid = Grid(samples=config.samples, depths=config.depths, seed=config.seed, batch=config.batch)

    def measure(advance: Callable[[int], None]) -> dict[str, Any]:
        outcomes = measure_retrieval(
            subject, RETRIEVAL[task], task=task, length=length, grid=grid, advance=lambda n: advance(n * length)
        )
        return {
            "trained_length": config.trained_length or subject.context,
            "beyond_context": length > subject.context,
            "tokens": sum(outcome.tokens for outcome in outcomes) / len(outcomes),
            "metrics": estimates(outcomes),
            "guess": guesses(outcomes),
            "depths": _by_depth(outcomes),
        }

    settings = {"samples": config.samples, "depths": config.depths, "seed": config.seed}
    asked = {"thinking": config.thinking, "answer_tokens": config.answer_tokens, "chat": subject.chat}
    return Cell(task, length, config.samples * length, {**settings, **asked}, measure)


def _by_depth(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    depths = sorted({outcome.depth for outcome in outcomes})
    groups = {depth: [outcome for outcome in outcomes if outcome.depth == depth] for depth in depths}
    return [
        {"depth": depth, "n": len(group), **{name: each.value for name, each in estimates(group).items()}}
        for depth, group in groups.items()
    ]


def _foreign(config: EvaluateConfig) -> Callable[[Subject], list[Cell]]:
    """Makes the cells of lm-eval's tasks; the package and the tasks are looked for at once."""
    if not config.foreign:
        return lambda subject: []
    # On use: lm-eval is an extra, and takes seconds to import.
    from tandem.evaluate.lm_eval import VERSION, check_tasks, evaluate_task

    check_tasks(config.foreign, config.include_path)
    options = {"fewshot": config.fewshot, "limit": config.limit, "seed": config.seed}

    def cell(subject: Subject, name: str) -> Cell:
        def measure(advance: Callable[[int], None]) -> dict[str, Any]:
            return evaluate_task(subject, name, include_path=config.include_path, batch=config.batch, **options)

        return Cell(name, None, 0, {**options, "thinking": config.thinking, "lm_eval": VERSION}, measure)

    return lambda subject: [cell(subject, name) for name in config.foreign]


def _texts(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"text={path} is not a file; give a text file")
    if path.suffix.lower() == ".jsonl":
        return [document.text for document in read_documents(path)]
    return [read_text(path)]


def _header(model: str, subject: Subject, device: torch.device, rounded: Mapping[str, Any]) -> dict[str, Any]:
    versions = {"tandem": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "model": model,
        "precision": rounded or None,
        "fingerprint": fingerprint(subject.model),
        "context": subject.context,
        "device": device.type,
        "dtype": str(subject.model.embedding.dtype).removeprefix("torch."),
        "versions": versions,
    }
