"""The run directory: one process at a time, and a run goes on only with the settings it was started with."""

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem.report import atomic_path

MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        "steps",
        "log_every",
        "validate_every",
        "checkpoint_every",
        "keep_checkpoints",
        "max_seconds",
        "tensorboard",
    )
)
"""Settings of `TrainConfig` under the key `train` that may differ when a run goes on: how long, and how it is logged."""


@contextmanager
def held_run_dir(run_dir: Path, config: Mapping[str, Any], may_change: Collection[str] = MAY_CHANGE) -> Iterator[None]:
    """Keeps other processes out of a run directory that `claim_run_dir` has claimed.

    A new run that fails before it has written anything leaves no `config.json`: it would refuse the settings put right.

    Raises:
        ValueError: another process holds the directory, or as `claim_run_dir`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with _alone(run_dir):
        file = run_dir / "config.json"
        is_new = not file.exists()
        claim_run_dir(run_dir, config, may_change)
        try:
            yield
        except BaseException:
            if is_new and not any(
                path.stat().st_size for path in run_dir.rglob("*") if path.is_file() and path != file
            ):
                file.unlink(missing_ok=True)
            raise


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    # A lock on the directory itself leaves no file behind, and ends with the process, however that ends.
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(
            f"run_dir={run_dir} is in use by another process; wait until it has ended, or use another run_dir"
        ) from None
    except OSError:
        pass  # a file system without locks on directories, as NFS
    try:
        yield
    finally:
        os.close(descriptor)


def claim_run_dir(run_dir: Path, config: Mapping[str, Any], may_change: Collection[str] = MAY_CHANGE) -> None:
    """Writes `config.json` into a new run directory, or checks that an old one's says the same.

    Args:
        config: plain values, as `json.dumps` takes them, in nested dicts.
        may_change: dotted names of values that may differ; the new ones are then written.

    Raises:
        ValueError: a value differs (the first one is named), or `config.json` is unreadable.
    """
    path = run_dir / "config.json"
    plain = json.loads(json.dumps(config))
    if path.exists():
        _check_same(run_dir, _read(path), plain, may_change)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _check_same(run_dir: Path, old: Any, new: Any, may_change: Collection[str]) -> None:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for name in (*after, *(name for name in before if name not in after)):
        if name not in may_change and before.get(name) != after.get(name):
            raise ValueError(
                f"{name}={after.get(name)} but run_dir={run_dir} was started with {name}={before.get(name)}; "
                "use that value, or another run_dir"
            )


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, item in value.items():
        yield from _leaves(item, f"{prefix}.{name}" if prefix else name)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"config={path} is not JSON; restore it, or use another run_dir") from error
