"""What an oracle is: anything that takes a region and says how many objects lie in it."""

from collections.abc import Callable

from tandem.queries.region import Region

Count = Callable[[Region], float]


class CountError(ValueError):
    """An oracle gave no count. The session has not changed; mend the oracle and go on."""
