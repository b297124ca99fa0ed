"""What configs demand of their numbers, with errors that name the field."""

import math
from typing import Any


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def require_positive(prefix: str, config: Any, *fields: str) -> None:
    """Each field is 1 or more."""
    for name in fields:
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"{prefix}.{name}={value} must be 1 or more")


def require_above_zero(prefix: str, config: Any, *fields: str) -> None:
    """Each field is a finite number above 0."""
    for name in fields:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{prefix}.{name}={value} must be a number above 0")
