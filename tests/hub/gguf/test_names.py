"""The table of tensors against the names that the package `gguf` lists for each architecture, and against our modules."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapes import FAMILIES, build

from tandem.hub.gguf import architecture_of
from tandem.hub.gguf.names import Layout, entries
from tandem.nn import ModelConfig

gguf = pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")


@cache
def known_names(architecture: str) -> set[str]:
    """What llama.cpp's own converter may write for an architecture, for the first four blocks."""
    constants = gguf.constants
    [key] = [key for key, name in constants.MODEL_ARCH_NAMES.items() if name == architecture]
    names = [constants.TENSOR_NAMES[tensor] for tensor in constants.MODEL_TENSORS[key]]
    return {name.format(bid=block) for name in names for block in range(8)}


def of_families(check: Any) -> Any:
    @pytest.mark.parametrize("family", FAMILIES)
    def test(family: str):
        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(FAMILIES[family](), st.integers(0, 1000))
        def run(config: ModelConfig, seed: int) -> None:
            check(config, seed)

        run()

    return test


def check_names(config: ModelConfig, seed: int) -> None:
    architecture = architecture_of(config)
    names = [part.name for entry in entries(config, architecture) for part in entry.parts]
    assert len(names) == len(set(names))
    plain = {name.removesuffix(".weight").removesuffix(".bias") for name in names}
    assert plain <= known_names(architecture.name)


def check_parameters(config: ModelConfig, seed: int) -> None:
    """Each parameter has one entry of its shape, and every layout undoes itself."""
    model = build(config, seed).state_dict()
    table = [entry for entry in entries(config, architecture_of(config)) if entry.target is not None]
    assert sorted(entry.target or "" for entry in table) == sorted(model)
    for entry in table:
        tensor, row = model[entry.target or ""], 0
        assert entry.shape == tuple(tensor.shape)
        for part, shape in entry.pieces():
            piece = tensor.narrow(entry.axis, row, shape[entry.axis])
            theirs = part.layout.theirs(piece)
            assert tuple(theirs.shape) == part.shape
            torch.testing.assert_close(part.layout.ours(theirs), piece, rtol=0, atol=4e-7)
            row += shape[entry.axis]


test_names_are_those_of_llama_cpp = of_families(check_names)
test_every_parameter_has_its_place = of_families(check_parameters)


def test_neighbors_turn_together():
    """As `permute` of llama.cpp's converter: channel k of a half lies at 2k, that of the other half beside it."""
    from tandem.hub.gguf.names import _neighbors

    layout: Layout = _neighbors(heads=2, turned=4)
    rows = torch.arange(12)[:, None].float()  # 2 heads of 6 channels, 4 of which turn
    assert layout.theirs(rows).flatten().tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
