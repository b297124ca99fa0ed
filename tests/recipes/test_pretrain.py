"""Pretraining end to end on random sentences with a model of every kind of layer."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import VOCABULARY, documents, toy_transmamba
from safetensors.torch import load_file

from tandem import hub
from tandem.data import Tokenizer, write_shards
from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, MoEConfig
from tandem.precision import PrecisionConfig
from tandem.recipes.pretrain import (
    PretrainConfig,
    read_model_config,
    read_stages,
    run_pretraining,
    validate_at_start,
)
from tandem.report import read_metrics
from tandem.train import OptimizerConfig, ScheduleConfig, Stage, TrainConfig


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attention, Mamba-2 and experts whose overflow is recycled at random."""
    config = ModelConfig(
        vocab_size=VOCABULARY,
        width=16,
        pattern="AMF",
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
        mamba=MambaConfig(heads=2, head_width=8, state=4, chunk=8),
        ffn=MoEConfig(experts=4, top_k=2, hidden=8, capacity_factor=1.0),
        context=64,
    )
    path = tmp_path_factory.mktemp("model") / "tiny.json"
    path.write_text(config.to_json())
    return path


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Drawing takes longer than these runs; one test keeps it."""
    if request.node.name != "test_a_run_leaves_everything_behind":
        monkeypatch.setattr("tandem.recipes.pretrain.write_report", lambda run_dir: run_dir)


@pytest.fixture
def config(tmp_path: Path, shards: Path, model_file: Path) -> PretrainConfig:
    return PretrainConfig(
        run_dir=tmp_path / "run",
        data=(shards,),
        model=str(model_file),
        context=32,
        batch_tokens=64,
        train=TrainConfig(
            steps=24,
            optimizer=OptimizerConfig(lr=2e-2),
            schedule=ScheduleConfig(warmup_steps=4),
            checkpoint_every=3,
            validate_every=12,
            log_every=1,
            compile="off",
        ),
    )


def rows(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    found = read_metrics(run_dir / "metrics.jsonl")
    timeless = {"seconds", "tokens_per_second"}
    return [
        {name: value for name, value in row.items() if name not in timeless}
        for row in found
        if not kinds or row["kind"] in kinds
    ]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model/model.safetensors")


def assert_same_run(left: Path, right: Path):
    ours, theirs = weights(left), weights(right)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(left) == rows(right)


def test_a_run_leaves_everything_behind(config: PretrainConfig, shards: Path):
    result = run_pretraining(config)
    assert (result.reason, result.step, result.run_dir) == ("finished", 24, config.run_dir)
    assert result.counts == {"tokens": 24 * 64}
    names = {path.name for path in config.run_dir.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "report.html", "checkpoints", "model"}
    train = rows(config.run_dir, "train")
    fields = {"loss", "balance_loss", "busiest_expert", "lr", "grad_norm", "tokens"}
    assert all(fields <= set(row) for row in train)
    assert train[-1]["loss"] < train[0]["loss"] - 0.5
    assert all(1 <= row["busiest_expert"] <= 4 for row in train)
    (load,) = rows(config.run_dir, "expert_load")[-1]["layers"]
    assert sum(load) == pytest.approx(1.0, abs=1e-3)
    assert json.loads((config.run_dir / "config.json").read_text())["train"]["steps"] == 24
    # What a run leaves says what model it was, to one that begins anew.
    assert read_model_config(str(config.run_dir / "model")) == read_model_config(str(config.model))


def test_validation_is_the_saved_models_bits_per_byte(config: PretrainConfig, shards: Path):
    """Against a sum over single documents, each read alone by the saved model."""
    result = run_pretraining(replace(config, context=64))
    model, tokenizer, _ = hub.load(config.run_dir / "model")
    nats, size, tokens = 0.0, 0, 0
    for document in documents(12, 2):
        ids = [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
        for start in range(0, len(ids) - 1, 64):
            piece = torch.tensor(ids[start : start + 65])
            layout = layout_of(len(piece) - 1)
            with torch.no_grad():
                logits_TV = model(piece[:-1], layout)
            nats += float(torch.nn.functional.cross_entropy(logits_TV.double(), piece[1:], reduction="sum"))
            tokens += len(piece) - 1
        size += len(document.text.encode())
    assert result.validation["tokens"] == tokens
    assert result.validation["loss"] == pytest.approx(nats / tokens, rel=1e-4)
    assert result.validation["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def layout_of(length: int) -> Any:
    from tandem.ops import SequenceLayout

    return SequenceLayout.from_lengths([length], chunk=8)


def test_a_finished_run_stays_finished_and_can_be_made_longer(config: PretrainConfig):
    run_pretraining(config)
    before = (config.run_dir / "metrics.jsonl").read_bytes()
    assert run_pretraining(config).step == 24
    assert (config.run_dir / "metrics.jsonl").read_bytes() == before
    longer = replace(config, train=replace(config.train, steps=30, log_every=2))
    assert run_pretraining(longer).step == 30
    assert rows(config.run_dir, "train")[-1]["step"] == 30


def test_a_run_may_go_on_on_another_device(config: PretrainConfig):
    """The name alone is another one here: auto is the CPU where there is no GPU."""
    run_pretraining(
        replace(config, device="cpu", train=replace(config.train, steps=6, schedule=ScheduleConfig(warmup_steps=1)))
    )
    assert json.loads((config.run_dir / "config.json").read_text())["device"] == "cpu"
    longer = replace(config.train, steps=8, schedule=ScheduleConfig(warmup_steps=1))
    assert run_pretraining(replace(config, device="auto", train=longer)).step == 8


def test_a_model_file_may_move_but_not_change(config: PretrainConfig, tmp_path: Path):
    short = replace(config, train=replace(config.train, steps=5))
    run_pretraining(short)
    moved = tmp_path / "moved.json"
    moved.write_text(Path(str(config.model)).read_text())
    assert run_pretraining(replace(short, model=str(moved))).step == 5
    moved.write_text(read_model_config(str(config.model)).replace(context=128).to_json())
    with pytest.raises(ValueError, match=r"architecture\.context=128 but run_dir=.* was started with .*=64"):
        run_pretraining(replace(short, model=str(moved)))


def test_other_settings_are_refused(config: PretrainConfig):
    short = replace(config, train=replace(config.train, steps=5))
    run_pretraining(short)
    with pytest.raises(ValueError, match=r"train.optimizer.lr=0.5 but run_dir=.* was started with .*=0.02; use that"):
        run_pretraining(replace(short, train=replace(short.train, optimizer=OptimizerConfig(lr=0.5))))
    with pytest.raises(ValueError, match=r"context=16 but run_dir=.* was started with context=32"):
        run_pretraining(replace(short, context=16))


# Forks children that train, and kills them; the parent has loaded everything that a child needs.
KILLED_RUNS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
import tandem.recipes.pretrain as recipe
from tandem.train import OptimizerConfig, ScheduleConfig, TrainConfig

torch.set_num_threads(1)
arguments = json.loads(sys.argv[1])

# Drawing takes longer than training here.
recipe.write_report = lambda run_dir: run_dir

def train(name):
    settings = TrainConfig(steps=24, optimizer=OptimizerConfig(lr=2e-2), schedule=ScheduleConfig(warmup_steps=4),
                           checkpoint_every=2, validate_every=8, log_every=1, compile="off")
    config = recipe.PretrainConfig(run_dir=Path(arguments["root"], name), data=(Path(arguments["data"]),),
                                   model=arguments["model"], context=32, batch_tokens=64, train=settings)
    recipe.run_pretraining(config)

started = time.perf_counter()
train("whole")
seconds = time.perf_counter() - started
chance = random.Random(2)
for kill in [True] * 7 + [False]:
    child = os.fork()
    if not child:
        try:
            train("killed")
            os._exit(0)
        finally:
            os._exit(1)
    if kill:
        time.sleep(chance.uniform(0.02, seconds / 4))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
assert status == 0
"""


