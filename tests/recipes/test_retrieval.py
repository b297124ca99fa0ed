"""The recipe on toys: its table and figure against the results files that `tandem eval` writes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import HybridLM
from tandem.recipes.retrieval import RetrievalConfig, compare_retrieval
from tandem.recipes.twins import twin_models


@pytest.fixture
def config(tmp_path: Path) -> RetrievalConfig:
    """Twins as the other recipe leaves them, two seeds each, of random weights."""
    from recipe_toys import toy_hybrid

    tokenizer = Tokenizer.load(hub.find("nano") / "tokenizer.json")
    twins = tmp_path / "twins"
    for name, shape in twin_models(toy_hybrid().replace(vocab_size=tokenizer.vocab_size), ("mamba",)).items():
        for seed in range(2):
            torch.manual_seed(seed)
            hub.save(HybridLM(shape), tokenizer, twins / f"{name}-seed-{seed}" / "model")
    (twins / "config.json").write_text(json.dumps({"context": 128, "against": ["mamba"]}))
    return RetrievalConfig(
        run_dir=tmp_path / "run", twins=twins, also=(str(twins / "hybrid-seed-0/model"),), samples=1, device="cpu"
    )


def test_all_checkpoints_answer_the_same_questions(config: RetrievalConfig, capsys: pytest.CaptureFixture[str]):
    assert compare_retrieval(config) == config.run_dir
    results = json.loads((config.run_dir / "retrieval.json").read_text())
    assert {name: len(files) for name, files in results.items()} == {"hybrid": 2, "mamba": 2, "model": 1}
    for name, files in results.items():
        for number, file in enumerate(files):
            assert file == json.loads((config.run_dir / f"{name}-{number}.json").read_text())
            assert [cell["length"] for cell in file["results"]] == [128, 256, 384, 512] * 2
    # The same checkpoint under another name has the same numbers.
    assert results["model"][0]["results"] == results["hybrid"][0]["results"]

    table = (config.run_dir / "retrieval.md").read_text()
    margins = [file["results"][7]["metrics"]["margin"]["value"] for file in results["mamba"]]
    mean = sum(margins) / 2
    assert f"{mean:.3g} ({min(margins):.3g}–{max(margins):.3g})" in table
    assert "| phone-book | 512 | a guess | " in table
    assert (config.run_dir / "retrieval.png").read_bytes().startswith(b"\x89PNG")

    before = (config.run_dir / "mamba-1.json").stat().st_mtime_ns
    compare_retrieval(config)
    assert (config.run_dir / "mamba-1.json").stat().st_mtime_ns == before
    assert "retrieval.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: replace(config, twins=config.run_dir), "is no run of `tandem recipe twins`"),
        (lambda config: replace(config, also=("nona",)), "source='nona' is no directory"),
        (lambda config: replace(config, seeds=0), "seeds=0 is below 1"),
        (lambda config: replace(config, samples=0), "samples=0 is below 1"),
    ],
)
def test_mistakes_are_one_line(config: RetrievalConfig, spoil: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=message):
        compare_retrieval(spoil(replace(config, samples=1)))


def test_twins_that_are_not_finished(config: RetrievalConfig):
    (config.twins / "config.json").write_text(json.dumps({"context": 128, "against": ["attention"]}))
    with pytest.raises(ValueError, match="has no trained attention; finish `tandem recipe twins`"):
        compare_retrieval(config)
