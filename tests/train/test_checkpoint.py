import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train_toys import Regression, Stream, config, parameters

from tandem.report import read_metrics
from tandem.train import Checkpoints, fit
from tandem.train.checkpoint import Position, find_damage
from tandem.train.optimizer import build_optimizer


def names(run_dir: Path):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def train(run_dir: Path, **changes: Any):
    task = Regression()
    fit(task, Stream(), config(**changes), run_dir)
    return task


def assert_same(left: Regression, right: Regression):
    assert all(torch.equal(a, b) for a, b in zip(parameters(left), parameters(right), strict=True))


def spoil(path: Path, how: str):
    if how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_the_newest_are_kept(tmp_path: Path):
    train(tmp_path, keep_checkpoints=3)
    assert names(tmp_path) == ["step-00000010", "step-00000015", "step-00000020"]
    assert sorted(path.name for path in (tmp_path / "checkpoints/step-00000020").iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.pt",
        "resume.pt",
        "state.json",
    ]


@pytest.mark.parametrize("how", ["cut", "missing", "flipped"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "resume.pt", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
):
    whole = train(tmp_path)
    spoil(tmp_path / "checkpoints/step-00000020" / name, how)
    resumed = train(tmp_path)
    assert_same(whole, resumed)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "step-00000020 is damaged (" in messages[0]
    # A changed digit in the manifest accuses the file that it belongs to.
    assert name in messages[0] or (name, how) == ("manifest.json", "flipped")
    assert names(tmp_path) == ["step-00000015", "step-00000020"]
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert steps == list(range(1, 21))
    assert find_damage(tmp_path / "checkpoints/step-00000020") is None


def test_a_run_with_nothing_but_damage_starts_again(tmp_path: Path):
    whole = train(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        spoil(path / "model.safetensors", "cut")
    assert_same(whole, train(tmp_path))


def test_a_damaged_checkpoint_never_pushes_out_a_sound_one(tmp_path: Path):
    train(tmp_path, keep_checkpoints=2)
    spoil(tmp_path / "checkpoints/step-00000020/model.safetensors", "cut")
    # In another rhythm the next checkpoint is not the damaged one again.
    train(tmp_path, steps=23, checkpoint_every=23, keep_checkpoints=2)
    assert names(tmp_path) == ["step-00000015", "step-00000023"]


def test_a_checkpoint_on_its_way_out_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kill between the two renames that put one checkpoint in the place of another of the same step."""

    def end(limit: int, seen: list[Path]) -> int:
        rename = Path.rename

        def kill(path: Path, target: Path) -> Path:
            if target.name == "step-00000007" and target.with_name(".step-00000007.previous").exists():
                seen.append(target)
                shutil.copytree(target.parent, tmp_path / "killed" / "checkpoints")
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", kill)
            # The data ends at a step that was saved just before, which is saved again with that.
            settings = config(keep_checkpoints=1, checkpoint_every=7, validate_every=0)
            return fit(Regression(), Stream(limit=limit), settings, tmp_path / "run").step

    seen: list[Path] = []
    assert end(7, seen) == 7
    assert len(seen) == 1
    assert names(tmp_path / "killed")[0].startswith(".step-00000007")
    latest = Checkpoints(tmp_path / "killed", 1).latest()
    assert latest is not None
    assert names(tmp_path / "killed") == ["step-00000007"]
    assert find_damage(latest) is None


def test_checkpoints_of_an_abandoned_future_are_removed(tmp_path: Path):
    train(tmp_path, keep_checkpoints=2)
    spoil(tmp_path / "checkpoints/step-00000020/model.safetensors", "cut")
    fit(Regression(), Stream(limit=17), config(), tmp_path)
    assert names(tmp_path) == ["step-00000015", "step-00000017"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 768 KiB, where that can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_is_one_line_and_older_checkpoints_stay(small_disk: Path):
    task = Regression(width=128)
    with pytest.raises(OSError, match="no space left") as caught:
        fit(task, Stream(width=128), config(keep_checkpoints=10), small_disk)
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    whole = names(small_disk)
    assert whole
    assert not [name for name in whole if name.startswith(".")]
    assert all(find_damage(path) is None for path in (small_disk / "checkpoints").iterdir())
    shutil.rmtree(small_disk / "checkpoints" / whole[0])
    resumed, other = Regression(width=128), Regression(width=128)
    fit(resumed, Stream(width=128), config(keep_checkpoints=1), small_disk)
    fit(other, Stream(width=128), config(), small_disk.parent / "roomy")
    assert_same(resumed, other)


@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_any_refused_write_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    train(tmp_path, steps=10)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "checkpoints").rglob("*")) if path.is_file()}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*arguments: Any, **options: Any):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "rename" else os, call, refuse)
        if call == "replace":
            patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="no space left"):
            train(tmp_path, checkpoint_every=4)
    after = {path: path.read_bytes() for path in sorted((tmp_path / "checkpoints").rglob("*")) if path.is_file()}
    assert after == before
    assert len(names(tmp_path)) == 2


def test_dtypes_and_tied_weights_come_back_exactly(tmp_path: Path):
    def build():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).bfloat16()
        model[1].float()
        model[2].double()
        tied = nn.Linear(4, 4)
        tied.weight = model[1].weight
        return model.append(tied)

    model, fresh = build(), build()
    for part in (model, fresh):
        part.requires_grad_(True)
    optimizer, other = (
        build_optimizer([{"params": list(part.parameters())}], config().optimizer) for part in (model, fresh)
    )
    sum(p.double().square().sum() for p in model.parameters()).backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path, 1)
    path = checkpoints.save(model, optimizer, Position(state={"step": 1}, data={"at": (1, [2.5, None])}))
    stored = {name: tensor.dtype for name, tensor in load_file(path / "model.safetensors").items()}
    assert stored["0.weight"] == torch.bfloat16
    assert stored["1.weight"] == torch.float32
    assert stored["2.weight"] == torch.float64
    assert "3.weight" not in stored
    position = checkpoints.restore(path, fresh, other)
    assert position.data == {"at": (1, [2.5, None])}
    assert fresh[3].weight is fresh[1].weight
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_another_model_is_refused_in_one_line(tmp_path: Path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"step-00000020 does not fit this model \(.*size mismatch") as caught:
        fit(Regression(width=8), Stream(width=8), config(), tmp_path)
    assert "\n" not in str(caught.value)


def test_state_is_plain_json(tmp_path: Path):
    train(tmp_path)
    state = json.loads((tmp_path / "checkpoints/step-00000020/state.json").read_text())
    assert (state["step"], state["counts"]) == (20, {"tokens": 160})
    assert state["tied"] == {"3.weight": "0.weight"}


def test_a_checkpoint_from_a_gpu_is_read_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Saved as if every tensor lay on a GPU; without a place to go, PyTorch looks for that GPU."""
    train(tmp_path / "cpu", steps=10)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        train(tmp_path / "gpu", steps=10)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "gpu/checkpoints/step-00000010/optimizer.pt", weights_only=True)
    assert_same(train(tmp_path / "gpu", steps=20), train(tmp_path / "cpu", steps=20))
