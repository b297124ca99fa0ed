import random
import sys
from pathlib import Path

import pytest
import torch

# The tiny run is shared with scripts that tests start as processes of their own.
sys.path.insert(0, str(Path(__file__).parent))

from tandem.data import Document, Tokenizer, write_shards

WORDS = "returns the list of all names in a given bucket and creates one when it does not exist yet 12 345".split()


def documents(count: int, seed: int) -> list[Document]:
    chance = random.Random(seed)
    return [
        Document(id=f"{seed}-{n}", text=" ".join(chance.choices(WORDS, k=chance.randint(3, 60)))) for n in range(count)
    ]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `tandem data tokenize` writes it, of random sentences."""
    directory = tmp_path_factory.mktemp("shards")
    tokenizer = Tokenizer.train([document.text for document in documents(200, 0)], 320)
    tokenizer.save(directory)
    write_shards(documents(120, 1), tokenizer, directory / "train")
    write_shards(documents(12, 2), tokenizer, directory / "validation")
    return directory


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
