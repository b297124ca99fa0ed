"""`tandem quickstart`: text, model, report and an answer in one command."""

from collections.abc import Sequence

import tyro

from tandem.recipes.quickstart import QuickstartConfig, quickstart


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and runs the recipe."""
    quickstart(tyro.cli(QuickstartConfig, prog="tandem quickstart", args=list(argv)))
