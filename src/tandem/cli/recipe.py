"""`tandem recipe`: whole experiments in one command."""

from collections.abc import Sequence

from tandem.cli.arguments import parse_command
from tandem.recipes.twins import TwinsConfig, compare_twins


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and runs the recipe that it names."""
    compare_twins(parse_command({"twins": TwinsConfig}, "tandem recipe", "Whole experiments in one command.", argv))
