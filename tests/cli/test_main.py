"""The command line as a person meets it: help, version, and mistakes that take one line to explain."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tandem import __version__
from tandem.cli.main import VERBS, main


def mistake(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail as a user's mistake does; returns its one line."""
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    captured = capsys.readouterr()
    assert exit_info.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip()


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]):
    main(argv)
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]):
    main(["--version"])
    assert capsys.readouterr().out == f"tandem {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("pla", "plan"), ("quickstrat", "quickstart"), ("generat", "generate")])
def test_unknown_verb_names_the_closest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]):
    assert mistake([typed], capsys) == f"tandem: verb={typed!r} is unknown; did you mean {meant!r}?"


def test_unknown_verb_without_a_neighbor_lists_all(capsys: pytest.CaptureFixture[str]):
    assert "use one of quickstart, plan, data" in mistake(["zzz"], capsys)


def test_unknown_preset(capsys: pytest.CaptureFixture[str]):
    line = mistake(["plan", "model", "turbo"], capsys)
    assert line.startswith("tandem plan: preset='turbo' is unknown")
    assert "turbos-560b" in line


def test_exit_code_and_streams_of_the_process():
    command = [sys.executable, "-c", "from tandem.cli import main; main()", "nonsense"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
