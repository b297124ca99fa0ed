"""The settings of a training run: one frozen tree, checked when it is made."""

import math
from dataclasses import dataclass, field
from typing import Literal


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW as in Hunyuan-TurboS (arXiv 2505.15431 §2): betas 0.9 and 0.95, weight decay 0.1.

    Attributes:
        lr: peak learning rate.
        weight_decay: for matrices only; norms, biases, `A_log`, `dt_bias` and `D` are never decayed.
        expert_lr_factor: learning rate of routed experts relative to the rest. An expert sees only its share of a
            batch; Hunyuan-Large (arXiv 2411.02265) uses 0.31 when 1 token in 16 reaches an expert.
        moments: format of AdamW's running means. bfloat16 halves their memory and a third of AdamW's time, as in
            DeepSeek-V3 (arXiv 2412.19437 §3.3.3); only the captured step of a GPU (`train.graphs`) has it.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    eps: float = 1e-8
    expert_lr_factor: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"train.optimizer.lr={self.lr} is not above 0; try 1e-3")
        _require(self.lr < math.inf, f"train.optimizer.lr={self.lr} leaves no weight finite; try 1e-3")
        _require(
            all(0 <= beta < 1 for beta in self.betas),
            f"train.optimizer.betas={self.betas} must both lie in [0, 1); use 0.9 0.95",
        )
        _require(
            self.weight_decay >= 0, f"train.optimizer.weight_decay={self.weight_decay} is below 0; use 0 to switch off"
        )
        _require(self.eps > 0, f"train.optimizer.eps={self.eps} is not above 0; use 1e-8")
        _require(
            self.expert_lr_factor > 0,
            f"train.optimizer.expert_lr_factor={self.expert_lr_factor} is not above 0; use 1.0 to treat experts alike",
        )
        _require(
            self.moments in ("float32", "bfloat16"),
            f"train.optimizer.moments={self.moments!r} is not known; use float32 or bfloat16",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rate moves; the formulas are in `learning_rate_factor`.

    Attributes:
        kind: `cosine`, `wsd` (warm-up, stable, decay) or `constant`.
        warmup_steps: steps of the linear rise from 0 to the peak.
        decay_fraction: share of all steps that the decay of `wsd` takes, at the end.
        final_lr: where cosine and decay end, as a fraction of the peak.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    final_lr: float = 0.1

    def __post_init__(self) -> None:
        _require(
            self.kind in ("cosine", "wsd", "constant"),
            f"train.schedule.kind={self.kind!r} is not known; use cosine, wsd or constant",
        )
        _require(
            self.warmup_steps >= 0, f"train.schedule.warmup_steps={self.warmup_steps} is below 0; use 0 for no warm-up"
        )
        _require(
            0 < self.decay_fraction <= 1,
            f"train.schedule.decay_fraction={self.decay_fraction} is not in (0, 1]; use 0.2",
        )
        _require(0 <= self.final_lr <= 1, f"train.schedule.final_lr={self.final_lr} is not in [0, 1]; use 0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpikeConfig:
    """Which steps are left out. A step whose loss or gradient is not finite is always left out.

    Attributes:
        grad_norm: leave out a step whose gradient norm exceeds this multiple of the running median; None never does.
        loss: the same for the loss, for tasks whose loss stays well above 0.
        window: accepted steps that the median is taken over; nothing is judged before a quarter of it is known.
        max_consecutive: steps left out in a row after which the run stops with an error.
    """

    grad_norm: float | None = 10.0
    loss: float | None = None
    window: int = 128
    max_consecutive: int = 20

    def __post_init__(self) -> None:
        for name in ("grad_norm", "loss"):
            multiple = getattr(self, name)
            _require(
                multiple is None or multiple > 1,
                f"train.skip.{name}={multiple} is not above 1; use 10, or None to switch it off",
            )
        _require(self.window >= 4, f"train.skip.window={self.window} is below 4; use 128")
        _require(self.max_consecutive >= 1, f"train.skip.max_consecutive={self.max_consecutive} is below 1; use 20")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything the loop needs to know besides the task and the data.

    Attributes:
        steps: optimizer steps of the whole run (of the stage, in a curriculum).
        clip_norm: largest gradient norm; None never clips.
        accumulate: batches whose gradients are averaged into one step, by their weights.
        seed: seeds Python, NumPy and torch when a run starts, not when it goes on.
        checkpoint_every: steps between checkpoints; the last step and an interrupted one are always saved.
        keep_checkpoints: how many of the newest checkpoints are kept.
        log_every: steps between `train` rows.
        validate_every: steps between validations, the last step included; 0 never validates.
        skip: which steps are left out.
        precision: number format of the forward pass; weights and optimizer stay as they are. The task obeys it.
        compile: `auto` and `on` let the task compile what gains from it; without a C++ compiler both mean `off`.
        graphs: `auto` captures the step as CUDA graphs on a GPU where precision is bfloat16, accumulate is 1, weights are float32
            and the task can (see `CapturedStep`); `off` issues every step anew.
        max_seconds: stop after this many seconds of this process, save, and go on when started again. It never
            changes the schedule, which depends on the step alone, so that a run can be repeated exactly.
        tensorboard: also write TensorBoard events to `tensorboard/` in the run directory.
    """

    steps: int = 1000
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: float | None = 1.0
    accumulate: int = 1
    seed: int = 0
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    log_every: int = 10
    validate_every: int = 200
    skip: SpikeConfig = field(default_factory=SpikeConfig)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto", "on", "off"] = "auto"
    graphs: Literal["auto", "off"] = "auto"
    max_seconds: float | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "checkpoint_every", "keep_checkpoints", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}={getattr(self, name)} is below 1; use 1 or more")
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            f"train.clip_norm={self.clip_norm} is not above 0; use 1.0, or None to switch it off",
        )
        _require(self.seed >= 0, f"train.seed={self.seed} is below 0; use 0 or more")
        _require(self.seed < 2**63, f"train.seed={self.seed} is 2**63 or more; use a smaller one, such as 0")
        _require(self.validate_every >= 0, f"train.validate_every={self.validate_every} is below 0; use 0 for never")
        _require(
            self.max_seconds is None or self.max_seconds > 0,
            f"train.max_seconds={self.max_seconds} is not above 0; use None for no limit",
        )
        for name, choices in (
            ("precision", ("float32", "bfloat16")),
            ("compile", ("auto", "on", "off")),
            ("graphs", ("auto", "off")),
        ):
            value = getattr(self, name)
            _require(value in choices, f"train.{name}={value!r} is not known; use {' or '.join(choices)}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        warmup = self.schedule.warmup_steps
        _require(
            warmup < self.steps,
            f"train.schedule.warmup_steps={warmup} leaves nothing of train.steps={self.steps}; "
            f"use at most {self.steps - 1}",
        )
        decay = self.schedule.decay_fraction
        _require(
            self.schedule.kind != "wsd" or warmup + decay * self.steps <= self.steps,
            f"train.schedule.decay_fraction={decay} of train.steps={self.steps} overlaps "
            f"train.schedule.warmup_steps={warmup}; use at most {(self.steps - warmup) / self.steps:.2g}",
        )
