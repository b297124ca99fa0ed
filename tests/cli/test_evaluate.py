"""`tandem eval` from the command line: the table, the file, and Ctrl-C."""

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.cli import evaluate as verb
from tandem.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_a_bundled_model_is_measured(capsys: pytest.CaptureFixture[str]):
    Path("text.txt").write_text("Returns the name of a bucket. " * 30)
    options = "--text text.txt --lengths 130 --samples 2 --device cpu"
    main(["eval", "nano", "--tasks", "phone-book,perplexity", *options.split()])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert next(row for row in rows if "exact" in row)[:2] == ["phone-book", "130"]
    plain = json.loads(Path("runs/eval/nano.json").read_text())
    bits = next(cell for cell in plain["results"] if cell["task"] == "perplexity")["metrics"]["bits_per_byte"]["value"]
    assert next(row for row in rows if "bits_per_byte" in row)[:3] == ["perplexity", "bits_per_byte", f"{bits:.3g}"]
    assert lines[-1] == "results: runs/eval/nano.json"
    assert all(len(line) <= 80 for line in lines)


def test_ctrl_c_says_what_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run_evaluation", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["eval", "nano", "--tasks", "needle", "--output", "out"])
    assert left.value.code == 130
    assert capsys.readouterr().out == "stopped; what is done is in out/eval.json, and the same command goes on\n"
