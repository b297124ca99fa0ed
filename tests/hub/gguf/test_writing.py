"""Models written and read back, and llama.cpp's own logits of what was written."""

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shapes import FAMILIES, PEER, build, logits, peer_logits, tokenizer

from tandem import hub
from tandem.hub.gguf import ARCHITECTURES, FORMATS, architecture_of, write_gguf
from tandem.nn import HybridLM, ModelConfig

pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")

LENGTH = 40  # longer than llama.cpp's smallest batches, and no multiple of a chunk


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(300, (LENGTH,), generator=torch.Generator().manual_seed(seed))


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def written_and_read(model: HybridLM, folder: str, **options: Any) -> HybridLM:
    return hub.load(write_gguf(model, tokenizer(), Path(folder) / "model.gguf", **options))[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_comes_back(family: str):
    @examples(20)
    @given(FAMILIES[family](), st.integers(0, 1000))
    def check(config: ModelConfig, seed: int) -> None:
        assume(architecture_of(config).name == family)  # a llama may be a qwen2
        model = build(config, seed, tokens(seed))
        with tempfile.TemporaryDirectory() as folder:
            again = written_and_read(model, folder, format="f32")
        assert again.config.layers == config.layers
        read = again.state_dict()
        for name, tensor in model.state_dict().items():
            if name.endswith("A_log"):  # through -exp and log
                torch.testing.assert_close(read[name], tensor, rtol=0, atol=4e-7)
            else:
                assert torch.equal(read[name], tensor), name
        assert all(not tensor.any() for name, tensor in read.items() if name not in model.state_dict())
        torch.testing.assert_close(logits(again, tokens(seed)), logits(model, tokens(seed)), rtol=1e-4, atol=1e-4)

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_has_the_same_logits(family: str):
    pytest.importorskip("llama_cpp", reason=PEER)

    @examples(20)
    @given(FAMILIES[family](), st.integers(0, 1000))
    def check(config: ModelConfig, seed: int) -> None:
        model = build(config, seed, tokens(seed))
        with tempfile.TemporaryDirectory() as folder:
            path = write_gguf(model, tokenizer(), Path(folder) / "model.gguf", format="f32")
            theirs = peer_logits(path, tokens(seed))
        assert off(theirs, logits(model, tokens(seed))) < 1e-4

    check()
