"""The sides of the training benchmark on a small shape, and the arithmetic of a row."""

from dataclasses import replace

import pytest
import torch
from recipe_toys import SMALL

from tandem.plan import flops
from tandem.recipes import gpu_training
from tandem.recipes.gpu_training import DATASHEET, GRANITE, Training, captured_error, measure_training, token_batches


def test_the_captured_step_is_compared_with_the_plain_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_training, "ROW_TOKENS", 64)
    assert captured_error(SMALL, "cpu") < 2e-3
    monkeypatch.setattr(gpu_training, "plain_step", lambda *_: lambda batch: torch.tensor(1.0))
    assert captured_error(SMALL, "cpu") > 0.5


def test_the_peer_trains_on_the_same_tokens(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(gpu_training, "ROW_TOKENS", 32)
    batch = token_batches(SMALL, 1, [32] * 4)[0]
    shape = replace(SMALL, ffn=replace(SMALL.ffn, capacity_factor=None))
    firsts = []
    for count, narrow in ((4, False), (1, False), (2, True)):
        torch.manual_seed(0)
        step = gpu_training.peer_step(shape, "cpu", count, narrow=narrow)
        losses = [float(step(batch)) for _ in range(3)]
        assert losses[-1] < losses[0] < 8  # nats of 320 tokens, 5.8 at first
        firsts.append(losses[0])
    assert firsts == pytest.approx([firsts[0]] * 3, rel=2e-3)


def test_the_peer_takes_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch):
    def timed(name: str, make: object, batches: object) -> Training:
        return Training(name=name, seconds=(1.0,) if "2 rows" in name else (), memory=1, operations=1.0)

    monkeypatch.setattr(gpu_training, "_timed", timed)
    peer = gpu_training._peer("cuda", [], narrow=True, compiled=True)
    assert peer.name == "transformers, all in bfloat16, compiled, 2 rows at once"
    monkeypatch.setattr(gpu_training, "ROWS", 3)
    assert not gpu_training._peer("cuda", [], narrow=False, compiled=False).seconds


def test_a_row_has_speed_utilization_and_memory():
    operations = gpu_training.operations_per_token()
    counts = flops(GRANITE, lengths=[2048])
    assert operations == 3 * counts.forward
    row = Training(name="ours", seconds=(0.1, 0.08, 0.2), memory=3 << 29, operations=operations)
    assert row.speed == pytest.approx(81_920)
    utilization = [f"{operations * 81_920 / rate:.1%}" for rate in (800e12, DATASHEET)]
    assert row.cells(800e12) == ["ours", "100.0 (80.0–200.0)", "81,920", *utilization, "1.5 GiB"]
    assert replace(row, seconds=()).cells(800e12) == ["ours", "out of memory", "–", "–", "–", "–"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_remedy():
    with pytest.raises(ValueError, match="run on a machine with an NVIDIA GPU"):
        measure_training("cuda")
