"""The arithmetic of the comparison, and that its sides are given one model."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.nn import AttentionConfig, HybridLM, MambaConfig, MoEConfig
from tandem.recipes import peers
from tandem.recipes.benchmark import Ceiling
from tandem.recipes.granite import granite_config
from tandem.recipes.peers import PeerRow

ROW = PeerRow(
    work="decode", tokens=128, share="60% of 80 GB/s", seconds={"ours": (1.0, 2.0, 4.0), "a": (2.0, 2.0, 2.0), "b": ()}
)


def test_a_line_a_peer_with_medians_and_the_range():
    assert ROW.ratios("a") == [2, 1, 0.5]
    assert ROW.cells() == [
        ["decode", "64", "60% of 80 GB/s", "a", "64", "1.00 (0.50–2.00)"],
        ["decode", "64", "60% of 80 GB/s", "b", f"not installed: {peers.LLAMA}", "–"],
    ]


TINY = peers.SHAPE.replace(
    width=64,
    pattern="MF AF MF",
    attention=AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm=False),
    mamba=MambaConfig(heads=2, head_width=64, state=16, groups=1),
    ffn=MoEConfig(experts=8, top_k=2, hidden=32),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[bench]'")
    pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[bench]'")
    monkeypatch.setattr(peers, "SHAPE", TINY)
    monkeypatch.setattr(peers, "STEPS", 2)
    monkeypatch.setattr(peers, "BATCH_STEPS", 1)
    monkeypatch.setattr(peers, "PROMPT_TOKENS", 32)


def test_the_shape_is_the_one_that_is_named():
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[bench]'")
    with torch.device("meta"):
        theirs = transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, peers.SHAPE))
    assert round(sum(weight.numel() for weight in theirs.parameters()) / 1e6) == 112


@pytest.mark.usefixtures("small")
def test_all_sides_compute_one_model(tmp_path: Path):
    peers.write_weights(tmp_path)
    found = peers.check_logits(tmp_path)
    assert found["Tandem float32"] < 1e-3
    assert ("llama.cpp bf16" in found) == (importlib.util.find_spec("llama_cpp") is not None)


@pytest.mark.usefixtures("small")
def test_a_side_that_computes_something_else_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    peers.write_weights(tmp_path)
    load = peers._model

    def spoiled(folder: Path, dtype: str) -> HybridLM:
        model = load(folder, dtype)
        with torch.no_grad():
            model.layers[0].mixer.out.weight.mul_(-1)
        return model

    monkeypatch.setattr(peers, "_model", spoiled)
    with pytest.raises(ValueError, match="Tandem float32 computes something else"):
        peers.check_logits(tmp_path)


class InThisProcess:
    """A side without a process, which would build the large model."""

    def __init__(self, make: Any, folder: Path) -> None:
        self.run = make(folder)

    def seconds(self) -> float:
        self.run()
        return 1.0

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("small")
def test_every_piece_of_work_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "Side", InThisProcess)
    ceiling = Ceiling(matmul=100e9, read=50e9, value_bytes=2)
    _, rows = peers.compare_peers(ceiling, rounds=2)
    assert [row.work for row in rows] == ["prefill", "decode", "decode-16", "decode, int8"]
    for row in rows:
        assert row.ratios("transformers") == [1, 1] if "transformers" in row.seconds else True
        assert row.share.endswith("GFLOP/s" if row.work == "prefill" else "GB/s")


def test_no_rounds_are_a_mistake():
    with pytest.raises(ValueError, match="pairs=0 is below 1; use 5 or more"):
        peers.compare_peers(Ceiling(matmul=1.0, read=1.0, value_bytes=2), rounds=0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install 'tandem-lm\\[bench\\]'"):
        peers.compare_peers(Ceiling(matmul=1.0, read=1.0, value_bytes=2))
