"""Options that round a trained model: what they stand for, what they report, and mistakes in them."""

import copy
from typing import Any

import pytest
import torch

from tandem.nn import AttentionConfig, DenseConfig, HybridLM, MambaConfig, ModelConfig
from tandem.precision import Operand, RoundingConfig, quantize_weights


def build(pattern: str) -> HybridLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=32,
        width=16,
        pattern=pattern,
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=32),
        mamba=MambaConfig(heads=2, head_width=8, state=32, chunk=8),
        ffn=DenseConfig(hidden=32),
        context=32,
    )
    return HybridLM(config).eval()


def test_what_is_rounded_is_told_with_what_it_takes():
    model, by_hand = build("AMF"), build("AMF")
    told = RoundingConfig(weights="E4M3", kv="nvfp4", state="mxfp8", block=16).apply(model)
    sizes = quantize_weights(by_hand, Operand(format="E4M3", block=16))
    assert all(torch.equal(p, by_hand.get_parameter(n)) for n, p in model.named_parameters())
    how = {"block": 16, "rounding": "nearest-away", "scale": "float32"}
    share = sizes.numbers / sum(p.numel() for p in model.parameters())
    assert told["weights"] == {"format": "E4M3", **how, "bits": 10.0, "share": share}
    assert told["kv"]["bits"] == 4 + 8 / 16 + 32 / 32  # the float32 is one a token's keys
    assert told["kv"]["bytes_a_token"] == 2 * 32 * told["kv"]["bits"] / 8
    assert (told["state"]["scale"], told["state"]["bits"]) == ("e8m0", 8.25)
    assert told["state"]["bytes_a_document"] == 2 * 8 * 32 * 8.25 / 8


def test_nothing_is_rounded_by_default():
    model = build("AMF")
    before = copy.deepcopy(model.state_dict())
    assert RoundingConfig().apply(model) == {}
    assert model.cache_rounding is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv": "E4"}, r"precision\.kv: format='E4' is not known; use .* or one of mxfp8, mxfp4, nvfp4"),
        ({"weights": "E9M1"}, r"precision\.weights: format\.exponent=9 must be 1 to 8"),
        ({"state": "e8m0"}, r"precision\.state: format='e8m0' has neither sign nor zero"),
        ({"kv": "E4M3", "block": 0}, r"precision: operand\.block=0 must be 1 or more"),
        ({"block": 32}, r"precision\.block=32 is for formats such as E4M3, and none is given; name one"),
        ({"kv": "mxfp4", "scale": "e4m3"}, r"precision\.scale=e4m3 .* have their own scale"),
        ({"state": "E4M3", "block": "tensor"}, r"precision\.block=tensor with precision\.state would tie"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RoundingConfig(**options)


def test_what_the_model_does_not_keep_is_refused_before_anything_is_rounded():
    model = build("MF")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^precision\.kv=E4M3 has nothing to round, .* leave kv out"):
        RoundingConfig(weights="E2M1", kv="E4M3").apply(model)
    with pytest.raises(ValueError, match=r"^precision\.state=E4M3 has nothing to round"):
        RoundingConfig(state="E4M3").apply(build("AF"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert RoundingConfig(weights="E2M1", block="tensor").apply(model)["weights"]["bits"] > 4
