import numpy as np
import pytest

from tandem.data import Document, Tokenizer, open_shards, write_shards

VOCABULARY = "the quick brown fox jumps over a lazy dog while 12 cats and 7 birds watch from their tall trees".split()


def make_documents(count: int, seed: int = 0, longest: int = 60):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, longest, size=count)
    texts = (" ".join(generator.choice(VOCABULARY, size=size)) for size in sizes)
    return [Document(text=text, source=f"d{k}", group=f"d{k}") for k, text in enumerate(texts)]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return Tokenizer.train([" ".join(VOCABULARY)] * 10, vocab_size=330)


@pytest.fixture(scope="session")
def tiny_documents():
    return make_documents(60)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer, tiny_documents: list[Document]):
    directory = tmp_path_factory.mktemp("shards") / "train"
    return open_shards(write_shards(tiny_documents, tiny_tokenizer, directory))


@pytest.fixture(scope="session")
def more_shards(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer):
    directory = tmp_path_factory.mktemp("more") / "train"
    return open_shards(write_shards(make_documents(40, seed=1, longest=200), tiny_tokenizer, directory))
