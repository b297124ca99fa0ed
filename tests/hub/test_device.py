"""Names of devices, on machines with and without GPUs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tandem
from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import HybridLM


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_takes_a_gpu_where_there_is_one(gpus: Callable[[int], None]):
    gpus(2)
    assert [str(hub.choose_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu", None)] == [
        "cuda",
        "cuda",
        "cuda:1",
        "cpu",
        "cpu",
    ]
    assert hub.choose_device(torch.device("cuda", 1)) == torch.device("cuda:1")
    gpus(0)
    assert hub.choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("gpu", 1, "device='gpu' is not known; use auto, cpu, cuda or cuda:N"),
        ("", 1, "device='' is not known"),
        ("mps", 0, "device='mps' is not known"),
        ("cuda:x", 1, "device='cuda:x' is not known"),
        ("cuda", 0, r"device='cuda' is not available: PyTorch \S+ finds no CUDA GPU; use auto or cpu"),
        ("cuda:2", 2, r"device='cuda:2' is not available: PyTorch \S+ finds 2 CUDA GPUs here; use auto or cpu"),
    ],
)
def test_mistakes_are_one_line(gpus: Callable[[int], None], name: str, count: int, message: str):
    gpus(count)
    with pytest.raises(ValueError, match=message) as caught:
        hub.choose_device(name)
    assert "\n" not in str(caught.value)


def test_a_model_goes_to_its_device_or_is_not_read_at_all(
    model: HybridLM, tokenizer: Tokenizer, tmp_path: Path, gpus: Callable[[int], None]
):
    hub.save(model, tokenizer, tmp_path / "model")
    assert tandem.load(tmp_path / "model", device="cpu").model.embedding.device.type == "cpu"
    gpus(0)
    with pytest.raises(ValueError, match="device='cuda' is not available"):
        tandem.load(tmp_path / "model", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_scores_as_the_cpu_does(model: HybridLM, tokenizer: Tokenizer, tmp_path: Path):
    hub.save(model, tokenizer, tmp_path / "model")
    here, there = (tandem.load(tmp_path / "model", device=name) for name in ("cpu", "cuda"))
    torch.testing.assert_close(there.score("Returns the name").cpu(), here.score("Returns the name"), atol=1e-4, rtol=0)
