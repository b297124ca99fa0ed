"""The first run: real text, a small hybrid model, a report, an answer. Start at `run_quickstart`."""

import json
import os
import platform
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from tandem import hub
from tandem.data import (
    PreparedCorpus,
    TextTokenizer,
    ValidationBatches,
    cache_directory,
    compression_baselines,
    corpus,
    open_shards,
    prepare,
    print_corpus,
    text_corpus,
    tokenize_corpus,
    validation_batches,
)
from tandem.nn import HybridLM, ModelConfig
from tandem.ops import fastest_dtype
from tandem.plan import all_attention, memory, parameters
from tandem.recipes.pretrain import PretrainConfig, run_pretraining
from tandem.report import atomic_directory, atomic_path, read_metrics, write_report
from tandem.serve import Sampling, generate_tokens
from tandem.train import OptimizerConfig, RunResult, ScheduleConfig, SpikeConfig, TrainConfig

CORPUS = "quickstart"
HELD_OUT_BYTES = 1_000_000
STEPS = 1100
PROMPTS = (
    "Returns a list of",
    "The name of the bucket",
    "She looked at him, and",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartConfig:
    """Trains a small hybrid language model on documentation and novels, writes a report and continues prompts.

    Ctrl-C saves and leaves; the same command goes on.
    """

    run_dir: Path = Path("runs/quickstart")
    """Where everything is written."""

    text: tuple[Path, ...] = ()
    """Files or directories of your own UTF-8 text, in place of the corpus `quickstart`."""

    steps: int = STEPS
    """Optimizer steps; the default takes 5 to 8 minutes on two cores with bf16 instructions."""

    batch_tokens: int = 2048
    """Tokens of one step."""

    bundle: bool = False
    """Also store the model inside the package as the bundled checkpoint `nano`, in bf16 (for `make nano`)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens"):
            # Here, because fetching text comes before the training that would refuse it.
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; use 1 or more")


def run_quickstart(config: QuickstartConfig) -> Path | None:
    """Fetches, trains, measures, reports; returns the model directory, or None when it was interrupted.

    Raises:
        ValueError: the corpus cannot be fetched, or the run directory belongs to another run.
    """
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    prepared = prepare(text_corpus(config.text) if config.text else corpus(CORPUS))
    shards = tokenize_corpus(prepared, cache_directory() / "tokens" / f"{prepared.path.name}-4096")
    print_corpus(prepared)
    console.print(f"corpus ready in {time.monotonic() - began:.0f} s")

    began = time.monotonic()
    result = run_pretraining(_pretrain(config, shards))
    seconds = time.monotonic() - began
    if result.reason != "finished":
        console.print(f"stopped at step {result.step}; the same command goes on")
        return None

    model, tokenizer, _ = hub.load(config.run_dir / "model")
    summary = _summary(config, prepared, shards, model, tokenizer, result)
    with atomic_path(config.run_dir / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if config.bundle:
        _bundle(config.run_dir, model, tokenizer)
    report = write_report(config.run_dir)
    _print(console, summary, seconds, report, config.run_dir / "model")
    return config.run_dir / "model"


def _pretrain(config: QuickstartConfig, shards: Path) -> PretrainConfig:
    return PretrainConfig(
        run_dir=config.run_dir,
        data=(shards,),
        model="nano",
        context=512,
        batch_tokens=config.batch_tokens,
        train=training(config.steps),
    )


def training(steps: int, lr: float = 3e-3) -> TrainConfig:
    """The recipe of `nano` at 2,048 tokens a step; peaks of 5e-3 and 8e-3 did as well and worse over 400 steps."""
    return TrainConfig(
        steps=steps,
        optimizer=OptimizerConfig(lr=lr),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=min(40, steps // 4), decay_fraction=0.4, final_lr=0.02),
        skip=SpikeConfig(loss=3.0),
        checkpoint_every=100,
        validate_every=max(1, steps // 4),
        precision=fast_precision(),
    )


def fast_precision() -> Literal["float32", "bfloat16"]:
    """The number format that this machine multiplies fastest: bf16 where the processor has it natively."""
    narrow = fastest_dtype("cuda" if torch.cuda.is_available() else "cpu") == torch.bfloat16
    return "bfloat16" if narrow else "float32"


def _bundle(run_dir: Path, model: HybridLM, tokenizer: TextTokenizer) -> None:
    """The model as bundled/nano, and in bundled/nano-run what made it: settings with the seed, metrics and summary."""
    bundled = Path(hub.__file__).parent / "bundled"
    hub.save(model, tokenizer, bundled / "nano", dtype="bfloat16")
    with atomic_directory(bundled / "nano-run") as made:
        for name in ("metrics.jsonl", "summary.json"):
            shutil.copyfile(run_dir / name, made / name)
        settings = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        settings["data"] = [Path(path).name for path in settings["data"]]  # where it lay on this machine tells nothing
        (made / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _summary(
    config: QuickstartConfig,
    prepared: PreparedCorpus,
    shards: Path,
    model: HybridLM,
    tokenizer: TextTokenizer,
    result: RunResult,
) -> dict[str, Any]:
    held_out = _held_out(shards, model.config)
    baselines = compression_baselines(held_out.text(tokenizer))
    counts = parameters(model.config)
    samples = [{"prompt": prompt, "text": _continue(model, tokenizer, prompt)} for prompt in PROMPTS]
    return {
        "bits_per_byte": result.validation["bits_per_byte"],
        "xz_bits_per_byte": baselines["xz"],
        "gzip_bits_per_byte": baselines["gzip"],
        "held_out": {"documents": held_out.documents, "bytes": held_out.bytes},
        "corpus": {name: prepared.facts[name] for name in ("corpus", "license", "packages")},
        "model": {"total_parameters": counts.total, "active_parameters": counts.active},
        "plan": _budget(model.config),
        "samples": samples,
        "command": f"tandem quickstart --steps {config.steps} --batch-tokens {config.batch_tokens}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
    }


def _continue(model: HybridLM, tokenizer: TextTokenizer, prompt: str) -> str:
    ids = generate_tokens(
        model,
        tokenizer.text_ids(prompt),
        sampling=Sampling(temperature=0.6, top_p=0.9, seed=0),
        max_tokens=60,
        stop_ids=tokenizer.stop_ids,
    )
    return tokenizer.decode(list(ids))


def _held_out(shards: Path, config: ModelConfig) -> ValidationBatches:
    validation = open_shards(shards, "validation")
    return validation_batches(validation, batch_tokens=4096, context=512, chunk=config.chunk, max_bytes=HELD_OUT_BYTES)


def _budget(config: ModelConfig) -> dict[str, list[int]]:
    contexts = [2**power for power in range(7, 18)]
    own, twin = memory(config), memory(all_attention(config))
    return {
        "contexts": contexts,
        "kv_bytes": [own.kv_per_token * context for context in contexts],
        "ssm_bytes": [own.fixed_per_sequence for _ in contexts],
        "attention_twin_bytes": [twin.sequence(context) for context in contexts],
    }


def _print(console: Console, summary: dict[str, Any], seconds: float, report: Path, model: Path) -> None:
    ours, xz, gzip = (summary[key] for key in ("bits_per_byte", "xz_bits_per_byte", "gzip_bits_per_byte"))
    speeds = [
        row["tokens_per_second"] for row in read_metrics(model.parent / "metrics.jsonl") if row["kind"] == "train"
    ]
    console.print(f"trained in {seconds:.0f} s, validation included, at {statistics.median(speeds):,.0f} tokens/s")
    console.print(
        f"held-out megabyte, split by document: {ours:.3f} bits per byte; xz -9 {xz:.3f} (ratio {ours / xz:.2f}), "
        f"gzip -9 {gzip:.3f}"
    )
    for sample in summary["samples"]:
        console.print(f"  {sample['prompt']}{sample['text']}", markup=False)
    console.print(f"report: {report}")
    console.print(f"talk to it: tandem chat {model}")
