"""Two changes break a test together, neither does alone: counts do not add up."""

from prices import price


def test_a_basket_stays_within_the_budget() -> None:
    """Fails when changes 5 and 17 are both made."""
    assert price(5) + price(17) < 44
