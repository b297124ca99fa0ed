"""Three changes break a test each: counts add up."""

import pytest
from prices import BEFORE, price


@pytest.mark.parametrize("item", BEFORE)
def test_nothing_is_free(item: int) -> None:
    """Fails for the three items that the wrong changes are about."""
    assert price(item) > 0
