"""Mistakes in options take one line and teach; help still prints."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from tandem.cli.arguments import parse, parse_command


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner options."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"inner.count={self.count} must be 1 or more, because a message may be longer than a line")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Outer options."""

    name: Annotated[str, tyro.conf.Positional]
    """What to greet."""
    size: int = 3
    inner: Inner = field(default_factory=Inner)


def test_options_become_the_dataclass():
    typed = ["x", "--size", "4", "--inner.count", "2"]
    assert parse(Outer, "tandem greet", typed) == Outer(name="x", size=4, inner=Inner(count=2))
    assert parse_command({"outer": Outer}, "tandem greet", "Greet.", ["outer", "x"]) == Outer(name="x")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["x", "--inner.count", "0"],
            "inner.count=0 must be 1 or more, because a message may be longer than a line; see tandem greet --help",
        ),
        (["x", "--sizes", "4"], "--sizes is unknown; did you mean --size?"),
        (["x", "--size", "many"], "--size='many' is not a whole number; give one"),
        (["x", "--size"], "--size has no value; give one"),
        ([], "STR is missing"),
    ],
)
def test_a_mistake_is_one_line(typed: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    for call in (
        lambda: parse(Outer, "tandem greet", typed),
        lambda: parse_command({"outer": Outer}, "tandem greet", "Greet.", ["outer", *typed]),
    ):
        with pytest.raises(ValueError, match="see tandem greet --help") as caught:
            call()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not set("│╭╰─").intersection(str(caught.value))
        assert "---" not in str(caught.value)
    assert capsys.readouterr().err == ""


def test_help_is_printed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        parse(Outer, "tandem greet", ["--help"])
    assert exit_info.value.code == 0
    assert "What to greet." in capsys.readouterr().out
