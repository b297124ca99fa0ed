"""Tiny hybrid models with random weights and a tokenizer that was trained on a few lines."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tandem.data import Tokenizer
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig

TEXT = "Returns the name of the bucket, and 42 objects in it. Größe: 10 µm – “quoted”. 你好 🙂\n\nQ: why?\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small threads cost more than they bring, ten times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 4, vocab_size=320)


@pytest.fixture(scope="session")
def make_model(tokenizer: Tokenizer) -> Callable[..., HybridLM]:
    """Builds a random model of a pattern; weights are spread so that the logits are far from uniform."""

    def make(pattern: str, *, dense: bool = False, context: int = 96, seed: int = 0) -> HybridLM:
        torch.manual_seed(seed)
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            width=32,
            pattern=pattern,
            attention=AttentionConfig(heads=4, kv_heads=2, head_width=8),
            mamba=MambaConfig(heads=4, head_width=8, state=8, groups=2, chunk=8),
            ffn=DenseConfig(hidden=32) if dense else MoEConfig(experts=4, top_k=2, hidden=16),
            context=context,
        )
        model = HybridLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(3)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., HybridLM]) -> HybridLM:
    return make_model("MFAMF")
