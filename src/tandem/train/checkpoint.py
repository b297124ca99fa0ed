"""Checkpoints: directories that are whole or absent, with everything that the next process needs to go on.

    checkpoints/step-00000100/
      model.safetensors   tensors of the module, in their own dtypes
      optimizer.pt        state of the optimizer
      resume.pt           position of the data, random states, what the module keeps besides tensors
      state.json          step, counts, seconds, windows of the spike detector
      manifest.json       size and SHA-256 of each of the others

A directory is written under a hidden name, flushed and renamed. A disk may still lose or cut a file later, so the
manifest is checked before a checkpoint is used, and the one before it takes over.
"""

import hashlib
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tandem.report import atomic_directory
from tandem.train.randomness import load_random_state, random_state

_logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a restored run stands, apart from its weights: plain JSON values, and the data's own state."""

    state: dict[str, Any]
    data: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run directory, of which the newest `keep` are kept.

    Only one process may use a run directory at a time.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.directory = run_dir / "checkpoints"
        self.keep = keep
        self._damaged: set[Path] = set()

    def save(self, module: nn.Module, optimizer: Optimizer, position: Position) -> Path:
        """Writes the checkpoint of `position.state["step"]`, then removes those that are no longer kept.

        Raises:
            OSError: the disk is full or refuses the write; earlier checkpoints are as they were.
        """
        step = position.state["step"]
        target = self.directory / f"step-{step:08d}"
        with atomic_directory(target) as partial:
            _write(partial, module, optimizer, position)
        self._prune(step)
        return target

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; each damaged one that is passed over is one log line."""
        self._sweep()
        for path in reversed(self._all()):
            damage = find_damage(path)
            if damage is None:
                return path
            _logger.warning("checkpoint %s is damaged (%s); using the one before it", path, damage)
            self._damaged.add(path)
        return None

    def restore(self, path: Path, module: nn.Module, optimizer: Optimizer) -> Position:
        """Loads weights, optimizer and random states in place and returns the rest.

        Raises:
            ValueError: the module or the optimizer is not the one that was saved.
        """
        state = read_state(path)
        # On the CPU first: the GPU that a checkpoint was saved from may not be here, and generators want CPU tensors.
        resume = torch.load(path / "resume.pt", weights_only=True, map_location="cpu")
        tensors: dict[str, Any] = load_file(path / "model.safetensors")
        tensors |= {alias: tensors[name] for alias, name in state["tied"].items()}
        try:
            module.load_state_dict(tensors | resume["extra"])
            optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu"))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"checkpoint={path} does not fit this model ({reason}); use the config it was trained with"
            ) from error
        load_random_state(resume["random"], module)
        return Position(state=state, data=resume["data"])

    def _all(self) -> list[Path]:
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_step_of)

    def _prune(self, step: int) -> None:
        """Damaged checkpoints and those of a later, abandoned part of the run would push sound ones out."""
        sound = [path for path in self._all() if path not in self._damaged and _step_of(path) <= step]
        kept = set(sound[-self.keep :])
        for path in self._all():
            if path not in kept and _step_of(path) != step:
                shutil.rmtree(path, ignore_errors=True)
        self._damaged.clear()

    def _sweep(self) -> None:
        """A process killed while it saved leaves a hidden directory as large as a checkpoint; nothing else is hidden.

        Killed while one checkpoint took the place of another of the same step, it has left that one hidden too: it goes back.
        """
        for path in self.directory.glob(".step-*.previous"):
            place = self.directory / path.stem.removeprefix(".")
            if not place.exists():
                path.rename(place)
        for path in self.directory.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint directory, in a few words, or None when every file is as it was written."""
    try:
        files = json.loads((path / _MANIFEST).read_text())["files"]
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} of {expected['size']} bytes"
            if _sha256(path / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is unreadable"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint, without loading any weights."""
    return json.loads((path / "state.json").read_text())


def _write(directory: Path, module: nn.Module, optimizer: Optimizer, position: Position) -> None:
    tensors, tied, extra = _split(module.state_dict())
    _save_tensors(tensors, directory / "model.safetensors")
    _save_object(optimizer.state_dict(), directory / "optimizer.pt")
    resume = {"data": position.data, "random": random_state(module), "extra": extra}
    _save_object(resume, directory / "resume.pt")
    (directory / "state.json").write_text(json.dumps({**position.state, "tied": tied}, indent=1))
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(directory.iterdir())}
    (directory / _MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Separates tensors, names that share another's tensor (tied weights), and what `get_extra_state` returned."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    extra: dict[str, Any] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            extra[name] = value
            continue
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and identity in first:
            tied[name] = first[identity]
        else:
            first[identity] = name
            tensors[name] = value.detach().contiguous()
    return tensors, tied, extra


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # The Rust writer hides the operating system's number in its text; without it a full disk has no clear message.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error), str(path)) from error


def _save_object(value: Any, path: Path) -> None:
    # Through a file of Python's: given a path, torch reports a full disk as a RuntimeError about zip offsets.
    with open(path, "wb") as file:
        torch.save(value, file)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
