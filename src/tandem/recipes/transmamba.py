"""TransMamba against Transformer, Mamba-2 and a hybrid of equal parameters, tokens and seeds. Start at `compare_transmamba`.

What is equal: vocabulary, width, depth, mixers' widths, total parameters (within 1 %), tokens, their order at each seed,
schedule and optimizer. TransMamba is trained with several schedules of TransPoints. Then all are asked for phone numbers at
once, twice and four times the trained length, and the first schedule's weights are run with other schedules, before and
after a short training with them. Small models learn no lookup from natural text alone, so phone books are mixed into it.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markdown import Markdown

from tandem import hub
from tandem.data import Tokenizer, read_json_object
from tandem.evaluate import EvaluateConfig, run_evaluation
from tandem.nn import ModelConfig
from tandem.plan import transmamba_twins
from tandem.recipes.comparison import Runs, quickstart_shards, seed_by_seed, seeded_runs, settings_of
from tandem.recipes.phone_books import write_phone_book_shards
from tandem.recipes.pretrain import PretrainConfig, read_model_config, validate_at_start
from tandem.recipes.quickstart import HELD_OUT_BYTES, training
from tandem.recipes.side_by_side import call_all, pretrain_all
from tandem.recipes.transmamba_results import TASK, Measured, write_results
from tandem.recipes.transmamba_speed import speeds_by_length
from tandem.report import atomic_path
from tandem.train import claim_run_dir

MULTIPLES = (1, 2, 4)
"""Lengths of the phone books asked about, in trained lengths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransMambaRecipeConfig:
    """Trains TransMamba with several schedules, a Transformer, a Mamba-2 and a hybrid of equal parameters, and compares them.

    Ctrl-C saves and leaves; the same command goes on, and finished trainings are not repeated. The run directory holds a
    directory a training, transmamba.json, transmamba.md (tables for the docs) and transmamba.png.
    """

    run_dir: Path = Path("runs/transmamba")
    """Where everything is written."""

    data: Path | None = None
    """Directory written by `tandem data tokenize`; the quickstart's corpus when left out."""

    model: str = "transmamba-nano"
    """The TransMamba: a preset, or the path of a JSON file with a model config. Named schedules are spread over `context`."""

    schedules: tuple[str, ...] = ("v9", "v6", "v4", "v1")
    """Schedules to train TransMamba with. The first one's weights are then run with others."""

    changes: tuple[str, ...] = ("attention", "mamba", "hybrid", "v1")
    """Schedules to run them with."""

    seeds: int = 3
    """Trainings of each model, with seeds 0, 1, …; more may be added later."""

    steps: int = 1500
    """Optimizer steps of each training."""

    batch_tokens: int = 2048
    """Tokens of one step."""

    context: int = 512
    """Longest piece of a document in a batch, in tokens."""

    lr: float = 3e-3
    """Peak learning rate."""

    books: float = 0.5
    """Share of the tokens that are phone books."""

    adapt: float = 0.1
    """Steps of the training with another schedule, as a share of `steps`."""

    samples: int = 100
    """Phone numbers asked for at each length."""

    batch: int = 10
    """Questions side by side."""

    speed_contexts: tuple[int, ...] = ()
    """Lengths to measure training speed at, besides `context`. Named schedules are spread over each."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""

    graphs: Literal["auto", "off"] = "off"
    """`auto` trains with CUDA graphs where they can be captured."""

    jobs: int = 1
    """Trainings side by side, each a process with its share of the cores."""

    rounds: int = 7
    """Rounds of the speed measurement, which runs alone at the end."""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch_tokens", "context", "samples", "batch", "jobs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; use 1 or more")
        for name in ("schedules", "changes", "speed_contexts"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} names one twice; name each once")
        if not self.schedules:
            raise ValueError("schedules=() names none; give one or more, such as v9 v1")
        for name in ("books", "adapt"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not between 0 and 1; use a share such as 0.1")
        if any(length < 1 for length in self.speed_contexts):
            raise ValueError(
                f"speed_contexts={self.speed_contexts} holds one below 1; use counts of tokens such as 2048"
            )


def compare_transmamba(config: TransMambaRecipeConfig) -> Path | None:
    """Trains what is not trained yet, measures, and writes the comparison; returns the run directory.

    None after an interruption, when the same call goes on.

    Raises:
        ValueError: an unknown model, schedule, device or data, a model without T layers or without twins, a context with no
            room for a phone book, a run directory of other settings, or a training that failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = hub.choose_device(config.device)
    models = transmamba_models(config)
    shared = {"seeds", "jobs", "device", "rounds", "batch", "speed_contexts"}
    text = config.data or quickstart_shards()
    Tokenizer.load(text)  # a mistaken directory is told before the run directory belongs to it
    claim_run_dir(config.run_dir, settings_of(config, models), shared)
    template = _training(config, (text, _books(config, text)))
    runs = seeded_runs(template, models, config.seeds)
    adapted = _adaptations(config, runs[config.schedules[0]])
    # The second begin from weights that the first leave.
    if not all(pretrain_all(seed_by_seed(of), jobs=config.jobs) for of in (runs, adapted)):
        console.print("stopped; the same command goes on")
        return None
    measured = Measured(
        runs=runs,
        adapted=adapted,
        **_measurements(config, runs, adapted),
        speeds=speeds_by_length(models, template, device, longer=config.speed_contexts, rounds=config.rounds),
    )
    write_results(config, models, measured, device)
    console.print(Markdown((config.run_dir / "transmamba.md").read_text(encoding="utf-8")))
    console.print(f"comparison: {config.run_dir / 'transmamba.json'}, transmamba.md and transmamba.png beside it")
    return config.run_dir


