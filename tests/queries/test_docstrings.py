"""The examples in docstrings are what users copy."""

import doctest
import importlib
import pkgutil

import pytest

import tandem.queries

MODULES = [
    module.name for module in pkgutil.walk_packages(tandem.queries.__path__, "tandem.queries.") if not module.ispkg
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
