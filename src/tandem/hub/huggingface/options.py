"""Typed access to the keys of a Hugging Face `config.json`, whose errors name the key."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """A config's keys; each method takes several names for a key, oldest last, and `null` counts as absent.

    Raises (all methods):
        ValueError: a value of another type, or no value where no default is given.
    """

    plain: dict[str, Any]

    def find(self, *names: str) -> Any:
        """The first of these keys that has a value, else None."""
        return next((self.plain[name] for name in names if self.plain.get(name) is not None), None)

    def whole(self, *names: str, default: int | None = None) -> int:
        """A whole number."""
        return self._typed(names, int, default)

    def flag(self, *names: str, default: bool = False) -> bool:
        """True or false."""
        return self._typed(names, bool, default)

    def word(self, *names: str, default: str | None = None) -> str:
        """A string."""
        return self._typed(names, str, default)

    def words(self, *names: str) -> list[str] | None:
        """A list of strings, None when absent."""
        found = self.find(*names)
        if found is None or (isinstance(found, list) and all(isinstance(word, str) for word in found)):
            return found
        raise ValueError(f"config {names[0]}={found!r} must be a list of names")

    def number(self, *names: str, default: float | None = None) -> float:
        """A number; infinity may be written as JSON has it (`Infinity`) or as transformers 5 does."""
        return _number(names[0], self._typed(names, (int, float, dict), default))

    def limits(self, *names: str) -> tuple[float, float]:
        """Two numbers, the second perhaps infinite; (0, inf) when absent."""
        found = self.find(*names)
        if found is None:
            return 0.0, math.inf
        if not isinstance(found, list) or len(found) != 2:
            raise ValueError(f"config {names[0]}={found!r} must be a list of two numbers")
        least, most = (_number(names[0], value) for value in found)
        return least, most

    def _typed(self, names: tuple[str, ...], kind: Any, default: Any) -> Any:
        found = self.find(*names)
        if found is None:
            if default is None:
                raise ValueError(f"config lacks {names[0]}; copy the model's own config.json again")
            return default
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            name = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
            raise ValueError(f"config {names[0]}={found!r} must be of type {name}")
        return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, dict):
        value = {"Infinity": math.inf, "-Infinity": -math.inf}.get(str(value.get("__float__")))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"config {name} holds {value!r} where a number must be")
    return float(value)
