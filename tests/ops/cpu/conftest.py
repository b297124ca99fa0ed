"""The tests of this folder need the kernels, so a C++ compiler."""

import pytest

from tandem.ops.cpu.compiled import library


@pytest.fixture(autouse=True)
def _kernels():
    if library() is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")
