"""Both sides of a comparison have one shape."""

from typing import Any

import pytest
import torch

from tandem.nn import HybridLM, ModelConfig
from tandem.plan import parameters
from tandem.recipes.benchmark import SHAPE
from tandem.recipes.granite import GRANITE, granite_config

SHAPES = pytest.mark.parametrize(("shape", "count"), [(SHAPE, 19_586_448), (GRANITE, 1_297_048_768)])


def peer(shape: ModelConfig) -> Any:
    """The peer without its weights."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[bench]'")
    with torch.device("meta"):
        return transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, shape))


@SHAPES
def test_both_sides_have_the_same_parameters(shape: ModelConfig, count: int):
    theirs = sum(weight.numel() for weight in peer(shape).parameters())
    assert theirs == parameters(shape).total == count


@SHAPES
def test_both_sides_have_the_same_layers(shape: ModelConfig, count: int):
    """Sizes of the weights of every block, without their names and the way they lie."""
    with torch.device("meta"):
        ours = HybridLM(shape)
    theirs = peer(shape)

    def sizes(*modules: torch.nn.Module) -> list[int]:
        return sorted(weight.numel() for module in modules for weight in module.parameters())

    assert len(theirs.model.layers) == len(shape.layers) / 2
    for number, layer in enumerate(theirs.model.layers):
        mixer, feed_forward = ours.layers[2 * number], ours.layers[2 * number + 1]
        attention = layer.self_attn is not None
        assert attention == (shape.layers[2 * number] == "A")
        assert shape.layers[2 * number + 1] == "F"
        own = layer.self_attn if attention else layer.mamba
        if attention:
            # Ours is one matrix for queries, keys and values.
            assert sum(sizes(mixer)) == sum(sizes(own, layer.input_layernorm))
        else:
            assert sizes(mixer) == sizes(own, layer.input_layernorm)
        parts = (layer.block_sparse_moe, layer.shared_mlp, layer.post_attention_layernorm)
        assert sizes(feed_forward) == sizes(*parts)
