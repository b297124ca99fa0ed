"""`quantize_model`: a model whose layers multiply rounded operands."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from tandem.nn import Experts, HybridLM, Linear
from tandem.precision.experts import QuantizedExperts
from tandem.precision.linear import QuantizedLinear
from tandem.precision.recipe import Recipe


def quantize_model(model: HybridLM, recipe: Recipe, skip: Sequence[str] = ()) -> HybridLM:
    """Gives every linear map and all routed experts of the layers a recipe, in place and on the same parameters.

    Embedding, head, routers, norms, convolutions and the SSM's own parameters are never rounded. A recipe takes the
    place of the one before; one without targets gives back the plain model. State dict and saved files are those of the
    model without it.

    Args:
        skip: names of maps to leave as they are, `*` for anything: "layers.0.*", "*.mixer.out".
    Returns:
        the model.
    Raises:
        ValueError: a name in `skip` that no map has.
    """
    for name, module in maps_of(model, skip).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _with(module, recipe))
    return model


def maps_of(model: HybridLM, skip: Sequence[str] = ()) -> dict[str, Linear | Experts]:
    """Every linear map and all routed experts of the layers, by name, without those that `skip` names.

    Raises:
        ValueError: a name in `skip` that no map has.
    """
    maps = {name: m for name, m in model.named_modules() if name.startswith("layers.") and _is_map(m)}
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in maps):
            raise ValueError(f"skip={pattern!r} names no map; use names such as {', '.join(list(maps)[:3])}")
    return {name: m for name, m in maps.items() if not any(fnmatchcase(name, pattern) for pattern in skip)}  # pyright: ignore[reportReturnType]


def is_quantized(model: nn.Module) -> bool:
    """Whether some map of the model has a recipe."""
    return any(isinstance(module, QuantizedLinear | QuantizedExperts) for module in model.modules())


def _is_map(module: nn.Module) -> bool:
    return type(module) in (Linear, QuantizedLinear, Experts, QuantizedExperts)


def _with(module: nn.Module, recipe: Recipe) -> nn.Module:
    if isinstance(module, Linear):
        return QuantizedLinear.of(module, recipe) if recipe.targets else _plain(module)
    assert isinstance(module, Experts)
    if recipe.targets:
        return QuantizedExperts.of(module, recipe)
    return Experts(module.gate_up_EDF, module.down_EFD).train(module.training)


def _plain(layer: Linear) -> Linear:
    with torch.device("meta"):
        made = Linear(layer.in_features, layer.out_features)
    made.weight, made.bias = layer.weight, layer.bias
    return made.train(layer.training)
