"""A tiny random hybrid with the real tokenizer of `nano`, and the scripted readers."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tandem import hub
from tandem.data import Tokenizer
from tandem.evaluate import Subject
from tandem.nn import AttentionConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig

# The readers are shared by several tests.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small threads cost more than they bring, ten times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(hub.find("nano") / "tokenizer.json")


@pytest.fixture(scope="session")
def make_model(tokenizer: Tokenizer) -> Callable[..., HybridLM]:
    def make(*, context: int = 96, seed: int = 0) -> HybridLM:
        torch.manual_seed(seed)
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            width=16,
            pattern="MFAMF",
            attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
            mamba=MambaConfig(heads=2, head_width=8, state=8, chunk=8),
            ffn=MoEConfig(experts=2, top_k=1, hidden=8),
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
def subject(make_model: Callable[..., HybridLM], tokenizer: Tokenizer) -> Subject:
    return Subject(model=make_model(), tokenizer=tokenizer)


@pytest.fixture
def oracle(make_model: Callable[..., HybridLM], tokenizer: Tokenizer) -> Subject:
    from scripted import Oracle

    return Oracle(model=make_model(context=2048), tokenizer=tokenizer)


@pytest.fixture
def guesser(make_model: Callable[..., HybridLM], tokenizer: Tokenizer) -> Subject:
    from scripted import Guesser

    return Guesser(model=make_model(context=2048), tokenizer=tokenizer)
