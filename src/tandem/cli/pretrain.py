"""`tandem pretrain`: a model from token shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tandem.cli.arguments import parse
from tandem.recipes.pretrain import PretrainConfig, read_stages, run_pretraining
from tandem.train import RunResult, Stage

# A list of stages is too much for a command line; it comes from a file.
_STAGES_FILE = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="FILE.json",
    instance_from_str=lambda arguments: read_stages(Path(arguments[0])),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [stage.name for stage in value] or ["none"],
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainArguments(PretrainConfig):
    """Train a model on token shards, from scratch or from a model that is there. Resumes by itself from its run directory.

    Ctrl-C saves and leaves; the same command goes on. The run directory holds config.json, metrics.jsonl, report.html,
    checkpoints and, at the end, the model.
    """

    stages: Annotated[tuple[Stage, ...], _STAGES_FILE] = ()
    """A curriculum, as a JSON list of stages (docs/training.md); its values win over context, batch_tokens and train."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), trains, and prints how the run ended."""
    print(summary(run_pretraining(parse(PretrainArguments, "tandem pretrain", argv))))


def summary(result: RunResult) -> str:
    """One line: how far the run came, the last validation, and how to go on."""
    endings = {
        "finished": f"the model is in {result.run_dir / 'model'}",
        "interrupted": "saved; the same command goes on",
        "time": "the time is up; saved, and the same command goes on",
        "data": "the data ran out; saved",
    }
    numbers = "".join(f", {name} {value:.4g}" for name, value in result.validation.items() if name != "tokens")
    return f"step {result.step}{numbers}: {endings[result.reason]}"
