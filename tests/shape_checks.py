"""The type checker that the import hook of conftest.py puts on every function of the package."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a fine float, as the type checker has it


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, except where a hint is Self: it resolves Self only in a class, and the hook gives it functions."""
    try:
        return _check(function)
    except BeartypeDecorHintPep673Exception:
        return function
