"""Pretraining from token shards: a whole run, from a config to a model directory.

Start at `run_pretraining`.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem import hub
from tandem.data import Packer, Source, Tokenizer, ValidationBatches, open_shards, validation_batches
from tandem.nn import HybridLM, ModelConfig, preset, presets
from tandem.precision import PrecisionConfig, quantize_model
from tandem.report import write_report
from tandem.train import (
    MAY_CHANGE,
    LanguageModelTask,
    RunResult,
    ScheduleConfig,
    SpikeConfig,
    Stage,
    TrainConfig,
    fit,
    fit_stages,
    held_run_dir,
    repeatable,
    seed_everything,
)

_MOST_TOKENS = 2**31 - 1


def _train_config() -> TrainConfig:
    # A language model's loss stays far above 0, so a multiple of its median is a sound bar.
    return TrainConfig(skip=SpikeConfig(loss=3.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Train a model on token shards, from scratch or from a model that is there. Resumes by itself from its run directory.

    Ctrl-C saves and leaves; the same command goes on. The run directory holds config.json, metrics.jsonl, report.html,
    checkpoints and, at the end, the model.
    """

    run_dir: Path
    """Where everything is written; an earlier run there is continued."""

    data: tuple[Path, ...]
    """Directories written by `tandem data tokenize`. The first one's validation split is the held-out text."""

    weights: tuple[float, ...] = ()
    """Share of each directory in the mixture, by tokens; equal when empty."""

    model: str | None = None
    """A preset, a JSON file with a model config, or a saved or released model whose shape to take; `nano` when neither this
    nor `init` is given."""

    init: str | None = None
    """Start from this model's weights in place of random ones: a model directory or a bundled checkpoint."""

    schedule: tuple[int, ...] | str | None = None
    """TransPoints of the T layers in place of the model's: a name such as v7, or one a layer."""

    context: int = 512
    """Longest piece of a document in a batch, in tokens."""

    batch_tokens: int = 8192
    """Tokens of one batch; a step has `train.accumulate` of them."""

    validation_bytes: int | None = 1_000_000
    """Bytes of held-out text per validation, rounded up to whole documents; None takes all."""

    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Operands of the layers' products to round to a small format; `train.precision` is the dtype of all the others."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N. A run may go on on another device."""

    train: TrainConfig = field(default_factory=_train_config)
    """The loop: steps, optimizer, schedule, checkpoints."""

    stages: tuple[Stage, ...] = ()
    """A curriculum in place of one stage; its values win over context, batch_tokens and train."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data=() names no token shards; give a directory written by `tandem data tokenize`")
        if self.init is not None and self.model is not None:
            raise ValueError(f"model={self.model} and init={self.init} both say what the model is; give one of them")
        for name, weights, data in (
            ("weights", self.weights, self.data),
            *((f"stages.{n}.weights", stage.weights, stage.data or self.data) for n, stage in enumerate(self.stages)),
        ):
            if weights and len(weights) != len(data):
                raise ValueError(f"{name}={weights} has {len(weights)} values for {len(data)} data; give one for each")
        for name in ("context", "batch_tokens", "validation_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if value < 1:
                raise ValueError(f"{name}={value} is below 1; use 1 or more")
            if name != "validation_bytes" and value > _MOST_TOKENS:
                raise ValueError(f"{name}={value} is more than a batch can have; use at most {_MOST_TOKENS}")


def run_pretraining(config: PretrainConfig) -> RunResult:
    """Trains, validates, reports and saves; goes on when the run directory holds an unfinished run.

    The run is exactly reproducible from `config.json` on one machine and device with one number of threads.

    Raises:
        ValueError: an unknown model or device, shards that are missing or damaged, a model too small for their vocabulary or of
            another tokenizer, a schedule without T layers, or a run directory that another process uses or that was started with
            other settings than steps and logging.
    """
    device = hub.choose_device(config.device)
    model_config = _architecture(config)
    tokenizer = _tokenizer(config, model_config)
    model: HybridLM | None = None

    def open_stage(stage: Stage, settings: TrainConfig) -> tuple[LanguageModelTask, Packer]:
        nonlocal model
        # Before every model, so that its first weights do not depend on what an earlier stage has drawn.
        seed_everything(settings.seed)
        model = _first_model(config, _at_stage(model_config, stage), tokenizer).to(device)
        quantize_model(model, config.precision.build())
        held_out = _validation(config, stage, model_config.chunk)
        return LanguageModelTask(model, settings, held_out), _packer(config, stage, model_config.chunk)

    with held_run_dir(config.run_dir, _plain(config, model_config), _may_change(config)):
        with repeatable(device):
            if config.stages:
                result = fit_stages(config.stages, config.train, config.run_dir, open_stage)
            else:
                task, data = open_stage(_only_stage(config), config.train)
                result = fit(task, data, config.train, config.run_dir)
        if result.reason == "finished" and model is not None:
            hub.save(model, tokenizer, config.run_dir / "model")
        if result.counts:
            write_report(config.run_dir)
    return result


def read_model_config(model: str) -> ModelConfig:
    """The preset of that name, the config in that JSON file, or the shape of that saved or released model.

    Raises:
        ValueError: no preset, file or model, or one that is no model config.
    """
    path = Path(model)
    if path.suffix == ".gguf" or (path.is_dir() and model not in presets()):
        return hub.read_config(path).model
    if path.suffix != ".json":
        try:
            return preset(model)
        except ValueError as error:
            raise ValueError(f"{error}, or give a .json file with a model config, or a model's directory") from error
    text = _read("model", path)
    try:
        return ModelConfig.from_json(text)
    except ValueError as error:
        raise ValueError(f"model={model} is no model config: {error}") from error


def _architecture(config: PretrainConfig) -> ModelConfig:
    model = read_model_config(config.model or "nano") if config.init is None else hub.read_config(config.init).model
    return model if config.schedule is None else model.rescheduled(config.schedule)


def _first_model(config: PretrainConfig, architecture: ModelConfig, tokenizer: Tokenizer) -> HybridLM:
    """Made on the CPU, so that the first weights are the same on every device; in float32, whatever the file has."""
    model = HybridLM(architecture)
    if config.init is not None:
        loaded, own, _ = hub.load(config.init, dtype="float32")
        if not isinstance(own, Tokenizer) or own.fingerprint != tokenizer.fingerprint:
            raise ValueError(
                f"init={config.init} reads other ids than those of data={config.data[0]}; tokenize with its own: "
                f"tandem data tokenize --tokenizer {hub.find(config.init) / 'tokenizer.json'}"
            )
        model.load_state_dict(loaded.state_dict())
    return model


def validate_at_start(config: PretrainConfig) -> dict[str, Any]:
    """What the validation of a run would say before its first step: `loss`, `bits_per_byte` and `tokens`.

    Raises:
        ValueError: as `run_pretraining`.
    """
    device = hub.choose_device(config.device)
    stage, model_config = config.stages[0] if config.stages else _only_stage(config), _architecture(config)
    tokenizer = _tokenizer(config, model_config)
    seed_everything(config.train.seed)
    model = _first_model(config, _at_stage(model_config, stage), tokenizer).to(device)
    quantize_model(model, config.precision.build())
    with repeatable(device):
        return LanguageModelTask(model, config.train, _validation(config, stage, model_config.chunk)).validate()


def read_stages(path: Path) -> tuple[Stage, ...]:
    """A curriculum from a JSON file: a list of objects with the fields of `Stage`.

    Raises:
        ValueError: no such file, not a list of objects, an unknown or missing field, or a value that a stage refuses.
    """
    text = _read("stages", path)
    try:
        stages = json.loads(text)
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise TypeError("something else is in it")
        return tuple(map(_stage, stages))
    except (TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"stages={path} is not a JSON list of stages ({error}); see docs/training.md") from error


def _read(field: str, path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{field}={path} is not a file; give the path of a JSON file (docs/training.md)")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{field}={path} is not UTF-8 text ({error.reason}); give the path of a JSON file") from error


def _stage(plain: dict[str, Any]) -> Stage:
    values = dict(plain)
    if "schedule" in values:
        values["schedule"] = ScheduleConfig(**values["schedule"])
    # JSON writes 50 where Python means 50.0.
    values |= {name: float(values[name]) for name in ("lr", "rope_alpha") if name in values}
    values["data"] = tuple(map(Path, values.get("data", ())))
    values["weights"] = tuple(map(float, values.get("weights", ())))
    return Stage(**values)


def _only_stage(config: PretrainConfig) -> Stage:
    train = config.train
    return Stage(
        name="base",
        steps=train.steps,
        lr=train.optimizer.lr,
        schedule=train.schedule,
        context=config.context,
        batch_tokens=config.batch_tokens,
        accumulate=train.accumulate,
    )


def _at_stage(config: ModelConfig, stage: Stage) -> ModelConfig:
    """The same weights with the RoPE of a stage, and a context that is at least the stage's."""
    turned = {"attention": config.attention, "transmamba": config.transmamba} if stage.rope_alpha != 1 else {}
    shapes = {name: dataclasses.replace(shape, rope_alpha=stage.rope_alpha) for name, shape in turned.items() if shape}
    return config.replace(**shapes, context=max(config.context, stage.context))


