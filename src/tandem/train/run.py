"""What `fit` keeps between steps, and how it comes back after a restart."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tandem.train.checkpoint import Checkpoints, Position, read_state
from tandem.train.config import TrainConfig
from tandem.train.log import RunLog, open_log
from tandem.train.optimizer import build_optimizer
from tandem.train.protocols import Resumable, Trainable
from tandem.train.randomness import seed_everything
from tandem.train.spikes import SpikeDetector
from tandem.train.stop import StopRequest

Reason = Literal["finished", "interrupted", "time", "data"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """The place of one `fit` in a longer run, such as a curriculum of stages.

    Attributes:
        name: the stage; it is written into every metrics row.
        metrics: the metrics file of the whole run; `metrics.jsonl` in this leg's run directory when None.
        after: run directory of the leg before, whose last weights, optimizer state and counts this one starts from.
    """

    name: str = ""
    metrics: Path | None = None
    after: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_dir: where checkpoints and metrics are.
        step: optimizer steps done, of `TrainConfig.steps`.
        reason: `finished`; `interrupted` by a signal; `time` when `max_seconds` were over; `data` when it ran out.
        seconds: training time of all processes so far, without validation and checkpoints.
        counts: what the task counted, over the whole run.
        validation: the last validation of this process, empty when there was none.
    """

    run_dir: Path
    step: int
    reason: Reason
    seconds: float
    counts: dict[str, int]
    validation: dict[str, Any]

    @property
    def interrupted(self) -> bool:
        """True when Ctrl-C or SIGTERM ended the run; starting it again goes on."""
        return self.reason == "interrupted"


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; `before` counts the steps of earlier legs, `exhausted` says that the data ran out."""

    step: int = 0
    before: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    exhausted: bool = False

    @property
    def row(self) -> int:
        """The step of metrics rows: optimizer steps done in all legs."""
        return self.before + self.step


class Run:
    """The moving parts of one `fit`: optimizer, progress, spike windows and checkpoints."""

    def __init__(self, task: Trainable, data: Resumable, config: TrainConfig, run_dir: Path, leg: Leg) -> None:
        self.task, self.data, self.config, self.run_dir, self.leg = task, data, config, run_dir, leg
        self.optimizer = build_optimizer(task.param_groups(config.optimizer), config.optimizer)
        self.parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.spikes = SpikeDetector(config.skip)
        self.checkpoints = Checkpoints(run_dir, config.keep_checkpoints)
        self.progress = Progress()
        self.validation: dict[str, Any] = {}
        self._started = time.monotonic()
        self._saved: int | None = None

    def restore(self) -> None:
        """Goes on from this run's newest checkpoint, or else from the leg before, or else starts with the seed.

        Raises:
            ValueError: the leg before left no whole checkpoint, or one of another model.
        """
        path = self.checkpoints.latest()
        if path is not None:
            data = self._load(path)
            self.data.load_state_dict(data)
            self._saved = self.progress.step
            return
        seed_everything(self.config.seed)
        if self.leg.after is not None:
            self._load(_last_checkpoint(self.leg.after))
            self.progress.before += self.progress.step
            self.progress.step = 0

    def save(self, data_state: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint unless this step has one; the data stands where it is now, or at `data_state`."""
        if self._saved == self.progress.step:
            return
        state = {**asdict(self.progress), "spikes": self.spikes.state_dict()}
        position = Position(state=state, data=self.data.state_dict() if data_state is None else data_state)
        self.checkpoints.save(self.task.module, self.optimizer, position)
        self._saved = self.progress.step

    def next_batches(self) -> list[Any]:
        """The batches of one step; none when the data ran out, after a checkpoint of where it did.

        Raises:
            ValueError: the data could not be read; everything up to the step before is saved.
        """
        # Taken before reading: after an error the data may stand between two batches.
        before = self.data.state_dict()
        try:
            return [next(self.data) for _ in range(self.config.accumulate)]
        except StopIteration:
            self.progress.exhausted = True
            # A checkpoint of this very step does not know yet that the data ran out.
            self._saved = None
            self.save(before)
            return []
        except (OSError, ValueError) as error:
            self.save(before)
            raise ValueError(
                f"data of step {self.progress.step + 1} could not be read ({error}); the run is saved, "
                "so repair the data and start it again"
            ) from error

    def count(self, values: dict[str, Any], seconds: float) -> None:
        """Completes a step: moves on and adds up time and counts."""
        self.progress.step += 1
        self.progress.seconds += seconds
        for name, value in values.items():
            if isinstance(value, int):
                self.progress.counts[name] = self.progress.counts.get(name, 0) + value

    def is_due(self, every: int) -> bool:
        """True at each `every`-th step and at the last one; never when `every` is 0."""
        return every > 0 and (self.progress.step % every == 0 or self.progress.step == self.config.steps)

    def why_stop(self, stop: StopRequest) -> Reason | None:
        """Why no further step is taken, or None when one is."""
        if self.progress.step >= self.config.steps:
            return "finished"
        if self.progress.exhausted:
            return "data"
        if stop.requested:
            return "interrupted"
        limit = self.config.max_seconds
        return "time" if limit is not None and time.monotonic() - self._started >= limit else None

    @contextmanager
    def open_log(self) -> Iterator[RunLog]:
        """Opens this run's outputs, without the rows that will be written again."""
        metrics = self.leg.metrics or self.run_dir / "metrics.jsonl"
        progress = self.progress
        with open_log(
            self.run_dir, metrics, self.config, stage=self.leg.name, done=progress.step, before=progress.before
        ) as log:
            yield log

    def result(self, reason: Reason) -> RunResult:
        """The result as of now."""
        return RunResult(
            run_dir=self.run_dir,
            step=self.progress.step,
            reason=reason,
            seconds=self.progress.seconds,
            counts=dict(self.progress.counts),
            validation=self.validation,
        )

    def _load(self, path: Path) -> dict[str, Any]:
        position = self.checkpoints.restore(path, self.task.module, self.optimizer)
        state = position.state
        self.spikes.load_state_dict(state["spikes"])
        # The data may have grown since; whether it is still exhausted is found out by reading on.
        self.progress = Progress(**{name: state[name] for name in ("step", "before", "seconds", "counts")})
        return position.data


def is_complete(run_dir: Path, steps: int) -> bool:
    """True when a run has done its steps or all its data, by its newest whole checkpoint."""
    path = Checkpoints(run_dir, 1).latest()
    if path is None:
        return False
    state = read_state(path)
    return state["step"] >= steps or state["exhausted"]


def _last_checkpoint(run_dir: Path) -> Path:
    path = Checkpoints(run_dir, 1).latest()
    if path is None:
        raise ValueError(f"run_dir={run_dir} holds no whole checkpoint to go on from; run that stage first")
    return path
