import io
from pathlib import Path

import pytest

from tandem.cli import main


def test_a_conversation_is_not_saved_over_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("/save .\n/save talk.txt\n/exit\n"))
    main(["chat", "nano"])
    said = capsys.readouterr().out
    assert "/save . names a directory; give a file in it" in said
    assert "saved talk.txt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["talk.txt"]