def test_sigkill_at_any_time_changes_no_bit_and_no_row(tmp_path: Path, shards: Path, model_file: Path):
    arguments = json.dumps({"root": str(tmp_path), "data": str(shards), "model": str(model_file)})
    done = subprocess.run([sys.executable, "-c", KILLED_RUNS, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def command(config: PretrainConfig, *more: str) -> list[str]:
    program = "import sys, torch; torch.set_num_threads(1); from tandem.cli import main; main(sys.argv[1:])"
    train = config.train
    options = {
        "run-dir": config.run_dir,
        "data": config.data[0],
        "model": config.model,
        "context": config.context,
        "batch-tokens": config.batch_tokens,
        "train.steps": 2000,
        "train.optimizer.lr": train.optimizer.lr,
        "train.schedule.warmup-steps": train.schedule.warmup_steps,
        "train.log-every": 1,
        "train.compile": "off",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-c", program, "pretrain", *words, *more]


def test_ctrl_c_saves_and_exits_with_0(config: PretrainConfig):
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = config.run_dir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 6):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "saved; the same command goes on" in out
    step = int(re.match(r"step (\d+)", out)[1])
    assert (config.run_dir / f"checkpoints/step-{step:08d}/manifest.json").is_file()
    assert (config.run_dir / "report.html").is_file()
    assert not (config.run_dir / "model").exists()
    assert [row["step"] for row in rows(config.run_dir, "train")] == list(range(1, step + 1))


def test_the_command_reads_stages_and_tells_mistakes_in_one_line(config: PretrainConfig, tmp_path: Path):
    stages = [
        {"name": "base", "steps": 3, "lr": 1e-2, "context": 32, "batch_tokens": 64},
        {"name": "long", "steps": 2, "lr": 1e-3, "context": 64, "batch_tokens": 64, "rope_alpha": 50, "cut": False},
    ]
    file = tmp_path / "stages.json"
    file.write_text(json.dumps(stages))
    done = subprocess.run(command(config, "--stages", str(file)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 2, loss ")
    assert str(config.run_dir / "model") in done.stdout
    again = subprocess.run(command(config), capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert re.fullmatch(r"tandem pretrain: stages=\[\] but run_dir=.* or another run_dir\n", again.stderr[-2000:])


def stage(name: str, **changes: Any) -> Stage:
    return Stage(**{"name": name, "steps": 6, "lr": 1e-2, "context": 32, "batch_tokens": 64, **changes})


def test_a_curriculum_changes_alpha_of_transmamba_layers_too(config: PretrainConfig, tmp_path: Path):
    (tmp_path / "t.json").write_text(toy_transmamba().to_json())
    stages = (stage("base", steps=1), stage("long", steps=1, rope_alpha=50.0))
    run_pretraining(replace(config, model=str(tmp_path / "t.json"), stages=stages))
    model, _, _ = hub.load(config.run_dir / "model")
    assert model.config.transmamba is not None
    assert model.config.transmamba.rope_alpha == 50


def test_a_curriculum_changes_alpha_and_goes_on_in_its_stage(config: PretrainConfig):
    stages = (stage("base"), stage("annealing", cut=False, lr=1e-3), stage("long", context=64, rope_alpha=50.0))
    curriculum = replace(config, stages=stages)
    result = run_pretraining(curriculum)
    assert (result.step, result.reason, result.run_dir) == (6, "finished", config.run_dir)
    assert [row["stage"] for row in rows(config.run_dir, "train")] == [s.name for s in stages for _ in range(6)]
    model, _, _ = hub.load(config.run_dir / "model")
    assert model.config.attention is not None
    assert model.config.attention.rope_alpha == 50
    cut = replace(curriculum, run_dir=config.run_dir.with_name("cut"))
    budget = replace(cut, train=replace(cut.train, max_seconds=0.05))
    while run_pretraining(budget).reason != "finished":
        budget = replace(budget, train=replace(budget.train, max_seconds=(budget.train.max_seconds or 1) * 1.5))
    assert_same_run(cut.run_dir, config.run_dir)


def test_stages_from_a_file(tmp_path: Path):
    file = tmp_path / "stages.json"
    written = stage("base", weights=(1.0, 2.0), data=(Path("a"), Path("b")), rope_alpha=50.0)
    file.write_text(json.dumps([dataclasses.asdict(written)], default=str).replace("50.0", "50"))
    assert read_stages(file) == (written,)
    for text in (
        "{",
        '"ab"',
        "[[]]",
        "[" * 99_999,
        '{"name": "base"}',
        '[{"name": "base", "lr": 1}]',
        '[{"nome": "base"}]',
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"stages=.*stages.json is not a JSON list of stages"):
            read_stages(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"stages=.*stages.json is not UTF-8 text"):
        read_stages(file)


def other_tokenizer(config: PretrainConfig) -> PretrainConfig:
    directory = config.run_dir.with_name("other")
    tokenizer = Tokenizer.train([document.text for document in documents(50, 9)], 300)
    directory.mkdir()
    tokenizer.save(directory)
    write_shards(documents(20, 1), tokenizer, directory / "train")
    return replace(config, data=(*config.data, directory))


def small_vocabulary(config: PretrainConfig) -> PretrainConfig:
    path = config.run_dir.with_name("small.json")
    path.write_text(read_model_config(str(config.model)).replace(vocab_size=100).to_json())
    return replace(config, model=str(path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: replace(config, data=()), r"data=\(\) names no token shards"),
        (lambda config: replace(config, weights=(1.0, 2.0)), r"weights=\(1.0, 2.0\) has 2 values for 1 data"),
        (lambda config: replace(config, batch_tokens=0), r"batch_tokens=0 is below 1"),
        (lambda config: replace(config, validation_bytes=-1), r"validation_bytes=-1 is below 1"),
        (lambda config: replace(config, context=10**20), r"context=10{20} is more than a batch can have; use at most"),
        (lambda config: replace(config, weights=(-1.0,)), r"data.weight=-1.0 of a source must be above 0"),
        (lambda config: replace(config, model="mano"), r"mano"),
        (lambda config: replace(config, device="gpu"), r"device='gpu' is not known; use auto, cpu, cuda or cuda:N"),
        (lambda config: replace(config, data=(Path("nowhere"),)), r"nowhere"),
        (other_tokenizer, r"data=.*other was written with another tokenizer"),
        (small_vocabulary, r"model.vocab_size=100 is below the 3\d\d ids of data="),
    ],
)
def test_mistakes_are_one_line_and_start_no_run(config: PretrainConfig, spoil: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run_pretraining(spoil(config))
    assert "\n" not in str(caught.value)
    assert not list(config.run_dir.glob("*"))


def test_a_cut_shard_is_one_line_and_loses_nothing(config: PretrainConfig, tmp_path: Path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(config.data[0]), str(copy)], check=True)
    ours = replace(config, data=(copy,), train=replace(config.train, max_seconds=1e-9))
    run_pretraining(ours)
    (tokens,) = (copy / "train").glob("tokens-*.bin")
    os.truncate(tokens, tokens.stat().st_size - 10)
    with pytest.raises(ValueError, match=r"tokens-00000.bin has .* so it is cut off"):
        run_pretraining(ours)


@pytest.fixture
def t_config(config: PretrainConfig, tmp_path: Path) -> PretrainConfig:
    (tmp_path / "t.json").write_text(toy_transmamba().to_json())
    train = replace(config.train, steps=6, schedule=ScheduleConfig(warmup_steps=1))
    return replace(config, model=str(tmp_path / "t.json"), train=train)


def test_a_run_from_a_model_begins_with_its_weights(t_config: PretrainConfig):
    """With a learning rate of almost 0 nothing moves: the validation is that of the first run, the weights are its."""
    first = run_pretraining(t_config)
    still = replace(t_config.train, optimizer=OptimizerConfig(lr=1e-12), seed=3)
    again = replace(
        t_config,
        run_dir=t_config.run_dir.with_name("again"),
        model=None,
        init=str(first.run_dir / "model"),
        train=still,
    )
    second = run_pretraining(again)
    assert second.validation["loss"] == pytest.approx(first.validation["loss"], rel=1e-5)
    assert validate_at_start(again)["loss"] == pytest.approx(first.validation["loss"], rel=1e-6)
    for name, tensor in weights(first.run_dir).items():
        torch.testing.assert_close(weights(second.run_dir)[name], tensor)
    assert second.step == 6


def test_a_run_with_another_schedule_keeps_the_weights(t_config: PretrainConfig):
    first = run_pretraining(t_config)
    still = replace(t_config.train, optimizer=OptimizerConfig(lr=1e-12))
    changed = replace(
        t_config,
        run_dir=t_config.run_dir.with_name("changed"),
        model=None,
        init=str(first.run_dir / "model"),
        schedule="mamba",
        train=still,
    )
    second = run_pretraining(changed)
    model, _, _ = hub.load(second.run_dir / "model")
    assert model.config.transpoints == (0, 0)
    assert abs(second.validation["loss"] - first.validation["loss"]) > 1e-3
    model.reschedule("v9")
    there, _, _ = hub.load(first.run_dir / "model")
    assert model.config.transpoints == there.config.transpoints
    loaded = there.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, loaded[name])


def test_a_list_of_transpoints_is_a_schedule_too(t_config: PretrainConfig):
    run = run_pretraining(replace(t_config, schedule=(3, 17)))
    assert hub.read_config(run.run_dir / "model").model.transpoints == (3, 17)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: replace(config, init="nano"), "model=.* and init=nano both say what the model is"),
        (lambda config: replace(config, model=None, init="nona"), "source='nona' is no directory"),
        (lambda config: replace(config, model=None, init="nano"), "init=nano reads other ids than those of data="),
        (lambda config: replace(config, schedule="v10"), "schedule='v10' is unknown"),
        (lambda config: replace(config, schedule=(1, 2, 3)), "has 3 TransPoints for 2 T layers"),
        (lambda config: replace(config, model=None, schedule="v7"), "schedule='v7' needs T layers"),
    ],
)
def test_mistakes_about_what_to_start_from(t_config: PretrainConfig, spoil: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=message):
        run_pretraining(spoil(t_config))