def transmamba_models(config: TransMambaRecipeConfig) -> dict[str, ModelConfig]:
    """The models by name, all of as many parameters: three kinds to compare with, and TransMamba by schedule.

    Raises:
        ValueError: an unknown model or schedule, or a model without T layers or without twins.
    """
    shape = read_model_config(config.model)
    first = shape.replace(context=max(shape.context, config.context)).rescheduled(config.schedules[0], config.context)
    for change in config.changes:
        first.rescheduled(change)
    twins = transmamba_twins(first)
    # The Transformer first: all times are told as shares of its.
    return {
        "transformer": twins["attention"],
        "mamba": twins["mamba"],
        "hybrid": twins["hybrid"],
        **{schedule: first.rescheduled(schedule) for schedule in config.schedules},
    }


def _measurements(config: TransMambaRecipeConfig, runs: Runs, adapted: Runs) -> dict[str, Any]:
    """What is asked of the trained weights, by field of `Measured`; as many at once as trainings."""
    asked: dict[str, dict[str, list[partial[dict[str, Any]]]]] = {
        "unadapted": {name: [partial(_at_start, run) for run in of] for name, of in adapted.items()},
        "retrieval": {name: [partial(_asked, config, run, MULTIPLES) for run in of] for name, of in runs.items()},
        "retrieval_adapted": {name: [partial(_asked, config, run, (1,)) for run in of] for name, of in adapted.items()},
        "retrieval_unadapted": {
            name: [partial(_asked_at_start, config, run) for run in of] for name, of in adapted.items()
        },
    }
    every = [ask for kind in asked.values() for of in kind.values() for ask in of]
    answers = iter(call_all(_answer, every, jobs=config.jobs, label="evaluations"))
    return {kind: {name: [next(answers) for _ in of] for name, of in models.items()} for kind, models in asked.items()}


def _answer(ask: "partial[dict[str, Any]]") -> dict[str, Any]:
    return ask()


def _books(config: TransMambaRecipeConfig, text: Path) -> Path:
    """Phone books enough that none is read twice in one training and one adaptation."""
    tokens = config.books * config.batch_tokens * (config.steps + _adapt_steps(config))
    return write_phone_book_shards(
        config.run_dir / "phone-books",
        Tokenizer.load(text),
        documents=math.ceil(1.1 * tokens / config.context) + 1,
        tokens=config.context,
    )


def _training(config: TransMambaRecipeConfig, data: tuple[Path, Path]) -> PretrainConfig:
    """What all trainings have in common."""
    settings = dataclasses.replace(
        training(config.steps, config.lr),
        checkpoint_every=max(1, min(config.steps // 4, 500)),
        keep_checkpoints=1,
        validate_every=config.steps,
        graphs=config.graphs,
    )
    return PretrainConfig(
        run_dir=config.run_dir,
        data=data,
        weights=(1 - config.books, config.books),
        context=config.context,
        batch_tokens=config.batch_tokens,
        validation_bytes=HELD_OUT_BYTES,
        device=config.device,
        train=settings,
    )


def _adapt_steps(config: TransMambaRecipeConfig) -> int:
    return max(1, round(config.adapt * config.steps))


def _adaptations(config: TransMambaRecipeConfig, trained: Sequence[PretrainConfig]) -> dict[str, list[PretrainConfig]]:
    """Short trainings of the first schedule's weights with each schedule: its own too, to tell change from more steps."""
    schedules = dict.fromkeys((config.schedules[0], *config.changes))
    return {schedule: [_adaptation(config, schedule, run) for run in trained] for schedule in schedules}


def _adaptation(config: TransMambaRecipeConfig, schedule: str, trained: PretrainConfig) -> PretrainConfig:
    # A third of the peak: the weights are not to be learned anew. Another seed: not the order of tokens again.
    settings = training(_adapt_steps(config), config.lr / 3)
    train = dataclasses.replace(
        trained.train,
        steps=settings.steps,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        validate_every=settings.steps,
        checkpoint_every=settings.steps,
        seed=_ADAPTED + trained.train.seed,
    )
    name = f"{config.schedules[0]}-as-{schedule}-seed-{trained.train.seed}"
    return dataclasses.replace(
        trained,
        run_dir=config.run_dir / name,
        model=None,
        init=str(trained.run_dir / "model"),
        schedule=schedule,
        train=train,
    )


_ADAPTED = 1000


def _at_start(run: PretrainConfig) -> dict[str, Any]:
    """The validation of its weights before a training, kept in a file beside it."""
    file = run.run_dir / "at-start.json"
    if not file.is_file():
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(validate_at_start(run)) + "\n", encoding="utf-8")
    return read_json_object(file)


def _asked(config: TransMambaRecipeConfig, run: PretrainConfig, multiples: Sequence[int]) -> dict[str, Any]:
    settings = _questions(config, run.run_dir / "retrieval.json", multiples)
    return run_evaluation(str(run.run_dir / "model"), settings).plain


def _asked_at_start(config: TransMambaRecipeConfig, run: PretrainConfig) -> dict[str, Any]:
    assert run.init is not None
    settings = _questions(config, run.run_dir / "retrieval-at-start.json", (1,))
    return run_evaluation(run.init, dataclasses.replace(settings, schedule=run.schedule)).plain


def _questions(config: TransMambaRecipeConfig, file: Path, multiples: Sequence[int]) -> EvaluateConfig:
    return EvaluateConfig(
        tasks=TASK,
        trained_length=config.context,
        lengths=tuple(k * config.context for k in multiples),
        samples=config.samples,
        batch=config.batch,
        device=config.device,
        output=file,
    )
