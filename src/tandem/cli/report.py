"""`tandem report`: the page of a run, from the files in its directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tandem.cli.arguments import parse
from tandem.report import write_report


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportArguments:
    """Write report.html into a run directory: curves, expert load, decode state, samples and configuration.

    The page is one file that embeds its figures. It can be made while the run goes on, and made again.
    """

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """Run directory, the one that holds metrics.jsonl."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), writes the report and prints its path."""
    arguments = parse(ReportArguments, "tandem report", argv)
    print(write_report(arguments.run_dir))
