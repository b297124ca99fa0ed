"""Twenty questions for several objects: find k hidden things by asking how many of them lie in a set."""

from tandem.queries.adapters import (
    AdditivityError,
    AsyncCount,
    CommandCount,
    Count,
    CountError,
    FailingChanges,
    FailingTests,
    Found,
    ImageCount,
    InsertCount,
    confirm,
    ddmin,
    locate,
    locate_or_ddmin,
    pytest_failures,
    search,
    search_async,
)
from tandem.queries.answers import (
    Answers,
    ConfusedAnswers,
    ExactAnswers,
    GaussianAnswers,
    MissedAnswers,
    NoisyAnswers,
    PoissonAnswers,
    SaturatedAnswers,
)
from tandem.queries.bounds import capacity, dyadic_entropy, dyadic_information, dyadic_questions, lower_bound
from tandem.queries.boxes import Boxes
from tandem.queries.constraints import Constraints, NothingToAskError
from tandem.queries.enumeration import Optimum, expected_reduction
from tandem.queries.generating import GeneratingFunction
from tandem.queries.measures import MOST_OBJECTS
from tandem.queries.particles import Particles
from tandem.queries.policies import (
    BatchGreedyPolicy,
    BestBox,
    BestRange,
    DyadicPolicy,
    EntropyPursuit,
    GreedyPolicy,
    HalfGreedyPolicy,
    Policy,
    RandomHalves,
    SequentialBifurcation,
)
from tandem.queries.posterior import ContradictionError, LostObjectsError, Posterior
from tandem.queries.prior import Prior
from tandem.queries.product import Product
from tandem.queries.region import Region
from tandem.queries.session import Session
from tandem.queries.standing import Standing
from tandem.queries.table import Table

__all__ = [
    "MOST_OBJECTS",
    "AdditivityError",
    "Answers",
    "AsyncCount",
    "BatchGreedyPolicy",
    "BestBox",
    "BestRange",
    "Boxes",
    "CommandCount",
    "ConfusedAnswers",
    "Constraints",
    "ContradictionError",
    "Count",
    "CountError",
    "DyadicPolicy",
    "EntropyPursuit",
    "ExactAnswers",
    "FailingChanges",
    "FailingTests",
    "Found",
    "GaussianAnswers",
    "GeneratingFunction",
    "GreedyPolicy",
    "HalfGreedyPolicy",
    "ImageCount",
    "InsertCount",
    "LostObjectsError",
    "MissedAnswers",
    "NoisyAnswers",
    "NothingToAskError",
    "Optimum",
    "Particles",
    "PoissonAnswers",
    "Policy",
    "Posterior",
    "Prior",
    "Product",
    "RandomHalves",
    "Region",
    "SaturatedAnswers",
    "SequentialBifurcation",
    "Session",
    "Standing",
    "Table",
    "capacity",
    "confirm",
    "ddmin",
    "dyadic_entropy",
    "dyadic_information",
    "dyadic_questions",
    "expected_reduction",
    "locate",
    "locate_or_ddmin",
    "lower_bound",
    "pytest_failures",
    "search",
    "search_async",
]
