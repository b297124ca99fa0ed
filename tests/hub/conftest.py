"""A tiny hybrid model with random weights, and a tokenizer trained on a few lines."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import AttentionConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small threads cost more than they bring, ten times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Returns the name of the bucket."] * 2, vocab_size=300)


@pytest.fixture(scope="session")
def make_model(tokenizer: Tokenizer) -> Callable[..., HybridLM]:
    def make(*, tie: bool = True, width: int = 32, selection_bias: bool = True, seed: int = 0) -> HybridLM:
        torch.manual_seed(seed)
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            width=width,
            pattern="MFAMF",
            attention=AttentionConfig(heads=4, kv_heads=2, head_width=8),
            mamba=MambaConfig(heads=4, head_width=8, state=8, groups=2, chunk=8),
            ffn=MoEConfig(experts=4, top_k=2, hidden=16, selection_bias=selection_bias),
            tie_embeddings=tie,
            context=64,
        )
        model = HybridLM(config)
        with torch.no_grad():
            for tensor in model.state_dict().values():  # so that equality is no accident of an initial 0 or 1
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor), alpha=0.1)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., HybridLM]) -> HybridLM:
    return make_model()


@pytest.fixture
def saved(model: HybridLM, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return hub.save(model, tokenizer, tmp_path / "model")
