"""The one metrics file of every run: JSON objects, one a line, only ever appended to.

A row is `{"step": int, "kind": str, ...}`. The kinds that the report knows by name are `train`, `validation`,
`expert_load` and `event`; docs/reports.md lists their fields.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tandem.report.files import atomic_path, raise_if_full


class MetricsWriter:
    """Appends rows to a metrics file; each row reaches the operating system before `write` returns.

    A row is therefore kept when the process is killed. Opening repairs a last line that a kill cut.

    Args:
        path: the JSONL file; it and its directory are made when missing.
        keep_before: drop rows whose step is this or later, for a run that goes on from a checkpoint of that step.

    >>> with MetricsWriter(Path("metrics.jsonl")) as metrics:
    ...     metrics.write(step=0, kind="train", loss=8.3, tokens=2048)
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_before: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _repair(self.path, keep_before)
        # Unbuffered: a buffered row that met a full disk would be tried again, and torn, at close.
        self._file = open(self.path, "ab", buffering=0)

    def write(self, *, step: int, kind: str = "train", **values: Any) -> None:
        """Appends one row; tensors and arrays become lists or numbers, NaN and infinities become null.

        Raises:
            OSError: the disk is full or refuses the write; the file ends with the last whole row.
            TypeError: a value that JSON cannot hold.
        """
        row = {"step": int(step), "kind": kind} | {name: _plain(value) for name, value in values.items()}
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(end)
            raise_if_full(error, self.path)
            raise

    def close(self) -> None:
        """Closes the file; rows are already written."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads all rows in file order; a last line that a kill cut is left out.

    Raises:
        ValueError: there is no such file, or a line before the last is not a JSON object.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"metrics={source} does not exist; give the directory of a run that wrote metrics.jsonl")
    return [row for _, row in _rows(source)]


def _rows(source: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    lines = source.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                return
            raise ValueError(f"metrics={source} line {number} is not a JSON object; delete that line") from error
        # A cut line can still be whole JSON when only its newline is missing.
        yield line.rstrip(b"\n") + b"\n", row


def _repair(path: Path, keep_before: int | None) -> None:
    limit = math.inf if keep_before is None else keep_before
    kept = b"".join(line for line, row in _rows(path) if row.get("step", -1) < limit)
    if kept != path.read_bytes():
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # Tensors and arrays know how to become numbers and lists; asking them keeps torch out of this file's imports.
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
