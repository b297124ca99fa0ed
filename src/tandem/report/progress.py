"""The one progress bar: a live line on a terminal, a plain line now and then anywhere else."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

_PLAIN_PERIOD = 10.0
_RATE_PERIOD = 30.0


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, **fields: int | float | str) -> None:
        """Counts `n` more units and shows `fields`; a field keeps its last value until it is given again."""


@contextmanager
def progress(description: str, total: int | None, *, unit: str = "steps", done: int = 0) -> Iterator[Progress]:
    """Shows how far a piece of work is, on the standard error stream.

    Args:
        description: a few words before the bar.
        total: units of the whole work, or None when it is not known.
        unit: what is counted, in the plural; `"bytes"` is shown in kB, MB, GB.
        done: units that an earlier process has already done; they do not count toward the rate.
    """
    meter = _Meter(description, total, unit, done, start=time.monotonic())
    if sys.stderr.isatty():
        with _live(meter) as bar:
            yield bar
        return
    line = _PlainLines(meter, shown=meter.start)
    try:
        yield line
    finally:
        # Nothing done is nothing to tell: an error before the first unit then stands alone.
        if meter.count > done:
            line.show()


@dataclass
class _Meter:
    """Counts, and takes the rate over the last half minute so that a slow start is forgotten."""

    description: str
    total: int | None
    unit: str
    count: int
    start: float
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    fields: dict[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.marks.append((self.start, self.count))

    def advance(self, n: int, fields: dict[str, int | float | str]) -> None:
        now = time.monotonic()
        self.count += n
        self.fields |= fields
        self.marks.append((now, self.count))
        while len(self.marks) > 2 and now - self.marks[1][0] > _RATE_PERIOD:
            self.marks.popleft()

    @property
    def rate(self) -> float:
        (first, before), (last, after) = self.marks[0], self.marks[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def count_text(self) -> str:
        if self.unit == "bytes":
            return _bytes(self.count) + ("" if self.total is None else f" of {_bytes(self.total)}")
        return f"{self.count:,.0f}" + ("" if self.total is None else f"/{self.total:,.0f}") + f" {self.unit}"

    def rate_text(self) -> str:
        if not self.rate:
            return f"– {self.unit}/s"
        return f"{_bytes(self.rate)}/s" if self.unit == "bytes" else f"{_number(self.rate)} {self.unit}/s"

    def elapsed_text(self) -> str:
        return _duration(time.monotonic() - self.start)

    def left_text(self) -> str:
        if self.total is None:
            return ""
        return f"ETA {_duration(max(0.0, self.total - self.count) / self.rate)}" if self.rate else "ETA –"

    def fields_text(self) -> str:
        named = ((name.replace("_per_second", "/s").replace("_", " "), value) for name, value in self.fields.items())
        return "  ".join(f"{name} {value if isinstance(value, str) else _number(value)}" for name, value in named)


@dataclass
class _PlainLines:
    meter: _Meter
    shown: float

    def advance(self, n: int = 1, **fields: int | float | str) -> None:
        self.meter.advance(n, fields)
        if time.monotonic() - self.shown >= _PLAIN_PERIOD:
            self.show()

    def show(self) -> None:
        self.shown = time.monotonic()
        meter = self.meter
        share = f"{meter.count / meter.total:.0%}" if meter.total else ""
        parts = (meter.count_text(), share, meter.rate_text(), meter.elapsed_text(), meter.left_text())
        text = "  ".join(part for part in (*parts, meter.fields_text()) if part)
        print(f"{meter.description}: {text}", file=sys.stderr, flush=True)


@contextmanager
def _live(meter: _Meter) -> Iterator[Progress]:
    # Deferred: rich costs tens of milliseconds, and most who import this room only write files.
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class MeterColumn(ProgressColumn):
        """Asks the meter at every refresh, so that the clock runs between two advances."""

        def __init__(self, text: Callable[[], str], style: str) -> None:
            super().__init__(Column(no_wrap=True))
            self.text, self.style = text, style

        def render(self, task: Task) -> Text:
            return Text(self.text(), style=self.style)

    bar = RichProgress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
        MeterColumn(meter.count_text, "default"),
        MeterColumn(meter.rate_text, "cyan"),
        MeterColumn(meter.elapsed_text, "dim"),
        MeterColumn(meter.left_text, "dim"),
        MeterColumn(meter.fields_text, "green"),
        console=Console(stderr=True),
        refresh_per_second=4,
        expand=True,
    )

    class LiveBar:
        def advance(self, n: int = 1, **fields: int | float | str) -> None:
            meter.advance(n, fields)
            bar.update(task, completed=meter.count)

    with bar:
        task = bar.add_task(meter.description, total=meter.total, completed=meter.count)
        yield LiveBar()


def _number(value: int | float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _bytes(count: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
