"""Whole evaluations of a saved toy: cells, resumption, and mistakes that are told before anything is measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem import hub
from tandem.data import Tokenizer
from tandem.evaluate import EvaluateConfig, Reading, Subject, measure_text, run_evaluation
from tandem.evaluate import run as run_module
from tandem.nn import HybridLM, ModelConfig, TransMambaConfig
from tandem.precision import Operand, RoundingConfig, quantize_caches, quantize_weights

LENGTHS = (126, 150)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., HybridLM], tokenizer: Tokenizer) -> str:
    return str(hub.save(make_model(context=128), tokenizer, tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    (tmp_path / "text.txt").write_text("Returns the name of a bucket. Why? " * 20)
    return EvaluateConfig(
        tasks="perplexity,needle,phone-book",
        text=tmp_path / "text.txt",
        lengths=LENGTHS,
        samples=3,
        device="cpu",
        output=tmp_path / "out",
    )


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["results"]


def test_every_cell_has_its_numbers(saved: str, config: EvaluateConfig, capsys: pytest.CaptureFixture[str]):
    results = run_evaluation(saved, config)
    assert results.path is not None
    found = cells(results.path)
    assert results.path.name == "eval.json"
    assert [(cell["task"], cell["length"]) for cell in found] == [
        ("perplexity", None),
        *((task, length) for task in ("needle", "phone-book") for length in LENGTHS),
    ]
    assert [cell.get("beyond_context") for cell in found] == [None, False, True, False, True]
    for cell in found:
        for value in cell["metrics"].values():
            assert value["n"] >= 1
            assert value["low"] is None or value["low"] <= value["value"] <= value["high"]
        if cell["length"]:
            assert set(cell["guess"]) == set(cell["metrics"])
            assert [row["n"] for row in cell["depths"]] == [1, 1, 1]
            assert cell["trained_length"] == 128
            assert 60 < cell["tokens"] <= cell["length"]
    score = measure_text(Subject.load(saved), [config.text.read_text()], Reading())
    assert found[0]["metrics"]["bits_per_byte"]["value"] == pytest.approx(score.bits_per_byte.value)
    plain = json.loads(results.path.read_text())
    assert (plain["format"], plain["context"], plain["device"]) == ("tandem-eval", 128, "cpu")
    assert set(plain["versions"]) == {"tandem", "torch", "python"}
    assert "100%" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_to_the_same_file(
    saved: str, config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run_evaluation(saved, config).path
    assert whole is not None
    calls = 0
    original = run_module.measure_retrieval

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(run_module, "measure_retrieval", interrupted)
    other = EvaluateConfig(**{**{name: getattr(config, name) for name in config.__slots__}, "output": tmp_path / "b"})
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(saved, other)
    assert len(cells(tmp_path / "b" / "eval.json")) == 3
    again = run_evaluation(saved, other).path
    assert calls == 5  # two done, one interrupted, two after it
    assert again is not None
    assert again.read_bytes() == whole.read_bytes()


def test_lengths_are_multiples_of_what_was_trained(saved: str):
    subject = Subject.load(saved)
    assert run_module.lengths(subject, EvaluateConfig(tasks="needle")) == (128, 256, 384, 512)
    assert run_module.lengths(subject, EvaluateConfig(tasks="needle", trained_length=10)) == (10, 20, 30, 40)
    assert run_module.lengths(subject, EvaluateConfig(tasks="needle", lengths=(9, 5, 9))) == (5, 9)


@pytest.mark.parametrize(
    ("model", "output", "path"),
    [
        ("nano", None, "runs/eval/nano.json"),
        ("runs/twins/mamba-seed-0/model", None, "runs/eval/runs-twins-mamba-seed-0-model.json"),
        ("/models/x", None, "runs/eval/models-x.json"),
        ("../x", None, "runs/eval/x.json"),
        ("nano", Path("a.json"), "a.json"),
        ("nano", Path("a"), "a/eval.json"),
    ],
)
def test_where_results_go(model: str, output: Path | None, path: str):
    assert run_module.output_file(model, output) == Path(path)


def test_documents_of_a_jsonl_file_are_read_one_by_one(saved: str, config: EvaluateConfig, tmp_path: Path):
    texts = ["Returns a bucket.", "Why 42?"]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "source": "s", "group": "g"}) + "\n" for text in texts))
    one = EvaluateConfig(tasks="perplexity", text=file, device="cpu", output=tmp_path / "o.json")
    found = run_evaluation(saved, one).cells[0]
    score = measure_text(Subject.load(saved), texts)
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(score.perplexity.value)
    assert found["bytes"] == sum(map(len, texts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": " , "}, "tasks=' , ' names no task; use perplexity, needle, phone-book"),
        ({"tasks": "perplexity"}, "text is missing for perplexity; give --text FILE"),
        ({"samples": 0}, "samples=0 is below 1"),
        ({"fewshot": -1}, "fewshot=-1 is below 0"),
        ({"lengths": (4, 0)}, r"lengths=\(4, 0\) holds one below 1"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**{"tasks": "needle", **options})


def test_another_schedule_is_another_model(tmp_path: Path, config: EvaluateConfig, tokenizer: Tokenizer):
    """Its numbers are those of a model made with it; and no file mixes the two."""
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=16,
        pattern="T",
        transmamba=TransMambaConfig(heads=1, groups=1, head_width=8, state=8, schedule=(64,)),
        context=256,
    )
    torch.manual_seed(0)
    model = HybridLM(shape)
    hub.save(model, tokenizer, tmp_path / "attention-first")
    model.reschedule("mamba")
    hub.save(model, tokenizer, tmp_path / "mamba")
    asked = replace(config, tasks="phone-book", lengths=(160,), output=tmp_path / "own.json")
    own = run_evaluation(str(tmp_path / "mamba"), asked).cells
    first = str(tmp_path / "attention-first")
    assert run_evaluation(first, replace(asked, schedule="mamba", output=tmp_path / "changed.json")).cells == own
    run_evaluation(first, replace(asked, output=tmp_path / "first.json"))
    with pytest.raises(ValueError, match="fingerprint="):
        run_evaluation(first, replace(asked, schedule="mamba", output=tmp_path / "first.json"))


def test_a_rounded_model_is_told_and_measured_by_decoding(saved: str, config: EvaluateConfig):
    asked = replace(config, tasks="perplexity,phone-book", lengths=(126,), output=config.output / "rounded.json")
    rounding = RoundingConfig(weights="E4M3", kv="E2M1", state="E2M1", block=4)
    results = run_evaluation(saved, replace(asked, precision=rounding))
    assert results.path is not None
    told = json.loads(results.path.read_text())["precision"]
    assert {name: (how["format"], how["bits"]) for name, how in told.items()} == {
        "weights": ("E4M3", 16.0),
        "kv": ("E2M1", 12.0),
        "state": ("E2M1", 12.0),
    }
    subject, narrow = Subject.load(saved), Operand(format="E2M1", block=4)
    quantize_weights(subject.model, Operand(format="E4M3", block=4))
    weights_alone = measure_text(subject, [config.text.read_text()], Reading())
    quantize_caches(subject.model, kv=narrow, state=narrow)
    score = measure_text(subject, [config.text.read_text()], Reading())
    bits = results.cells[0]["metrics"]["bits_per_byte"]["value"]
    assert bits == pytest.approx(score.bits_per_byte.value)
    assert bits != pytest.approx(weights_alone.bits_per_byte.value, rel=1e-5)
    with pytest.raises(ValueError, match=r"precision=.* but output=.*rounded\.json has .*; use that, or another"):
        run_evaluation(saved, asked)


def test_stochastic_rounding_is_repeatable_by_its_seed(saved: str, config: EvaluateConfig):
    rounding = RoundingConfig(weights="E2M1", state="E2M1", rounding="stochastic")
    asked = replace(config, tasks="perplexity", precision=rounding)
    found = [
        run_evaluation(saved, replace(asked, seed=seed, output=config.output / f"{n}.json")).cells[0]["metrics"][
            "bits_per_byte"
        ]["value"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]
