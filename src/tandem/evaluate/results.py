"""The file of an evaluation: one JSON object with a cell for each (task, length), written whole after every cell.

A cell that is there is not measured again, so an evaluation that was stopped goes on where it stood, and more tasks can be
added later. What would mix results of different kinds is refused: another model, other versions, other settings.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.data import read_json_object
from tandem.evaluate.estimate import Estimate
from tandem.nn import HybridLM
from tandem.report import atomic_path

_FORMAT = "tandem-eval"
_SAMPLED = 1024


class Results:
    """The cells of a file.

    Args:
        path: where it is; None keeps the cells in memory only.
        header: what all cells share (model, fingerprint, device, versions).
    Raises:
        ValueError: a file that is something else, or of another header.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.path = path
        self.plain: dict[str, Any] = {"format": _FORMAT, **header, "results": []}
        if path is not None and path.exists():
            found = read_json_object(path)
            if found.get("format") != _FORMAT or not isinstance(found.get("results"), list):
                raise ValueError(f"output={path} is no file of tandem eval; use another --output")
            self._check(found, self.plain, "")
            self.plain["results"] = found["results"]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """All cells, in the order they were measured."""
        return self.plain["results"]

    def find(self, task: str, length: int | None, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The cell of a task at a length, None if it was not measured yet.

        Raises:
            ValueError: it was measured with other settings.
        """
        for cell in self.cells:
            if (cell["task"], cell.get("length")) == (task, length):
                self._check(cell["settings"], settings, f"{task}.")
                return cell
        return None

    def add(self, cell: Mapping[str, Any]) -> None:
        """Appends a cell and writes the file."""
        self.cells.append(plain_numbers(cell))
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                text = json.dumps(self.plain, indent=1, ensure_ascii=False, allow_nan=False)
                temporary.write_text(text + "\n", encoding="utf-8")

    def _check(self, old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> None:
        for name, value in new.items():
            # The fingerprint says which model it is; where it lies may change.
            if name not in ("results", "model") and old.get(name) != (value := plain_numbers(value)):
                raise ValueError(
                    f"{prefix}{name}={value} but output={self.path} has {old.get(name)}; use that, or another --output"
                )


def plain_numbers(value: Any) -> Any:
    """A value as JSON gives it back: estimates and mappings as objects, numbers that are not finite as null."""
    if isinstance(value, Estimate):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def fingerprint(model: HybridLM) -> str:
    """A short hash of the config and of the first weights of every tensor: another training has another one."""
    digest = hashlib.sha256(model.config.to_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.flatten()[:_SAMPLED].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
