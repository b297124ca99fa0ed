"""Which exceptions are a user's mistake, and how each is told."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.cli.errors import user_errors


def leave(error: BaseException, capsys: pytest.CaptureFixture[str], verb: str = "pretrain") -> tuple[object, str]:
    """Exit code and stderr of a verb that raises."""
    with pytest.raises(SystemExit) as exit_info, user_errors(verb):
        raise error
    return exit_info.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("data.context=9 is odd;\n  use 8"), "tandem pretrain: data.context=9 is odd; use 8\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), "directory (a.json)\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "tandem pretrain: Permission denied (/x)\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space and run the same command again\n"),
        (ImportError("needs datasketch: pip install 'tandem-lm[data]'"), "pip install 'tandem-lm[data]'\n"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(error: Exception, line: str, capsys: pytest.CaptureFixture[str]):
    code, text = leave(error, capsys)
    assert code == 2
    assert text.endswith(line)
    assert text.count("\n") == 1


def test_malformed_json_is_a_users_mistake(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert leave(caught.value, capsys)[0] == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), KeyError("bug"), ImportError("cannot import name 'x'"), OSError(errno.EBADF, "bug")]
)
def test_a_mistake_of_ours_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)), user_errors("pretrain"):
        raise error


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_DEBUG", "1")
    with pytest.raises(ValueError, match="wrong"), user_errors("pretrain"):
        raise ValueError("wrong")


def test_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]):
    assert leave(KeyboardInterrupt(), capsys) == (130, "tandem pretrain: interrupted\n")


def test_a_reader_that_went_away_ends_the_program_quietly(tmp_path: Path):
    script = tmp_path / "talk.py"
    script.write_text(
        "from tandem.cli.errors import user_errors\n"
        "with user_errors('plan'):\n"
        "    for _ in range(100_000): print('a line that nobody reads', flush=True)\n"
    )
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, str(script)], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    os.read(reading, 64)
    os.close(reading)
    _, errors = child.communicate(timeout=30)
    assert errors == ""
    assert child.returncode == 141
