"""Recipes: what they round, and mistakes in them."""

from typing import Any

import pytest
import torch

from tandem.precision import (
    IntFormat,
    Operand,
    PrecisionConfig,
    Recipe,
    fp8_deepseek,
    mxfp4,
    mxfp8,
    nvfp4,
    paper_recipe,
    quantize,
    same_for,
    w8a8g8,
)
from tandem.precision.recipe import TARGETS


def test_the_papers_runs_left_one_operand_of_each_product():
    recipe = paper_recipe("E1M1", block=32)
    assert recipe.targets == {"P2", "P4", "P6"}
    assert recipe.P2 == recipe.P4 == recipe.P6 == Operand(format="E1M1", block=32)


@pytest.mark.parametrize(
    ("recipe", "format", "block", "weights", "scale"),
    [
        (fp8_deepseek(), "ocp:e4m3fn", 128, (128, 128), "float32"),
        (mxfp8(), "ocp:e4m3fn", 32, 32, "e8m0"),
        (mxfp4(), "ocp:e2m1", 32, 32, "e8m0"),
        (nvfp4(), "ocp:e2m1", 16, (16, 16), "e4m3"),
        (w8a8g8(), "E0M7", "channel", "channel", "float32"),
    ],
)
def test_recipes_of_hardware_round_everything(recipe: Recipe, format: str, block: Any, weights: Any, scale: str):
    assert recipe.targets == set(TARGETS)
    for target in TARGETS:
        operand = getattr(recipe, target)
        assert str(operand.format) == format
        assert operand.block == (weights if target in ("P2", "P4") else block)
        assert operand.scale == scale
    rounding = {target: getattr(nvfp4(), target).rounding for target in TARGETS}
    assert rounding == dict.fromkeys(TARGETS, "nearest-even") | dict.fromkeys(("P3", "P5"), "stochastic")


def test_an_operand_is_the_arguments_of_quantize():
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    got = Operand(format="E3M2", block=16, rounding="nearest-even", scale="e8m0").round(x, 0, torch.bfloat16)
    want = quantize(x, "E3M2", block=16, axis=0, rounding="nearest-even", scale="e8m0", out_dtype=torch.bfloat16)
    assert torch.equal(got, want)


def test_targets_can_be_taken_away():
    assert mxfp8().only(["P1", "P2"]) == Recipe(P1=mxfp8().P1, P2=mxfp8().P2)
    assert mxfp8().only([]) == Recipe()
    assert Recipe().targets == frozenset()
    with pytest.raises(
        ValueError, match=r"targets=\['P1'\] has some that are not rounded; use some of \['P2', 'P4', 'P6'\]"
    ):
        paper_recipe("E4M3").only(["P1"])
    with pytest.raises(ValueError, match=r"targets=\['P7'\] must be some of P1, P2"):
        same_for(["P7"], Operand(format="E4M3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "fp8"}, "format='fp8' is not known"),
        ({"format": "e8m0"}, "use it as scale='e8m0'"),
        ({"rounding": "down"}, "operand.rounding='down' is not known; use nearest-away"),
        ({"scale": "int8"}, "operand.scale='int8' is not known; use float32"),
        ({"block": 0}, "operand.block=0 must be 1 or more"),
        ({"block": (16, 0)}, r"operand.block=\(16, 0\) must be 1 or more"),
        ({"block": "row"}, "operand.block='row' must be 1 or more"),
    ],
)
def test_mistakes_are_found_when_a_recipe_is_made(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Operand(**{"format": "E4M3", **options})


def test_formats_may_be_given_as_such():
    assert Operand(format=IntFormat(7)) == Operand(format="E0M7")


def test_options_make_the_recipe():
    narrow = Operand(format="E4M3", block=128)
    assert PrecisionConfig().build() == Recipe()
    assert PrecisionConfig(format="E4M3", block=128).build() == same_for(["P2", "P4", "P6"], narrow)
    assert PrecisionConfig(format="E4M3", block=128, targets=("P1",)).build() == same_for(["P1"], narrow)
    assert PrecisionConfig(format="E4M3", targets=()).build() == Recipe()
    assert PrecisionConfig(recipe="nvfp4").build() == nvfp4()
    assert PrecisionConfig(recipe="mxfp8", targets=("P1", "P2")).build() == mxfp8().only(["P1", "P2"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "mxfp8", "format": "E4M3"}, "precision.recipe=mxfp8 and precision.format=E4M3: give one of them"),
        ({"block": 128}, "precision.block=128 says how, but not what; give precision.format too"),
        ({"format": "E9M9"}, r"precision: format.exponent=9 must be 1 to 8"),
        ({"format": "E4M3", "block": 0}, r"precision: operand.block=0 must be 1 or more"),
        ({"format": "E4M3", "targets": ("P7",)}, r"precision: targets=\['P7'\] must be some of P1, P2"),
    ],
)
def test_mistakes_in_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PrecisionConfig(**options)
