"""A curriculum: stages with their own data, context and schedule, run one after another as one run.

    run_dir/metrics.jsonl               rows of all stages, steps counted through
    run_dir/stages/1-base/checkpoints/  each stage has its own checkpoints

A stage starts from the last checkpoint of the one before: its weights, its optimizer state, its counts. Killed in any
stage, a curriculum goes on in that stage.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tandem.train.config import ScheduleConfig, TrainConfig
from tandem.train.loop import fit
from tandem.train.protocols import Resumable, Trainable
from tandem.train.run import Leg, RunResult, is_complete


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One part of a curriculum; what it does not name is as in the run's `TrainConfig`.

    Attributes:
        name: part of a directory name and of every metrics row, e.g. `base`.
        steps: optimizer steps of this stage.
        lr: peak learning rate.
        context: longest document of a batch, in tokens.
        batch_tokens: tokens of one batch; a step has `accumulate` of them.
        rope_alpha: NTK factor of the attention layers' RoPE in this stage.
        data: directories of token shards; those of the run when empty.
        weights: share of each directory in the mixture; equal when empty.
        cut: cut documents at the context. When not, longer ones are left to a later stage: a long chain of thought
            is never truncated (TurboS §2).
    """

    name: str
    steps: int
    lr: float
    context: int
    batch_tokens: int
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_steps=0))
    accumulate: int = 1
    rope_alpha: float = 1.0
    data: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    cut: bool = True

    def __post_init__(self) -> None:
        if not self.name or not all(part.isalnum() for part in self.name.split("-")):
            raise ValueError(f"stage.name={self.name!r} becomes a directory; use letters, digits and single dashes")
        for name in ("steps", "context", "batch_tokens", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"stage.{name}={getattr(self, name)} of stage {self.name!r} is below 1; use 1 or more")
        if self.rope_alpha < 1:
            raise ValueError(f"stage.rope_alpha={self.rope_alpha} of stage {self.name!r} is below 1; use 1 for none")

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The run's settings with this stage's own.

        Raises:
            ValueError: the stage's schedule does not fit its steps.
        """
        optimizer = replace(config.optimizer, lr=self.lr)
        return replace(
            config, steps=self.steps, accumulate=self.accumulate, optimizer=optimizer, schedule=self.schedule
        )


def fit_stages(
    stages: Sequence[Stage],
    config: TrainConfig,
    run_dir: Path,
    open_stage: Callable[[Stage, TrainConfig], tuple[Trainable, Resumable]],
) -> RunResult:
    """Runs the stages in order, going on in the one that an earlier process had reached.

    Args:
        config: what the stages do not name; `max_seconds` covers all of them together.
        open_stage: builds the task and the data of one stage; called again for each stage, so that the model may
            differ in anything but its weights, such as its RoPE.

    Returns:
        The result of the last stage that ran, with the run directory of all.

    Raises:
        ValueError: no stages, two of one name, or what `fit` raises.
    """
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"stages={names} must be at least one, each of its own name; rename or add stages")
    started = time.monotonic()
    after = result = None
    for number, stage in enumerate(stages, start=1):
        directory = run_dir / "stages" / f"{number}-{stage.name}"
        if number == len(stages) or not is_complete(directory, stage.steps):
            settings = _within(stage.settings(config), time.monotonic() - started)
            task, data = open_stage(stage, settings)
            leg = Leg(name=stage.name, metrics=run_dir / "metrics.jsonl", after=after)
            result = fit(task, data, settings, directory, leg=leg)
            if result.reason in ("interrupted", "time"):
                break
        after = directory
    assert result is not None
    return replace(result, run_dir=run_dir)


def _within(config: TrainConfig, spent: float) -> TrainConfig:
    """What is left of the time budget; an empty one still opens the stage, which then stops before its first step."""
    if config.max_seconds is None:
        return config
    return replace(config, max_seconds=max(config.max_seconds - spent, 1e-9))


def turbos_stages(
    *,
    pretraining: tuple[Path, ...],
    annealing: tuple[Path, ...],
    long_32k: tuple[Path, Path],
    long_256k: tuple[Path, Path],
) -> tuple[Stage, ...]:
    """The four stages of Hunyuan-TurboS (arXiv 2505.15431 §2) at full size, a documented config and not a CPU run.

    16T tokens at 4K, 300B of annealing, 30B at 32K with alpha 50, 20B at 256K with alpha 1000; about 9M tokens a step.
    Annealing falls to 5e-6, where the long stages stay. Peak and schedule of the base stage, and its batch, are not
    published: 3e-4 to 3e-5 by cosine are those of the sibling Hunyuan-A13B, the batch is that of the later stages, and
    2,000 steps of warm-up are our choice.

    Args:
        long_32k: directories of short and of long documents, mixed 3 to 1; long_256k the same.
    """
    batch, accumulate = 262144, 36

    def stage(name: str, tokens: float, context: int, lr: float, schedule: ScheduleConfig) -> Stage:
        steps = round(tokens / (batch * accumulate))
        return Stage(
            name=name,
            steps=steps,
            lr=lr,
            schedule=schedule,
            context=context,
            batch_tokens=batch,
            accumulate=accumulate,
            cut=False,
        )

    rising = ScheduleConfig(kind="cosine", warmup_steps=2000, final_lr=0.1)
    falling = ScheduleConfig(kind="cosine", warmup_steps=0, final_lr=5e-6 / 3e-5)
    still = ScheduleConfig(kind="constant", warmup_steps=0)
    mixed = (3.0, 1.0)
    return (
        replace(stage("base", 16e12, 4096, 3e-4, rising), data=pretraining, cut=True),
        replace(stage("annealing", 300e9, 4096, 3e-5, falling), data=annealing),
        replace(stage("long-32k", 30e9, 32768, 5e-6, still), data=long_32k, weights=mixed, rope_alpha=50.0),
        replace(stage("long-256k", 20e9, 262144, 5e-6, still), data=long_256k, weights=mixed, rope_alpha=1000.0),
    )
