"""What configs demand of their numbers, with errors that name the field."""

import math
from typing import Any

_TOO_LARGE = 2**31


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def require_positive(prefix: str, config: Any, *fields: str) -> None:
    """Each field is 1 or more, and no size that tensors cannot have."""
    for name in fields:
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"{prefix}.{name}={value} must be 1 or more")
        if value >= _TOO_LARGE:
            raise ValueError(f"{prefix}.{name}={value} is more than a model can have; use less than {_TOO_LARGE}")


def require_above_zero(prefix: str, config: Any, *fields: str) -> None:
    """Each field is a finite number above 0."""
    for name in fields:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{prefix}.{name}={value} must be a number above 0")
