"""Parses a verb's options from a dataclass, with mistakes told in one line like all others."""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile(r"^[│╰ ]*[─-]{3,}")
# What tyro says of a value, and the same with field, value and what would be right.
_REWRITTEN = (
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1=\2 is not a whole number; give one"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1=\2 is not a number; give one"),
    (
        r"Error parsing (\S+): no type matching \{None\}\|INT could .* from \[(.*?)\]\..*",
        r"\1=\2 is not a whole number; give one",
    ),
    (r"Error parsing (\S+): no type matching (\S+) could .* from \[(.*?)\]\..*", r"\1=\3 does not fit; give \2"),
    (r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]", r"\1=\2 does not fit its type"),
    (r"Error parsing \S+: (.*)", r"\1"),
    (r"invalid choice ('.*') for argument '(.*)'\. Expected one of \((.*)\)\.", r"\2=\1 is no choice; use one of \3"),
    (r"Missing value for argument '(.*)'\. Expected .*", r"\1 has no value; give one"),
    (r"Expected one of \{(.*)\}\.", r"a command is missing; use one of \1"),
)


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
    raise ValueError(f"{_message(_sections(box.getvalue()))}; see {prog} --help")


def _sections(box: str) -> list[list[str]]:
    """The paragraphs between the rules of a box that tyro draws, lines without frame but with their indentation."""
    lines = _COLOR.sub("", box).splitlines()[1:]
    sections: list[list[str]] = [[]]
    for line in lines:
        if _RULE.match(line):
            sections.append([])
        else:
            sections[-1].append(line.replace("│", " ").rstrip())
    texts = (textwrap.dedent("\n".join(section)).strip() for section in sections)
    return [text.split("\n") for text in texts if text]


def _message(sections: list[list[str]]) -> str:
    """One line: what is missing or unknown, or the field with its value; then what to use instead, where tyro knows it."""
    first, *others = sections
    text = " ".join(line.strip() for line in first)
    if text.startswith("Missing from"):
        missing = f"{', '.join(_options(first))} is missing"
        unknown = [f"{_options(section)[0]} is unknown" for section in others if section[0].startswith("Unrecognized")]
        return "; ".join([missing, *unknown])
    if text.startswith("Unrecognized options: "):
        unknown = text.removeprefix("Unrecognized options: ").partition(", ")[0]
        return f"{unknown} is unknown{''.join(map(_instead, others))}"
    for pattern, line in _REWRITTEN:
        if found := re.fullmatch(pattern, text):
            return found.expand(line)
    return text


def _options(section: list[str]) -> list[str]:
    """The options that a section lists: they are indented by four, their help by eight."""
    shallow = min(_indent(line) for line in section[1:])
    return [line.strip() for line in section[1:] if _indent(line) == shallow]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _instead(section: list[str]) -> str:
    if section[0].startswith("Perhaps you meant"):
        return f"; did you mean {_options(section)[0].split()[0]}?"
    if section[0].startswith("Available subcommands: "):
        return f"; use one of {' '.join(section).partition(': ')[2]}"
    return ""
