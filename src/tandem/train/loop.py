"""The training loop: `fit` brings a task and its data through all steps, and through any number of restarts.

It knows no tokens; what a batch is and what its loss means is the task's business. Start at `fit`; each helper below
it is one line of the loop, and what must outlive a process is in `run.py`.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from tandem.train.allocator import keep_freed_memory
from tandem.train.captured import CapturedStep, Result, may_capture
from tandem.train.compiling import may_compile
from tandem.train.config import TrainConfig
from tandem.train.log import RunLog
from tandem.train.optimizer import clip_gradients
from tandem.train.protocols import Compilable, Replayable, Resumable, Steering, Trainable, Validating
from tandem.train.run import Leg, Reason, Run, RunResult
from tandem.train.schedule import set_learning_rate
from tandem.train.stop import StopRequest, stop_on_signals


def fit(task: Trainable, data: Resumable, config: TrainConfig, run_dir: Path, *, leg: Leg | None = None) -> RunResult:
    """Trains up to `config.steps`, going on from the newest whole checkpoint of `run_dir` when there is one.

    A run that was killed and started again ends with the same bits as one that was not, on the same machine and with
    the same number of threads, when the task and the data are built in the same way each time.

    Raises:
        ValueError: too many steps in a row were left out; the data could not be read (the run is then saved); or the
            checkpoint belongs to another model.
        OSError: the disk is full; earlier checkpoints are as they were.
    """
    keep_freed_memory()
    run = Run(task, data, config, run_dir, leg or Leg())
    run.restore()
    if run.progress.step >= config.steps:
        return run.result("finished")
    if isinstance(task, Compilable) and may_compile(config.compile):
        task.compile()
    with stop_on_signals() as stop, run.open_log() as log:
        return run.result(_train(run, stop, log))


def _train(run: Run, stop: StopRequest, log: RunLog) -> Reason:
    config, task, meter = run.config, run.task, _Meter(run)
    step = _step_of(run)
    task.module.train()
    while (reason := run.why_stop(stop)) is None:
        started = time.perf_counter()
        batches = run.next_batches()
        if not batches:
            continue
        values, norm = step.backward(batches)
        lr = set_learning_rate(run.optimizer, config, run.progress.step + 1)
        skipped = run.spikes.judge(float(values["loss"]), norm)
        step.finish(norm, accepted=skipped is None)
        if skipped is None and isinstance(task, Steering):
            task.after_step(values)
        run.count(values, time.perf_counter() - started)
        if skipped is not None:
            log.event(run.progress.row, f"step left out: {skipped}")
        elif run.is_due(config.log_every) or run.progress.step == 1:
            log.train(run.progress.row, {**values, "lr": lr, "grad_norm": norm, **meter.read()})
        log.advance()
        _validate(run, step, log)
        if run.is_due(config.checkpoint_every):
            run.save()
    run.save()
    return reason


def _step_of(run: Run) -> "PlainStep | CapturedStep":
    if may_capture(run.task, run.parameters, run.config):
        return CapturedStep(cast(Replayable, run.task), run.optimizer, run.config)
    if run.config.optimizer.moments != "float32":
        raise ValueError(
            f"train.optimizer.moments={run.config.optimizer.moments} needs the captured step, which needs a GPU, "
            "train.graphs=auto, train.precision=bfloat16 and train.accumulate=1; use moments=float32"
        )
    return PlainStep(run)


class PlainStep:
    """One optimizer step, issued call by call, with any number of batches and on any device."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def backward(self, batches: Sequence[Any]) -> tuple[dict[str, Any], float]:
        """Mean values of the batches, and the norm of their gradients before clipping."""
        values, weight = _backward(self._run.task, batches)
        return values, clip_gradients(self._run.parameters, self._run.config.clip_norm, weight)

    def finish(self, norm: float, *, accepted: bool) -> None:
        """Moves the parameters, unless the step is left out."""
        if accepted:
            self._run.optimizer.step()
        self._run.optimizer.zero_grad()

    def beside(self, work: Callable[[], Result]) -> Result:
        """Does it; there is nothing that could make room for it."""
        return work()


def _backward(task: Trainable, batches: Sequence[Any]) -> tuple[dict[str, Any], float]:
    """Adds up the gradients of the accumulated batches; they still have to be divided by the returned weight.

    Weights are relative to the first batch's, so that a single batch is not scaled, and so not rounded, at all.
    """
    outputs: list[dict[str, Any]] = []
    weights: list[float] = []
    for batch in batches:
        output = task.step(batch)
        weight, objective = output.pop("weight", 1.0), output.pop("objective", output["loss"])
        (objective * (float(weight) / (weights[0] or 1.0)) if weights else objective).backward()
        weights.append(float(weight))  # now: the CPU waits for a GPU here, which has the backward pass to do meanwhile
        outputs.append({name: v.detach() if isinstance(v, Tensor) else v for name, v in output.items()})
    if len(outputs) == 1:
        return outputs[0], 1.0
    # NaN where nothing has weight: such a step has no mean loss, and is left out as not finite.
    total = sum(weights) or math.nan
    return {name: _combine([o[name] for o in outputs], weights, total) for name in outputs[0]}, total / (
        weights[0] or 1.0
    )


def _combine(values: Sequence[Any], weights: Sequence[float], total: float) -> Any:
    """Counts add up; everything else is a mean by weight."""
    if isinstance(values[0], int):
        return sum(values)
    return sum(value * (weight / total) for value, weight in zip(values, weights, strict=True))


def _validate(run: Run, step: "PlainStep | CapturedStep", log: RunLog) -> None:
    task = run.task
    if run.is_due(run.config.validate_every) and isinstance(task, Validating):
        values = step.beside(task.validate)
        if values:
            run.validation = values
            log.validation(run.progress.row, values)


class _Meter:
    """Cumulative counts, and their rate since they were last read."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seconds, self._counts = run.progress.seconds, dict(run.progress.counts)

    def read(self) -> dict[str, float]:
        progress = self._run.progress
        seconds = max(progress.seconds - self._seconds, 1e-9)
        rates = {
            f"{name}_per_second": (count - self._counts.get(name, 0)) / seconds
            for name, count in progress.counts.items()
        }
        self._seconds, self._counts = progress.seconds, dict(progress.counts)
        return {"seconds": progress.seconds, **progress.counts, **rates}
