"""The results file: what is kept, what is refused, and that nothing is ever half written."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tandem.evaluate.estimate import Estimate
from tandem.evaluate.results import Results, fingerprint
from tandem.nn import HybridLM

HEADER = {"model": "a", "fingerprint": "f", "versions": {"torch": "1"}}
CELL = {"task": "needle", "length": 64, "settings": {"seed": 0}, "metrics": {"exact": Estimate(0.5, 2)}}


def test_cells_come_back(tmp_path: Path):
    file = tmp_path / "deep" / "eval.json"
    Results(file, HEADER).add(CELL)
    again = Results(file, {**HEADER, "model": "moved"})
    cell = again.find("needle", 64, {"seed": 0})
    assert cell is not None
    assert cell["metrics"]["exact"] == {"value": 0.5, "n": 2, "error": None, "low": None, "high": None}
    assert again.find("needle", 128, {"seed": 0}) is None
    assert again.find("phone-book", 64, {"seed": 1}) is None
    assert [path.name for path in file.parent.iterdir()] == ["eval.json"]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path):
    file = tmp_path / "eval.json"
    Results(file, HEADER).add({**CELL, "metrics": {"logp": Estimate(-math.inf, 2, math.nan)}})
    text = file.read_text()
    assert "Infinity" not in text
    assert json.loads(text)["results"][0]["metrics"]["logp"]["value"] is None


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    results = Results(None, HEADER)
    results.add(CELL)
    assert results.find("needle", 64, {"seed": 0}) is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "settings", "message"),
    [
        ({"fingerprint": "g"}, {"seed": 0}, r"fingerprint=g but output=.* has f; use that, or another --output"),
        ({"versions": {"torch": "2"}}, {"seed": 0}, r"versions=\{'torch': '2'\} but output="),
        ({}, {"seed": 3}, r"needle\.seed=3 but output=.*eval\.json has 0"),
    ],
)
def test_results_of_another_kind_are_refused(tmp_path: Path, header: dict, settings: dict, message: str):
    file = tmp_path / "eval.json"
    Results(file, HEADER).add(CELL)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        Results(file, {**HEADER, **header}).find("needle", 64, settings)
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{", '{"format": "tandem"}', '{"format": "tandem-eval"}'])
def test_other_files_are_refused(tmp_path: Path, text: str):
    file = tmp_path / "eval.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"eval\.json"):
        Results(file, HEADER)
    assert file.read_text() == text


def test_a_fingerprint_tells_trainings_apart(make_model: Callable[..., HybridLM]):
    model = make_model()
    before = fingerprint(model)
    assert before == fingerprint(make_model()) != fingerprint(make_model(seed=1))
    assert fingerprint(make_model(context=128)) != before
    with torch.no_grad():
        model.norm.weight[3] += 1e-3
    assert fingerprint(model) != before
