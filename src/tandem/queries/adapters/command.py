"""An oracle that is a command: it reads the items on its standard input and prints a number."""

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tandem.queries.adapters.count import CountError
from tandem.queries.region import Region


@dataclass(frozen=True)
class CommandCount:
    """Runs a command for each question; the last line it prints is the count.

    >>> CommandCount(["sh", "-c", "grep -c 7 || true"])(Region([(0, 20)]))
    2

    Attributes:
        command: the program and its arguments; no shell is involved.
        lines: the items themselves; the command then reads those of the region, one a line, in place of their numbers.
        give: without `lines`, what a line of its input is: "items", the number of an item, from 0; or "ranges", `start stop`,
            a half-open range of numbers.
        timeout: seconds a question may take.
    """

    command: Sequence[str]
    lines: Sequence[str] | None = None
    give: Literal["items", "ranges"] = "items"
    timeout: float | None = None

    def __post_init__(self):
        if not self.command:
            raise ValueError("command is empty; give the program that counts, and its arguments")

    def __call__(self, region: Region) -> float:
        """The count the command prints for this region.

        Raises:
            CountError: it cannot be started, takes too long, exits with another code than 0, or prints no number.
        """
        name = f"command={self.command[0]!r}"
        try:
            done = subprocess.run(
                list(self.command),
                input=self._input(region),
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
            )
        except OSError as error:
            raise CountError(f"{name} cannot be started: {error.strerror}; give a program that can") from error
        except subprocess.TimeoutExpired as error:
            raise CountError(f"{name} took longer than {self.timeout:g} s for one count; give it more time") from error
        if done.returncode:
            raise CountError(
                f"{name} ended with exit code {done.returncode}{_said(done.stderr)}; it has to print a count and exit with 0"
            )
        return _number(done.stdout, name)

    def _input(self, region: Region) -> str:
        if self.lines is not None:
            given = (self.lines[item] for item in region)
        elif self.give == "items":
            given = map(str, region)
        else:
            given = (f"{start} {stop}" for start, stop in region.ranges)
        return "".join(f"{line}\n" for line in given)


def _number(output: str, name: str) -> float:
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    try:
        number = float(last)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CountError(
            f"{name} printed {last[:80]!r} as its last line, which is no number; it has to print the count"
        )
    return int(number) if number.is_integer() else number


def _said(errors: str) -> str:
    lines = errors.strip().splitlines()
    return f" and said {lines[-1][:200]!r}" if lines else ""
