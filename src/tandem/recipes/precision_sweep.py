"""Small formats in training: many small runs over formats, blocks, operands, tokens and sizes, and the law refitted to them.

Start at `sweep_precision`. Every run is a whole training of a hybrid with experts on the same tokens, and differs from its
neighbors in one thing. `grid` says which there are and why.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, MoEConfig
from tandem.precision import PrecisionConfig
from tandem.precision.recipe import PAPER_TARGETS, TARGETS
from tandem.recipes.comparison import quickstart_shards, settings_of
from tandem.recipes.precision_results import row_of, write_results
from tandem.recipes.pretrain import PretrainConfig
from tandem.recipes.quickstart import HELD_OUT_BYTES, training
from tandem.recipes.side_by_side import pretrain_all
from tandem.report import atomic_path
from tandem.train import claim_run_dir

COARSE, FINE = "E1M1", "E2M1"
"""Formats trained at every size and length; what rounding costs is plain in the first."""
BLOCK = 64
LAYOUTS = ("E1M2", "E3M0", "E2M2", "E2M3", "E3M2", "E4M3", "E5M2")
BLOCKS: tuple[int | str, ...] = (16, 32, "channel")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionSweepConfig:
    """Trains small hybrids in many formats, refits the law of what a format costs, and reports.

    Ctrl-C saves and leaves; the same command goes on, and finished trainings are not repeated. The run directory holds a
    directory a training, precision.json, precision.md (tables for the docs) and precision.png.
    """

    run_dir: Path = Path("runs/precision")
    """Where everything is written."""

    data: Path | None = None
    """Directory written by `tandem data tokenize`; the quickstart's corpus when left out."""

    widths: tuple[int, ...] = (64, 96, 144)
    """Widths of the models, multiples of 16, from narrow to wide."""

    steps: tuple[int, ...] = (300, 600, 1200)
    """Optimizer steps of the trainings, from short to long."""

    seeds: int = 3
    """Trainings of the cells that tell how far chance reaches."""

    batch_tokens: int = 2048
    """Tokens of one step."""

    context: int = 512
    """Longest piece of a document in a batch, in tokens."""

    lr: float = 3e-3
    """Peak learning rate."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""

    jobs: int = 1
    """Trainings side by side, each a process with its share of the cores."""

    def __post_init__(self) -> None:
        for name in ("seeds", "batch_tokens", "context", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; use 1 or more")
        for name in ("widths", "steps"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"{name}={values} must be one or more, each above the one before")
        if any(width % 16 or width < 16 for width in self.widths):
            raise ValueError(f"widths={self.widths} must be multiples of 16; use such as 64 96 144")
        if min(self.steps) < 2:
            raise ValueError(f"steps={self.steps} must each be 2 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training of the sweep."""

    width: int
    steps: int
    format: str | None = None
    block: int | str = BLOCK
    targets: tuple[str, ...] = PAPER_TARGETS
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its directory."""
        rounded = f"{self.format}-{self.block}-{''.join(self.targets)}" if self.format else "bf16"
        return f"w{self.width}-s{self.steps}-{rounded}-seed-{self.seed}"

    @property
    def precision(self) -> PrecisionConfig:
        """The options of its run."""
        if self.format is None:
            return PrecisionConfig()
        return PrecisionConfig(format=self.format, block=self.block, targets=self.targets)  # pyright: ignore[reportArgumentType]


def grid(config: PrecisionSweepConfig) -> list[Cell]:
    """All trainings, each once.

    At every size and length: without rounding, and in two formats. At the middle: other formats, other blocks, each operand
    alone and some together, more seeds. The smallest model is trained for longer with its coarsest scales, where more data
    might hurt.
    """
    return list(dict.fromkeys(_cells(config)))


def _cells(config: PrecisionSweepConfig) -> Iterator[Cell]:
    for width in config.widths:
        for steps in config.steps:
            yield from (Cell(width=width, steps=steps, format=format) for format in (None, COARSE, FINE))
    middle = Cell(width=config.widths[len(config.widths) // 2], steps=config.steps[len(config.steps) // 2])
    yield from (dataclasses.replace(middle, format=format) for format in LAYOUTS)
    for steps in (middle.steps, config.steps[-1]):
        yield from (dataclasses.replace(middle, steps=steps, format=COARSE, block=block) for block in BLOCKS)
    sets = [*((target,) for target in TARGETS), ("P2", "P6"), ("P4", "P6"), PAPER_TARGETS, TARGETS]
    yield from (dataclasses.replace(middle, format=COARSE, block=32, targets=targets) for targets in sets)
    for seed in range(1, config.seeds):
        yield dataclasses.replace(middle, seed=seed)
        yield dataclasses.replace(middle, seed=seed, format=COARSE)
        for target in ("P1", "P3", "P5"):
            yield dataclasses.replace(middle, seed=seed, format=COARSE, block=32, targets=(target,))
    for steps in (*config.steps, 2 * config.steps[-1]):
        smallest = Cell(width=config.widths[0], steps=steps)
        yield from (smallest, dataclasses.replace(smallest, format=COARSE, block="channel"))


def sweep_precision(config: PrecisionSweepConfig) -> Path | None:
    """Trains what is not trained yet, refits, and writes the report; returns the run directory.

    None after an interruption, when the same call goes on.

    Raises:
        ValueError: an unknown device or data, a run directory of other settings, or a training that failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    hub.choose_device(config.device)
    data = config.data or quickstart_shards()
    vocabulary = Tokenizer.load(data).vocab_size
    models = {str(width): sweep_model(width, vocabulary, config.context) for width in config.widths}
    cells = grid(config)
    claim_run_dir(config.run_dir, settings_of(config, models), {"seeds", "jobs", "device"})
    for width, model in models.items():
        with atomic_path(config.run_dir / f"width-{width}.json") as temporary:
            temporary.write_text(model.to_json() + "\n", encoding="utf-8")
    runs = [_training(config, cell, data) for cell in cells]
    if not pretrain_all(runs, jobs=config.jobs):
        console.print("stopped; the same command goes on")
        return None
    write_results(config, [row_of(models[str(cell.width)], run) for cell, run in zip(cells, runs, strict=True)])
    console.print(Markdown((config.run_dir / "precision.md").read_text(encoding="utf-8")))
    console.print(f"report: {config.run_dir / 'precision.json'}, precision.md and precision.png beside it")
    return config.run_dir


def sweep_model(width: int, vocabulary: int, context: int) -> ModelConfig:
    """A hybrid with experts in which every map grows with the width."""
    return ModelConfig(
        vocab_size=vocabulary,
        width=width,
        pattern="MF AMF MF",
        attention=AttentionConfig(heads=width // 16, kv_heads=width // 16, head_width=16),
        mamba=MambaConfig(heads=width // 8, head_width=16, state=32),
        ffn=MoEConfig(experts=4, top_k=2, hidden=width),
        context=context,
    )


def _training(config: PrecisionSweepConfig, cell: Cell, data: Path) -> PretrainConfig:
    settings = training(cell.steps, config.lr)
    every = {"checkpoint_every": max(1, cell.steps // 2), "validate_every": cell.steps, "keep_checkpoints": 1}
    return PretrainConfig(
        run_dir=config.run_dir / cell.name,
        data=(data,),
        model=str(config.run_dir / f"width-{cell.width}.json"),
        context=config.context,
        batch_tokens=config.batch_tokens,
        validation_bytes=HELD_OUT_BYTES,
        precision=cell.precision,
        device=config.device,
        train=dataclasses.replace(settings, seed=cell.seed, **every),
    )
