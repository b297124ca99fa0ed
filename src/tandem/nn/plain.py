"""Frozen dataclasses to and from plain dicts, as JSON holds them, with errors that name the path."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

Kinds = Mapping[type, str]


def to_plain(config: Any, kinds: Kinds) -> dict[str, Any]:
    """A nested dict of what JSON knows; a dataclass of `kinds` carries its name there as "kind".

    Args:
        kinds: names of the classes that share a field with others.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    kind = {"kind": kinds[type(config)]} if type(config) in kinds else {}
    return kind | {name: _plain(value, kinds) for name, value in values.items()}


def _plain(value: Any, kinds: Kinds) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value, kinds)
    return list(value) if isinstance(value, tuple) else value


def from_plain(cls: type, plain: dict[str, Any], path: str, kinds: Kinds) -> Any:
    """Rebuilds a dataclass from `to_plain`'s dict.

    Args:
        path: what the dict is called in errors.
    Raises:
        ValueError: a key that is unknown or missing, or a value of the wrong type, named by its path.
    """
    hints = {field.name: typing.get_type_hints(cls)[field.name] for field in dataclasses.fields(cls)}
    unknown = sorted(set(plain) - set(hints))
    if unknown:
        raise ValueError(f"{path}.{unknown[0]} is not a known key; known keys are {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in plain]
    if missing:
        raise ValueError(f"{path}.{missing[0]} is missing; add it")
    return cls(**{name: _value(hints[name], value, f"{path}.{name}", kinds) for name, value in plain.items()})


def _value(hint: Any, value: Any, path: str, kinds: Kinds) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in choices:
        return None
    if isinstance(value, dict):
        return _nested([c for c in choices if dataclasses.is_dataclass(c)], dict(value), path, kinds)
    for element in (float, int):
        if tuple[element, ...] in choices and isinstance(value, list):
            return tuple(_value(element, item, f"{path}[{index}]", kinds) for index, item in enumerate(value))
    if float in choices and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    scalars = tuple(c for c in choices if c in (int, float, str, bool))
    if not isinstance(value, scalars) or (isinstance(value, bool) and bool not in scalars):
        names = " or ".join(getattr(c, "__name__", str(c)) for c in choices)
        raise ValueError(f"{path}={value!r} must be of type {names}")
    return value


def _nested(configs: list[Any], plain: dict[str, Any], path: str, kinds: Kinds) -> Any:
    if not configs:
        raise ValueError(f"{path} is an object; it must be a single value")
    if len(configs) == 1:
        return from_plain(configs[0], plain, path, kinds)
    kind, known = plain.pop("kind", None), {kinds[config]: config for config in configs}
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"{path}.kind={kind!r} is unknown; use one of {', '.join(known)}")
    return from_plain(known[kind], plain, path, kinds)
