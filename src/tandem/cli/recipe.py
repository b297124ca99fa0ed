"""`tandem recipe`: whole experiments in one command."""

from collections.abc import Sequence

from tandem.cli.arguments import parse_command
from tandem.recipes.precision_sweep import PrecisionSweepConfig, sweep_precision
from tandem.recipes.questions import QuestionsConfig, ask_again
from tandem.recipes.retrieval import RetrievalConfig, compare_retrieval
from tandem.recipes.transmamba import TransMambaRecipeConfig, compare_transmamba
from tandem.recipes.twins import TwinsConfig, compare_twins


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and runs the recipe that it names."""
    recipes = {
        "twins": TwinsConfig,
        "retrieval": RetrievalConfig,
        "transmamba": TransMambaRecipeConfig,
        "precision": PrecisionSweepConfig,
        "queries": QuestionsConfig,
    }
    config = parse_command(recipes, "tandem recipe", "Whole experiments in one command.", argv)
    if isinstance(config, RetrievalConfig):
        compare_retrieval(config)
    elif isinstance(config, TransMambaRecipeConfig):
        compare_transmamba(config)
    elif isinstance(config, PrecisionSweepConfig):
        sweep_precision(config)
    elif isinstance(config, QuestionsConfig):
        ask_again(config)
    else:
        compare_twins(config)
