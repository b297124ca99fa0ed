import sys
from pathlib import Path

import pytest
import torch

# The toys are shared by the tests of several recipes.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `tandem data tokenize` writes it."""
    from recipe_toys import write_toy_shards

    return write_toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Runs that are compared use as many threads: sums depend on it. Fixtures of a module run under it too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
