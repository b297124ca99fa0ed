"""Building the kernels: once, for this processor, and never at the price of a run."""

import ctypes
import logging
import shutil
from pathlib import Path

import pytest
import torch

from tandem.ops.cpu import compiled as module


@pytest.fixture(autouse=True)
def _fresh():
    module.library.cache_clear()
    yield
    module.library.cache_clear()


@pytest.mark.slow
def test_is_built_once_and_other_sources_are_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    assert isinstance(module.library(), ctypes.CDLL)
    assert [record.message.split(" with ")[0] for record in caplog.records] == ["building CPU kernels"]
    (built,) = (tmp_path / "kernels").iterdir()
    before = built.stat().st_mtime_ns
    module.library.cache_clear()
    assert module.library() is not None
    assert built.stat().st_mtime_ns == before
    assert len(caplog.records) == 1
    copy = tmp_path / "sources"
    shutil.copytree(module._SOURCES, copy)
    (copy / "tile.h").write_text((copy / "tile.h").read_text() + "\n// another\n")
    monkeypatch.setattr(module, "_SOURCES", copy)
    assert f"tandem-{module._key(module.find_compiler() or '')}.so" != built.name


@pytest.mark.parametrize("why", ["no compiler", "broken source", "unwritable cache"])
def test_without_kernels_ops_run_and_one_line_says_why(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    if why == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
    elif why == "broken source":
        (tmp_path / "broken.cpp").write_text("not C++")
        monkeypatch.setattr(module, "_SOURCES", tmp_path)
    else:
        (tmp_path / "kernels").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert module.library() is None
        assert module.kernels_for(torch.ones(1)) is None
    assert "CPU kernels are off, PyTorch's ops run" in caplog.records[-1].message
    assert len(caplog.records) == (1 if why == "no compiler" else 2)  # else the build was announced


def test_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_KERNELS", "off")
    assert module.library() is None


def test_only_narrow_formats_on_the_cpu_are_taken():
    assert module.kernels_for(torch.ones(1), None, torch.ones(1).bfloat16()) is not None
    assert module.kernels_for(torch.ones(1).double()) is None
    assert module.kernels_for(torch.ones(1), torch.ones(1, device="meta")) is None
