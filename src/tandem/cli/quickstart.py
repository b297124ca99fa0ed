"""`tandem quickstart`: text, model, report and an answer in one command."""

from collections.abc import Sequence

from tandem.cli.arguments import parse
from tandem.recipes.quickstart import QuickstartConfig, run_quickstart


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and runs the recipe."""
    run_quickstart(parse(QuickstartConfig, "tandem quickstart", argv))
