import importlib
import io
import sys

import pytest

from tandem.report import progress

# The door's function `progress` hides the module of the same name.
module = importlib.import_module("tandem.report.progress")


class Clock:
    """Time that passes only when told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    fake = Clock()
    monkeypatch.setattr(module, "time", fake)
    return fake


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with progress("train", 100, done=40) as bar:
        for step in range(50):
            clock.now += 0.5
            bar.advance(loss=3 - step / 100, tokens_per_second=12345.6)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "train: 60/100 steps  60%  2 steps/s  0:00:10  ETA 0:00:20  loss 2.81  tokens/s 12,346",
        "train: 80/100 steps  80%  2 steps/s  0:00:20  ETA 0:00:10  loss 2.61  tokens/s 12,346",
        "train: 90/100 steps  90%  2 steps/s  0:00:25  ETA 0:00:05  loss 2.51  tokens/s 12,346",
    ]


def test_rate_forgets_a_slow_start(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("train", None, unit="tokens") as bar:
        clock.now += 300
        bar.advance(10)
        for _ in range(40):
            clock.now += 1
            bar.advance(100)
    assert capsys.readouterr().err.splitlines()[-1] == "train: 4,010 tokens  100 tokens/s  0:05:40"


def test_bytes_are_shown_in_decimal_units(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("fetch", 20_000_000, unit="bytes") as bar:
        clock.now += 2
        bar.advance(5_000_000)
    assert capsys.readouterr().err == "fetch: 5 MB of 20 MB  25%  2.5 MB/s  0:00:02  ETA 0:00:06\n"


def fail_after_one_step():
    with progress("train", 10) as bar:
        bar.advance()
        raise RuntimeError("boom")


def test_an_error_passes_through_after_the_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(RuntimeError, match="boom"):
        fail_after_one_step()
    assert capsys.readouterr().err.startswith("train: 1/10 steps")


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_live_bar_shows_count_rate_and_fields(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("train [base]", 4, done=1) as bar:
        for _ in range(3):
            bar.advance(loss=2.5)
    last = terminal.getvalue().split("\r")[-1]
    for text in ("train [base]", "━", "4/4 steps", "steps/s", "ETA 0:00:00", "loss 2.5"):
        assert text in last
