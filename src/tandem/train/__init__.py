"""Training: one loop for every task, its optimizer and schedules, checkpoints, curricula and the language-model task."""

from tandem.train.allocator import keep_freed_memory
from tandem.train.captured import CapturedStep
from tandem.train.checkpoint import Checkpoints, find_damage
from tandem.train.config import OptimizerConfig, ScheduleConfig, SpikeConfig, TrainConfig
from tandem.train.curriculum import Stage, fit_stages, turbos_stages
from tandem.train.directory import MAY_CHANGE, claim_run_dir, held_run_dir
from tandem.train.language_model import LanguageModelTask
from tandem.train.loop import fit
from tandem.train.optimizer import build_optimizer, clip_gradients, param_groups
from tandem.train.protocols import Compilable, Replayable, Resumable, Steering, Trainable, Validating
from tandem.train.randomness import repeatable, seed_everything
from tandem.train.run import Leg, RunResult, is_complete
from tandem.train.schedule import learning_rate_factor
from tandem.train.stop import stop_on_signals

__all__ = [
    "MAY_CHANGE",
    "CapturedStep",
    "Checkpoints",
    "Compilable",
    "LanguageModelTask",
    "Leg",
    "OptimizerConfig",
    "Replayable",
    "Resumable",
    "RunResult",
    "ScheduleConfig",
    "SpikeConfig",
    "Stage",
    "Steering",
    "TrainConfig",
    "Trainable",
    "Validating",
    "build_optimizer",
    "claim_run_dir",
    "clip_gradients",
    "find_damage",
    "fit",
    "fit_stages",
    "held_run_dir",
    "is_complete",
    "keep_freed_memory",
    "learning_rate_factor",
    "param_groups",
    "repeatable",
    "seed_everything",
    "stop_on_signals",
    "turbos_stages",
]
