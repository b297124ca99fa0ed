"""Files that are either the old one or the new one, never a piece of one.

A run may be killed at any instant and a disk may fill at any byte. Everything Tandem keeps (checkpoints, shards,
reports) is therefore written beside its place under a hidden name, flushed to the disk, and renamed into place.
"""

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary sibling to write one file to; on success it becomes `path`, on any error it is removed.

    Missing parent directories are made. The temporary name keeps the suffix, for writers that choose a format by it.

    Raises:
        OSError: the disk is full (the error names `path`) or refuses the write; a file at `path` is as it was.

    >>> with atomic_path("notes.json") as temporary:
    ...     temporary.write_text("{}")
    2
    """
    target = Path(path)
    temporary = _temporary_sibling(target)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name(target, error, temporary)
        raise_if_full(error, target)
        raise
    _sync(target.parent)


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary directory; on success it becomes `path` with all it holds, on any error it is removed.

    A directory already at `path` is replaced by two renames. A kill between them leaves it beside its place as
    `.NAME.previous`, and the next call for the same path puts it back first.

    Raises:
        OSError: the disk is full (the error names `path`) or refuses the write; a directory at `path` is as it was.
    """
    target = Path(path)
    temporary = _temporary_sibling(target)
    previous = target.with_name(f".{target.name}.previous")
    if previous.exists() and not target.exists():
        previous.rename(target)
    try:
        temporary.mkdir()
        yield temporary
        for directory, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(directory, name))
            _sync(Path(directory))
        _swap_directory(temporary, target, previous)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name(target, error, temporary)
        raise_if_full(error, target)
        raise
    _sync(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def raise_if_full(error: BaseException, target: Path) -> None:
    """Raises an `OSError` that names the file and what is left of it when `error` says that the disk or the quota is full."""
    number = _system_error(error)
    if number in _NO_SPACE:
        message = "no space left on the disk or in the quota, and what was there before is untouched"
        raise OSError(number, message, str(target)) from error


def _system_error(error: BaseException | None) -> int | None:
    """The operating system's number in an error or in what it arose from.

    safetensors has the number in its text only, and torch's zip writer answers a refused write with a RuntimeError of its own.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _name(target: Path, error: BaseException, temporary: Path) -> None:
    # A refused write is told with the name that was asked for, not with the hidden one.
    if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
        error.filename = str(target)


def _swap_directory(temporary: Path, target: Path, previous: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    shutil.rmtree(previous, ignore_errors=True)
    target.rename(previous)
    try:
        temporary.rename(target)
    except BaseException:
        previous.rename(target)
        raise


def _temporary_sibling(target: Path) -> Path:
    """A hidden name beside `target`, after leftovers of killed processes of this machine are removed.

    Without that a run killed while it saves would leave one whole checkpoint on the disk at every kill.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    for entry in os.scandir(target.parent):
        owner = entry.name.removeprefix(prefix).partition("-")[0]
        if entry.name.startswith(prefix) and owner.isdecimal() and not _is_alive(int(owner)):
            _remove(Path(entry.path))
    return target.with_name(f"{prefix}{os.getpid()}-{uuid4().hex[:8]}{target.suffix}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