def _packer(config: PretrainConfig, stage: Stage, chunk: int) -> Packer:
    data, weights = (stage.data, stage.weights) if stage.data else (config.data, stage.weights or config.weights)
    return Packer(
        [
            Source(shards=open_shards(path, "train"), weight=weight)
            for path, weight in zip(data, weights or [1.0] * len(data), strict=True)
        ],
        batch_tokens=stage.batch_tokens,
        context=stage.context,
        chunk=chunk,
        seed=config.train.seed,
        cut=stage.cut,
    )


def _validation(config: PretrainConfig, stage: Stage, chunk: int) -> ValidationBatches:
    return validation_batches(
        open_shards(config.data[0], "validation"),
        batch_tokens=max(stage.batch_tokens, stage.context),
        context=stage.context,
        chunk=chunk,
        max_bytes=config.validation_bytes,
    )


def _tokenizer(config: PretrainConfig, model: ModelConfig) -> Tokenizer:
    """The tokenizer beside the first shards, checked against all of them."""
    tokenizer = Tokenizer.load(config.data[0])
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(
            f"model.vocab_size={model.vocab_size} is below the {tokenizer.vocab_size} ids of data={config.data[0]}; "
            "use a model of that vocabulary, or tokenize again with a smaller --vocab"
        )
    for path in _all_data(config):
        found = Tokenizer.load(path).fingerprint
        if found != tokenizer.fingerprint:
            raise ValueError(
                f"data={path} was written with another tokenizer than {config.data[0]}; "
                "tokenize both with one tokenizer.json"
            )
    return tokenizer


def _all_data(config: PretrainConfig) -> Sequence[Path]:
    return list(dict.fromkeys([*config.data, *(path for stage in config.stages for path in stage.data)]))


def _plain(config: PretrainConfig, model: ModelConfig) -> dict[str, Any]:
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    # A run may be moved; where it lies is no setting of it.
    del plain["run_dir"]
    return {**plain, "architecture": model.to_dict()}


def _may_change(config: PretrainConfig) -> set[str]:
    """Also the device, the name of the model (its architecture is compared), and the length of a curriculum's last stage.

    The stages before the last have been left behind.
    """
    return {*MAY_CHANGE, "device", "model", f"stages.{len(config.stages) - 1}.steps"}
