"""What a policy is: it sees the posterior and names the next sets of cells to ask about."""

from typing import Protocol, runtime_checkable

import numpy as np

from tandem.queries.posterior import Posterior
from tandem.queries.region import Region


@runtime_checkable
class Policy(Protocol):
    """Chooses questions. Random choices come from `rng` alone, so that a session repeats itself."""

    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        """The next sets of cells, one or more, to be asked about before any of their answers is known."""
        ...
