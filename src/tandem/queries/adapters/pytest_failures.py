"""Oracles that are test runs: how many tests fail among a subset of tests, or under a subset of changes."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tandem.queries.adapters.count import CountError
from tandem.queries.region import Region

_RAN = (0, 1)  # pytest's exit codes "all passed" and "some failed"; every other one says that not all tests ran


@dataclass(frozen=True)
class FailingTests:
    """Counts failing tests among those of a region, each run in one pytest process with the others.

    A test that fails alone is counted in every subset. One that fails only beside another, which left something behind,
    makes counts that do not add up; `locate_or_ddmin` then finds the tests that are needed for it.

    Attributes:
        tests: node ids, such as `tests/test_a.py::test_b`; item i is tests[i].
        options: further arguments of pytest.
        directory: where pytest runs.
    """

    tests: Sequence[str]
    options: Sequence[str] = ()
    directory: str | Path = "."

    def __call__(self, region: Region) -> int:
        """How many tests of the region fail, errors included."""
        chosen = [self.tests[item] for item in region]
        return pytest_failures([*self.options, *chosen], self.directory) if chosen else 0


@dataclass(frozen=True)
class FailingChanges:
    """Counts failing tests while only the changes of a region are made.

    An object is then a failing test, and it lies at the change that breaks it: the answer (3, 3, 17) says that change 3
    breaks two tests. Tests that fail without any change, or that two changes break together, make counts that do not add up.

    Attributes:
        apply: makes these changes and undoes all others, such as by patching files or by writing a list of flags.
        arguments: of pytest.
        directory: where pytest runs.
    """

    apply: Callable[[Region], None]
    arguments: Sequence[str] = ()
    directory: str | Path = "."

    def __call__(self, region: Region) -> int:
        """How many tests fail with the changes of the region, errors included."""
        self.apply(region)
        return pytest_failures(self.arguments, self.directory)


def pytest_failures(arguments: Sequence[str], directory: str | Path = ".") -> int:
    """Runs pytest in a process of its own and returns how many tests failed or had errors.

    Args:
        arguments: options, files and node ids. directory: where it runs.
    Raises:
        CountError: pytest did not run all tests, such as when a file cannot be imported, or is not installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run([*command, *arguments], cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode not in _RAN or not report.exists():
            last = next(reversed((done.stdout + done.stderr).strip().splitlines()), "nothing")
            raise CountError(
                f"pytest ended with exit code {done.returncode} and said {last[:200]!r}; all tests have to run, whether they pass or not"
            )
        suites = ElementTree.parse(report).getroot().iter("testsuite")
        return sum(int(suite.get("failures", 0)) + int(suite.get("errors", 0)) for suite in suites)
