import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.report import atomic_directory, atomic_path


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_appears_whole_and_alone(tmp_path: Path):
    with atomic_path(tmp_path / "deep" / "a.npz") as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".npz"
        assert not (tmp_path / "deep" / "a.npz").exists()
    assert (tmp_path / "deep" / "a.npz").read_text() == "new"
    assert os.listdir(tmp_path / "deep") == ["a.npz"]


def write_half_a_file(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_error_leaves_the_old_file(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half_a_file(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="untouched") as caught:
        write_half_a_file(path, OSError(errno.ENOSPC, "No space left on device"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where nobody can make a file")
def test_a_refused_write_names_the_place_asked_for():
    with pytest.raises(OSError) as caught, atomic_path("/proc/a.txt") as temporary:  # noqa: PT011 - the kernel chooses
        temporary.write_text("new")
    assert caught.value.filename == "/proc/a.txt"
    with pytest.raises(OSError) as caught, atomic_directory("/proc/a"):  # noqa: PT011
        pass
    assert caught.value.filename == "/proc/a"


def full_disk_under_a_writer() -> None:
    """As torch.save: its writer closes its archive when a write has failed, and reports that instead."""
    try:
        full_disk()
    finally:
        raise RuntimeError("unexpected pos 64 vs 0")


def full_disk_in_text() -> None:
    raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")  # as safetensors


@pytest.mark.parametrize("write", [full_disk_under_a_writer, full_disk_in_text])
def test_full_disk_is_told_from_what_a_library_makes_of_it(tmp_path: Path, write: Callable[[], None]):
    for atomic in (atomic_path, atomic_directory):
        with pytest.raises(OSError, match="untouched") as caught, atomic(tmp_path / "a"):
            write()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_disk_that_fills_at_the_flush_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="untouched"), atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path):
    script = (
        "import os, signal; from tandem.report import atomic_directory\n"
        "with atomic_directory('d') as t:\n    (t / 'big').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    (leftover,) = os.listdir(tmp_path)
    assert leftover.startswith(".d.partial-")
    with atomic_directory(tmp_path / "d") as ours, atomic_directory(tmp_path / "d") as other:
        assert sorted(os.listdir(tmp_path)) == sorted([ours.name, other.name])
        (ours / "small").touch()
    assert os.listdir(tmp_path) == ["d"]


def test_directory_is_replaced_as_a_whole(tmp_path: Path):
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).touch()
    assert os.listdir(tmp_path) == ["d"]
    assert os.listdir(tmp_path / "d" / "sub") == ["second"]


def write_half_a_directory(path: Path) -> None:
    with atomic_directory(path) as temporary:
        (temporary / "half").touch()
        full_disk()


def test_error_leaves_the_old_directory(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with pytest.raises(OSError, match="untouched"):
        write_half_a_directory(tmp_path / "d")
    assert os.listdir(tmp_path) == ["d"]
    assert os.listdir(tmp_path / "d") == ["old"]


def test_rename_that_fails_puts_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    rename = Path.rename

    def refuse_the_new_one(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            full_disk()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="untouched"), atomic_directory(tmp_path / "d") as temporary:
        (temporary / "new").touch()
    assert os.listdir(tmp_path / "d") == ["old"]


def test_kill_between_the_two_renames_loses_nothing(tmp_path: Path):
    (tmp_path / ".d.previous").mkdir()
    (tmp_path / ".d.previous" / "old").touch()
    with pytest.raises(OSError, match="untouched"):
        write_half_a_directory(tmp_path / "d")
    assert os.listdir(tmp_path) == ["d"]
    assert os.listdir(tmp_path / "d") == ["old"]
