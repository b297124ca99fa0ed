"""Which question to ask next: one class a policy."""

from tandem.queries.policies.batch_greedy import BatchGreedyPolicy
from tandem.queries.policies.best_box import BestBox
from tandem.queries.policies.best_range import BestRange
from tandem.queries.policies.bifurcation import SequentialBifurcation
from tandem.queries.policies.dyadic import DyadicPolicy
from tandem.queries.policies.entropy_pursuit import EntropyPursuit
from tandem.queries.policies.greedy import GreedyPolicy
from tandem.queries.policies.half_greedy import HalfGreedyPolicy
from tandem.queries.policies.policy import Policy
from tandem.queries.policies.random_halves import RandomHalves

__all__ = [
    "BatchGreedyPolicy",
    "BestBox",
    "BestRange",
    "DyadicPolicy",
    "EntropyPursuit",
    "GreedyPolicy",
    "HalfGreedyPolicy",
    "Policy",
    "RandomHalves",
    "SequentialBifurcation",
]