def weights_after(config: PretrainConfig, run_dir: Path, precision: PrecisionConfig, steps: int = 4) -> dict[str, Any]:
    schedule = ScheduleConfig(kind="constant", warmup_steps=1)
    train = replace(config.train, steps=steps, schedule=schedule, precision="bfloat16", validate_every=0)
    run_pretraining(replace(config, run_dir=run_dir, precision=precision, train=train))
    return load_file(run_dir / "model" / "model.safetensors")


def test_without_targets_a_run_is_bfloat16s_bit_for_bit(config: PretrainConfig, tmp_path: Path):
    plain = weights_after(config, tmp_path / "plain", PrecisionConfig())
    empty = weights_after(config, tmp_path / "empty", PrecisionConfig(format="E4M3", block=16, targets=()))
    assert plain.keys() == empty.keys()
    assert all(torch.equal(plain[name], empty[name]) for name in plain)


@pytest.mark.parametrize(
    "precision",
    [
        *(PrecisionConfig(format=name, block=16) for name in ("E1M1", "E2M1", "E4M3", "E5M2", "ocp:e4m3fn", "E0M7")),
        *(PrecisionConfig(recipe=name) for name in ("fp8-deepseek", "mxfp8", "mxfp4", "nvfp4", "w8a8g8")),
    ],
    ids=lambda precision: precision.format or precision.recipe,
)
def test_a_run_trains_in_every_format(config: PretrainConfig, tmp_path: Path, precision: PrecisionConfig):
    plain = weights_after(config, tmp_path / "plain", PrecisionConfig())
    rounded = weights_after(config, tmp_path / "rounded", precision)
    assert plain.keys() == rounded.keys()
    assert all(torch.isfinite(weight).all() for weight in rounded.values())
    assert any(not torch.equal(plain[name], rounded[name]) for name in plain)


def test_a_run_in_a_format_goes_on_to_the_same_weights(config: PretrainConfig, tmp_path: Path):
    by_chance = PrecisionConfig(recipe="nvfp4")  # its gradients round stochastically
    straight = weights_after(config, tmp_path / "straight", by_chance, steps=6)
    weights_after(config, tmp_path / "cut", by_chance, steps=3)
    resumed = weights_after(config, tmp_path / "cut", by_chance, steps=6)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
