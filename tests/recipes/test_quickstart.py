"""The first run from text to answer, on a few pages of novels instead of what is fetched."""

import functools
import gzip
import json
import lzma
import math
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tandem import hub
from tandem.data import Tokenizer, corpus
from tandem.nn import HybridLM, SequenceLayout
from tandem.recipes import quickstart
from tandem.recipes.quickstart import PROMPTS, QuickstartConfig, run_quickstart
from tandem.train import LanguageModelTask, TrainConfig

PAGES, CHARACTERS = 60, 1500


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """A cache of its own; nothing is compiled, since the checker of shapes errs there; `--bundle` writes elsewhere."""
    pytest.importorskip("datasketch", reason="needs datasketch: pip install 'tandem-lm[data]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("tandem.recipes.quickstart.TrainConfig", functools.partial(TrainConfig, compile="off"))
        # The report of training is drawn again with the summary, and drawing takes longer than the rest of these runs.
        patch.setattr("tandem.recipes.pretrain.write_report", lambda run_dir: run_dir / "report.html")
        patch.setattr(hub, "__file__", str(tmp_path_factory.mktemp("hub") / "__init__.py"))
        yield patch


@pytest.fixture(scope="module")
def config(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> QuickstartConfig:
    root = tmp_path_factory.mktemp("first")
    pages = root / "pages"
    pages.mkdir()
    for number, document in zip(range(PAGES), corpus("classics").read(root), strict=False):
        (pages / f"{number:02d}.txt").write_text(document.text[:CHARACTERS], encoding="utf-8")
    return QuickstartConfig(run_dir=root / "run", text=(pages,), steps=4, batch_tokens=512, bundle=True)


@pytest.fixture(scope="module")
def output(config: QuickstartConfig, patched: pytest.MonkeyPatch) -> str:
    """What a whole run prints."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("rich.console.Console.print", lambda _, *things, **__: lines.extend(map(str, things)))
        assert run_quickstart(config) == config.run_dir / "model"
    return "\n".join(lines)


@pytest.fixture
def summary(config: QuickstartConfig, output: str) -> dict[str, Any]:
    return json.loads((config.run_dir / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture
def held_out(config: QuickstartConfig, output: str) -> list[str]:
    """The validation documents, from the file that cleaning left."""
    (path,) = Path(os.environ["TANDEM_CACHE"]).glob("corpora/text-*/validation.jsonl")
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_compressors_are_those_of_the_held_out_text(summary: dict[str, Any], held_out: list[str]):
    text = "".join(held_out).encode()
    assert summary["held_out"] == {"documents": len(held_out), "bytes": len(text)}
    assert summary["xz_bits_per_byte"] == 8 * len(lzma.compress(text, preset=9)) / len(text)
    assert summary["gzip_bits_per_byte"] == 8 * len(gzip.compress(text, 9)) / len(text)


def test_bits_per_byte_are_those_of_the_saved_model(
    config: QuickstartConfig, summary: dict[str, Any], held_out: list[str]
):
    """One document at a time in float32; the run may have validated in bf16."""
    model, tokenizer, _ = hub.load(config.run_dir / "model")
    nats = sum(negative_log_likelihood(model, tokenizer, text) for text in held_out)
    bits = nats / math.log(2) / len("".join(held_out).encode())
    assert summary["bits_per_byte"] == pytest.approx(bits, rel=5e-3)


@torch.no_grad()
def negative_log_likelihood(model: HybridLM, tokenizer: Tokenizer, text: str) -> float:
    """In nats, of the text and its end, in pieces of 512 tokens."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    total = 0.0
    for start in range(0, len(ids) - 1, 512):
        piece = torch.tensor(ids[start : start + 513])
        logits_TV = model(piece[:-1], SequenceLayout.from_lengths([len(piece) - 1], chunk=model.config.chunk))
        total += float(torch.nn.functional.cross_entropy(logits_TV.double(), piece[1:], reduction="sum"))
    return total


def test_the_summary_tells_model_corpus_and_command(config: QuickstartConfig, summary: dict[str, Any]):
    weights = load_file(config.run_dir / "model/model.safetensors")
    assert summary["model"]["total_parameters"] == sum(weight.numel() for weight in weights.values())
    assert summary["corpus"]["corpus"] == "text"
    assert summary["corpus"]["license"] == "yours"
    assert summary["command"].startswith("tandem quickstart --steps 4 --batch-tokens 512")
    assert [sample["prompt"] for sample in summary["samples"]] == list(PROMPTS)
    plan = summary["plan"]
    assert all(
        kv * 128 == plan["kv_bytes"][0] * context
        for kv, context in zip(plan["kv_bytes"], plan["contexts"], strict=True)
    )


def test_a_run_prints_what_a_person_wants_to_know(config: QuickstartConfig, summary: dict[str, Any], output: str):
    ours, xz, gzip_ = (summary[name] for name in ("bits_per_byte", "xz_bits_per_byte", "gzip_bits_per_byte"))
    assert f"{ours:.3f} bits per byte; xz -9 {xz:.3f} (ratio {ours / xz:.2f}), gzip -9 {gzip_:.3f}" in output
    assert re.search(r"trained in \d+ s, validation included, at [\d,]+ tokens/s", output)
    for sample in summary["samples"]:
        assert f"{sample['prompt']}{sample['text']}" in output
    assert f"report: {config.run_dir / 'report.html'}" in output
    assert f"talk to it: tandem chat {config.run_dir / 'model'}" in output
    page = (config.run_dir / "report.html").read_text(encoding="utf-8")
    assert f"{summary['bits_per_byte']:.3f}" in page
    assert PROMPTS[0] in page


def test_bundle_stores_the_model_in_bf16(config: QuickstartConfig, output: str):
    own = load_file(config.run_dir / "model/model.safetensors")
    bundled = load_file(Path(hub.__file__).parent / "bundled/nano/model.safetensors")
    assert own.keys() == bundled.keys()
    for name, weight in own.items():
        kept = "island" in name
        assert bundled[name].dtype == (torch.float32 if kept else torch.bfloat16)
        assert torch.equal(bundled[name], weight if kept else weight.bfloat16())


def test_a_bundle_tells_how_it_was_made_and_can_be_made_again(config: QuickstartConfig, output: str):
    bundled = Path(hub.__file__).parent / "bundled"
    model, tokenizer, _ = hub.load(config.run_dir / "model")
    quickstart._bundle(config.run_dir, model, tokenizer)
    assert sorted(path.name for path in bundled.iterdir()) == ["nano", "nano-run"]
    assert (bundled / "nano-run/metrics.jsonl").read_bytes() == (config.run_dir / "metrics.jsonl").read_bytes()
    settings = json.loads((bundled / "nano-run/settings.json").read_text())
    assert settings["train"]["seed"] == 0
    assert not Path(settings["data"][0]).is_absolute()
    assert json.loads((bundled / "nano-run/summary.json").read_text())["command"].startswith(
        "tandem quickstart --steps 4"
    )


def test_ctrl_c_saves_and_the_same_command_goes_on(
    config: QuickstartConfig, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    again = replace(config, run_dir=tmp_path / "again", bundle=False)
    step, batches = LanguageModelTask.step, []

    def interrupted(task: LanguageModelTask, batch: Any) -> dict[str, Any]:
        batches.append(batch)
        if len(batches) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(task, batch)

    monkeypatch.setattr(LanguageModelTask, "step", interrupted)
    monkeypatch.setattr("tandem.recipes.quickstart.write_report", lambda run_dir: run_dir / "report.html")
    assert run_quickstart(again) is None
    assert len(batches) == 2
    assert not (again.run_dir / "model").exists()
    assert not (again.run_dir / "summary.json").exists()
    assert run_quickstart(again) == again.run_dir / "model"
    assert len(batches) == 4
    assert json.loads((again.run_dir / "summary.json").read_text(encoding="utf-8")) == summary


@pytest.mark.parametrize("name", ["steps", "batch_tokens"])
def test_a_number_below_one_is_refused_before_anything_is_fetched(name: str):
    with pytest.raises(ValueError, match=f"{name}=0 is below 1; use 1 or more"):
        QuickstartConfig(**{name: 0})
