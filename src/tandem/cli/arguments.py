"""Parses a verb's options from a dataclass, with mistakes told in one line like all others."""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile(r"^[│╰ ]*[─-]{3,}")
_PREFIX = re.compile(r"^Error parsing \S+: ")


def parse(arguments: type[Arguments], prog: str, argv: Sequence[str]) -> Arguments:
    """Builds a dataclass from the options of a verb.

    Args:
        prog: what was typed before the options, e.g. "tandem report".
    Raises:
        ValueError: an unknown option, a missing or malformed value, or what the dataclass itself refuses.
        SystemExit: after `--help`.
    """
    return _told_in_one_line(lambda: tyro.cli(arguments, prog=prog, args=list(argv)), prog)


def parse_command(commands: Mapping[str, type[Arguments]], prog: str, about: str, argv: Sequence[str]) -> Arguments:
    """The same for a verb that has commands of its own, each with a dataclass; returns that of the one typed.

    Args:
        about: one line for `--help`.
    """

    def call() -> Any:
        return tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=about, args=list(argv))

    return _told_in_one_line(call, prog)


def _told_in_one_line(call: Callable[[], Arguments], prog: str) -> Arguments:
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return call()
    except SystemExit as leave:
        if leave.code != 2:
            raise
    raise ValueError(f"{_first_message(box.getvalue())}; see {prog} --help")


def _first_message(box: str) -> str:
    """The text of a box that tyro draws: a title, the message, and after a rule advice that is left out."""
    lines = _COLOR.sub("", box).splitlines()[1:]
    # Where the terminal has no box characters a rule of hyphens comes between title and message.
    body = lines[1:] if lines and _RULE.match(lines[0]) else lines
    message = itertools.takewhile(lambda line: not _RULE.match(line), body)
    return _PREFIX.sub("", " ".join(line.strip("│ ") for line in message))
