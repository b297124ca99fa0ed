"""Oracles that count in the world outside: a database, a command, a test run; and the loop that asks them."""

from tandem.queries.adapters.command import CommandCount
from tandem.queries.adapters.count import Count, CountError
from tandem.queries.adapters.delta_debugging import ddmin
from tandem.queries.adapters.drive import AdditivityError, Found, confirm, locate, locate_or_ddmin, search
from tandem.queries.adapters.image import ImageCount
from tandem.queries.adapters.in_flight import AsyncCount, search_async
from tandem.queries.adapters.insert import InsertCount
from tandem.queries.adapters.pytest_failures import FailingChanges, FailingTests, pytest_failures

__all__ = [
    "AdditivityError",
    "AsyncCount",
    "CommandCount",
    "Count",
    "CountError",
    "FailingChanges",
    "FailingTests",
    "Found",
    "ImageCount",
    "InsertCount",
    "confirm",
    "ddmin",
    "locate",
    "locate_or_ddmin",
    "pytest_failures",
    "search",
    "search_async",
]
