"""Random sentences as token shards, and a hybrid so small that it trains in a blink."""

from pathlib import Path

import numpy as np

from tandem.data import Document, Tokenizer, write_shards
from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig, TransMambaConfig

WORDS = "returns the list of all names in a given bucket and creates one when it does not exist yet 12 345".split()
VOCABULARY = 320


def documents(count: int, seed: int) -> list[Document]:
    generator = np.random.default_rng(seed)
    texts = (" ".join(generator.choice(WORDS, size=size)) for size in generator.integers(3, 60, size=count))
    return [Document(text=text, source=f"{seed}-{n}", group=f"{seed}-{n}") for n, text in enumerate(texts)]


def write_toy_shards(directory: Path) -> Path:
    """A directory as `tandem data tokenize` writes it."""
    tokenizer = Tokenizer.train([document.text for document in documents(200, 0)], VOCABULARY)
    tokenizer.save(directory)
    write_shards(documents(120, 1), tokenizer, directory / "train")
    write_shards(documents(12, 2), tokenizer, directory / "validation")
    return directory


def toy_hybrid() -> ModelConfig:
    """One attention layer among Mamba-2 layers; wide enough in vocabulary that a head is a small part of it."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        width=16,
        pattern="MFAFMF",
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=4),
        mamba=MambaConfig(heads=4, head_width=4, state=4, chunk=8),
        ffn=MoEConfig(experts=2, top_k=1, hidden=8, shared=1),
        context=64,
    )


def toy_transmamba() -> ModelConfig:
    """Two TransMamba layers, whose feed-forwards are wide enough to make up for other mixers."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        width=16,
        pattern="(TF)2",
        transmamba=TransMambaConfig(heads=2, groups=2, head_width=8, state=8, chunk=8, schedule_length=64),
        ffn=DenseConfig(hidden=48),
        context=64,
    )


SMALL = ModelConfig(
    vocab_size=320,
    width=64,
    pattern="MFAF",
    attention=AttentionConfig(heads=4, kv_heads=2, head_width=16, rope=False, qk_norm=False),
    mamba=MambaConfig(heads=4, head_width=32, state=16, groups=1, chunk=64),
    ffn=MoEConfig(experts=4, top_k=2, hidden=32, capacity_factor=4.0),
)
"""GraniteMoeHybrid in small; with a capacity, so that no part of it waits for a graph."""
