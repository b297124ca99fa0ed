"""A price list and 24 changes to it, one an item; only those whose numbers stand in applied.txt are made."""

from pathlib import Path

APPLIED = Path(__file__).with_name("applied.txt")
BEFORE = {item: 10 + item for item in range(24)}
CHANGED = {item: price + 1 for item, price in BEFORE.items()} | {2: 0, 13: -4, 20: 0}


def price(item: int) -> int:
    """What an item costs with the changes made."""
    applied = set(map(int, APPLIED.read_text().split()))
    return CHANGED[item] if item in applied else BEFORE[item]
