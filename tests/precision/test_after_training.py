"""Trained models in formats: which weights are rounded, and what decoding keeps, against the definition by hand in float64."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.nn import (
    Attention,
    AttentionConfig,
    DecodeState,
    DenseConfig,
    HybridLM,
    KVSlots,
    Mamba,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    SequenceLayout,
    SSMSlots,
    TransMambaConfig,
    TransSlots,
)
from tandem.ops import block_maxima
from tandem.precision import (
    CacheSizes,
    Operand,
    parse_format,
    quantize,
    quantize_caches,
    quantize_weights,
    stored,
)

E4M3 = Operand(format="E4M3", block=4)
E2M1 = Operand(format="E2M1")
MXFP4 = Operand(format="ocp:e2m1", block=4, rounding="nearest-even", scale="e8m0")
NVFP4 = Operand(format="ocp:e2m1", block=4, rounding="nearest-even", scale="e4m3")


def build(pattern: str = "AMFETF") -> HybridLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64,
        width=16,
        pattern=pattern,
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
        mamba=MambaConfig(heads=2, head_width=8, state=8, chunk=8),
        transmamba=TransMambaConfig(heads=2, head_width=8, state=8, chunk=8, schedule=(7,)),
        ffn=DenseConfig(hidden=32),
        experts=MoEConfig(experts=4, top_k=2, hidden=32, shared=1),
        context=64,
        tie_embeddings=False,
    )
    return HybridLM(config).eval()


IDS = torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def read(model: HybridLM, pieces: Sequence[int]) -> tuple[Tensor, DecodeState]:
    """Logits of a text cut into calls, and the state behind it."""
    state, given = model.new_state(1), IDS[: sum(pieces)].split(list(pieces))
    parts = [model(ids_T, state.layout([len(ids_T)]), state) for ids_T in given]
    return torch.cat(parts), state


def whole(model: HybridLM, tokens: int = 16) -> Tensor:
    with torch.no_grad():
        return model(IDS[:tokens], SequenceLayout.from_lengths([tokens], chunk=8))


# Weights


def nearest(row: Tensor, name: str, block: int) -> Tensor:
    """A row of numbers by search in the format's grid, in float64."""
    grid = torch.tensor(parse_format(name).grid(), dtype=torch.float64)
    parts = []
    for part in row.double().split(block):
        S = grid.max() / part.abs().max()
        sizes = grid[((part.abs() * S)[:, None] - grid).abs().argmin(1)]
        parts.append(sizes * part.sign() / S)
    return torch.cat(parts)


def test_each_output_of_each_matrix_is_rounded_along_its_inputs():
    model = build()
    before = copy.deepcopy(model.state_dict())
    quantize_weights(model, Operand(format="E2M1", block=8))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    matrices = tuple(f".{name}.weight" for name in ("qkv", "out", "into", "gate_up", "down"))
    assert changed == {name for name in before if "experts" in name or name.endswith(matrices)}
    for name in changed:
        now, then = model.state_dict()[name], before[name]
        if now.ndim == 3:  # experts lie as (inputs, outputs)
            now, then = now.mT, then.mT
        for row, old in zip(now.flatten(0, -2), then.flatten(0, -2), strict=True):
            torch.testing.assert_close(row.double(), nearest(old, "E2M1", 8), rtol=1e-5, atol=1e-7)


def test_what_weights_take_is_counted_with_scales():
    model = build("AFE")
    sizes = quantize_weights(model, MXFP4)
    rounded = [p for n, p in model.named_parameters() if n.startswith("layers.") and p.ndim >= 2 and "island" not in n]
    assert sizes.numbers == sum(p.numel() for p in rounded)
    assert (sizes.bits_each, sizes.bytes) == (6.0, sizes.numbers * 6 / 8)  # 4 bits, and 8 for each 4


@pytest.mark.parametrize("operand", [NVFP4, Operand(format="E2M1", block="tensor")])
def test_no_scale_reaches_from_one_expert_to_another(operand: Operand):
    one, two = build("E"), build("E")
    with torch.no_grad():
        two.layers[0].mixer.experts.down_EFD[0].mul_(1e4)
    quantize_weights(one, operand)
    quantize_weights(two, operand)
    assert torch.equal(one.layers[0].mixer.experts.down_EFD[1:], two.layers[0].mixer.experts.down_EFD[1:])


def test_maps_can_be_left_out_and_mistakes_are_named():
    model, plain = build(), build()
    quantize_weights(model, E2M1, skip=["layers.0.*", "*.experts"])
    same = {n for n, p in plain.named_parameters() if torch.equal(p, model.get_parameter(n))}
    assert {"layers.0.mixer.qkv.weight", "layers.3.mixer.experts.down_EFD"} <= same
    assert "layers.3.mixer.shared.down.weight" not in same
    with pytest.raises(ValueError, match="skip='head' names no map"):
        quantize_weights(model, E2M1, skip=["head"])
    with pytest.raises(ValueError, match=r"skip=\['\*'\] leaves no map to round; skip less"):
        quantize_weights(model, E2M1, skip=["*"])
    model.round_to_int8()
    with pytest.raises(ValueError, match="load it with weights='stored'"):
        quantize_weights(model, E2M1)


def test_a_format_that_holds_the_numbers_changes_no_bit():
    model, plain = build().bfloat16(), build().bfloat16()
    bfloat16 = Operand(format="E8M7")
    sizes = quantize_weights(model, bfloat16)
    assert all(torch.equal(p, plain.get_parameter(n)) for n, p in model.named_parameters())
    assert sizes.bits == 16 * sizes.numbers
    quantize_caches(model, kv=bfloat16)
    for pieces in ([16], [5, 1, 1, 9], [1] * 16):
        assert torch.equal(read(model, pieces)[0], read(plain, pieces)[0])


# What is kept


def rows_nearest(x: Tensor) -> Tensor:
    return torch.stack([nearest(row, "E4M3", 4) for row in x.flatten(0, -2)]).view(x.shape)


def attention_by_hand(mixer: Attention, x_TD: Tensor) -> Tensor:
    """Softmax over rounded keys and values, one query at a time."""
    P, rows = mixer.config.head_width, []
    layout = SequenceLayout.from_lengths([len(x_TD)])
    q_THP, k_TGP, v_TGP = mixer.qkv(x_TD).unflatten(-1, (-1, P)).split([2, 1, 1], dim=1)
    q_THP, k_TGP = mixer._positions(q_THP, k_TGP, layout)
    k_TP, v_TP = rows_nearest(k_TGP[:, 0]), rows_nearest(v_TGP[:, 0])
    for t in range(len(x_TD)):
        weight_HT = (q_THP[t] @ k_TP[: t + 1].T / math.sqrt(P)).softmax(-1)
        rows.append((weight_HT @ v_TP[: t + 1]).flatten())
    return mixer.out(torch.stack(rows))


def mamba_by_hand(mixer: Mamba, x_TD: Tensor, pieces: Sequence[int]) -> tuple[Tensor, Tensor]:
    """S_t = exp(dt A) S_{t-1} + dt x Bᵀ, y_t = S_t C + D x, with S rounded where a piece ends."""
    config, island = mixer.config, mixer.island
    z_TI, xBC_TC, dt_TH = mixer.into(x_TD).split([config.inner, config.conv_width, config.heads], -1)
    taps_CW = mixer.conv_weight[:, None]
    mixed_CT = F.conv1d(F.pad(xBC_TC.T, (config.conv - 1, 0)), taps_CW, mixer.conv_bias, groups=config.conv_width)
    x_TI, B_TN, C_TN = F.silu(mixed_CT).T.split([config.inner, config.state, config.state], -1)
    dt_TH, A_H = F.softplus(dt_TH + island.dt_bias), -island.A_log.exp()
    S_HPN, rows = torch.zeros(config.heads, config.head_width, config.state, dtype=x_TD.dtype), []
    ends = torch.tensor(pieces).cumsum(0).tolist()
    for t in range(len(x_TD)):
        x_HP = x_TI[t].unflatten(0, (config.heads, -1))
        S_HPN = (dt_TH[t] * A_H).exp()[:, None, None] * S_HPN + dt_TH[t][:, None, None] * x_HP[..., None] * B_TN[t]
        y_HP = S_HPN @ C_TN[t] + island.D[:, None] * x_HP
        gated_I = y_HP.flatten() * F.silu(z_TI[t])
        rows.append(gated_I * (gated_I.square().mean() + mixer.norm.eps).rsqrt() * mixer.norm.weight)
        if t + 1 in ends:
            S_HPN = rows_nearest(S_HPN)
    return mixer.out(torch.stack(rows)), S_HPN


PIECES = [[16], [5, 1, 1, 9], [1] * 16, [10, *[1] * 6]]


@torch.no_grad()
@pytest.mark.parametrize("pieces", PIECES)
def test_tokens_attend_to_rounded_keys_and_values_however_a_text_is_cut(pieces: list[int]):
    model = build("A").double()
    quantize_caches(model, kv=E4M3)
    x_TD = model.embed(IDS)
    layer = model.layers[0]
    y_TD = attention_by_hand(layer.mixer, layer.norm(x_TD))
    got, state = read(model, pieces)
    torch.testing.assert_close(got, model.logits(model.norm(x_TD + y_TD)), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(got, whole(model), rtol=1e-4, atol=1e-4)  # without a state nothing is rounded
    kept = state.layers[0]
    assert isinstance(kept, KVSlots)
    torch.testing.assert_close(rows_nearest(kept.k_SLGP[0, :16]), kept.k_SLGP[0, :16], rtol=1e-12, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("pieces", PIECES)
def test_states_are_rounded_where_a_call_ends(pieces: list[int]):
    model = build("M").double()
    quantize_caches(model, state=E4M3)
    x_TD = model.embed(IDS)
    layer = model.layers[0]
    y_TD, S_HPN = mamba_by_hand(layer.mixer, layer.norm(x_TD), pieces)
    got, state = read(model, pieces)
    torch.testing.assert_close(got, model.logits(model.norm(x_TD + y_TD)), rtol=1e-8, atol=1e-8)
    kept = state.layers[0]
    assert isinstance(kept, SSMSlots)
    torch.testing.assert_close(kept.state_SHPN[0], S_HPN, rtol=1e-8, atol=1e-10)
    if pieces != [16]:
        assert not torch.allclose(got, whole(model), rtol=1e-4, atol=1e-4)


def test_wide_formats_come_near_what_is_not_rounded():
    model = build().double()
    want, errors = whole(model), []
    for mantissa in (2, 6, 10, 22):
        wide = Operand(format=f"E5M{mantissa}")
        quantize_caches(model, kv=wide, state=wide)
        errors.append(float((read(model, [6, *[1] * 10])[0] - want).norm() / want.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("pieces", PIECES)
def test_transmamba_rounds_both_of_its_memories(pieces: list[int]):
    model = build("T").double()
    quantize_caches(model, kv=MXFP4)
    got, state = read(model, pieces)
    slots = state.layers[0]
    assert isinstance(slots, TransSlots)
    assert slots.is_released  # past the TransPoint of 7
    before, _ = read(model, [1] * 6)
    torch.testing.assert_close(got[:6], before, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(before, whole(model, 6), rtol=1e-4, atol=1e-4)
    quantize_caches(model, state=MXFP4)
    _, state = read(model, [8, 1])
    kept = state.layers[0]
    assert isinstance(kept, TransSlots)
    assert torch.equal(quantize(kept.state_SHPN, "E2M1", block=4, scale="e8m0"), kept.state_SHPN)


@torch.no_grad()
@pytest.mark.parametrize("operand", [E4M3, MXFP4, NVFP4, Operand(format="E2M1", block=(2, 4))])
def test_documents_do_not_see_each_other(operand: Operand):
    model = build("AMF").double()
    quantize_caches(model, kv=operand, state=operand)

    def decode(rows: Tensor) -> Tensor:
        state = model.new_state(len(rows))
        model(rows[:, :5].flatten(), state.layout([5] * len(rows)), state)
        return torch.stack([model(r, state.layout([1] * len(rows)), state) for r in rows[:, 5:].T], 1)

    rows = IDS.view(2, 8)
    torch.testing.assert_close(decode(rows), torch.cat([decode(rows[:1]), decode(rows[1:])]), rtol=1e-9, atol=1e-9)


def test_steps_are_recorded_again_when_rounding_ends():
    model = build("AMF")
    want, _ = read(model, [4, 1, 1])
    quantize_caches(model, kv=E4M3, state=E4M3)

    def step() -> DecodeState:
        _, state = read(model, [4])
        with torch.no_grad():
            model.next_logits(IDS[4:5], state.layout([1]), state)
        return state

    assert step().step is None
    assert quantize_caches(model) == CacheSizes(None, None)
    assert step().step is not None
    assert torch.equal(read(model, [4, 1, 1])[0], want)


def test_what_caches_take():
    sizes = quantize_caches(build("AAMF"), kv=E4M3, state=NVFP4)
    assert sizes.kv is not None
    assert sizes.state is not None
    assert (sizes.kv.numbers, sizes.kv.bits_each) == (2 * 2 * 8, 8 + 32 / 4)
    assert (sizes.state.numbers, sizes.state.bits) == (2 * 8 * 8, 128 * (4 + 8 / 4) + 32)
    both = quantize_caches(build("T"), kv=E2M1, state=E2M1)
    kept = build("T").new_state(1).layers[0]
    assert isinstance(kept, TransSlots)
    assert both.kv == stored(E2M1, (2, *kept.k_SLGW.shape[2:]))
    assert both.state == stored(E2M1, kept.state_SHPN.shape)


@pytest.mark.parametrize(
    ("pattern", "operands", "message"),
    [
        (
            "MF",
            {"kv": E4M3},
            "kv=E4M3 has nothing to round, since the model keeps no keys and values: it has neither A",
        ),
        ("AF", {"state": MXFP4}, "state=ocp:e2m1 has nothing to round, since the model keeps no SSM states"),
        ("AM", {"kv": Operand(format="E4M3", block="tensor")}, r"kv\.block='tensor' would tie tokens and documents"),
    ],
)
def test_what_a_model_does_not_keep_is_refused(pattern: str, operands: dict[str, Operand], message: str):
    model = build(pattern)
    with pytest.raises(ValueError, match=message):
        quantize_caches(model, **operands)
    assert model.cache_rounding is None


# Bits


@pytest.mark.parametrize(
    ("operand", "bits"),
    [
        (Operand(format="ocp:e4m3fn", block=32, scale="e8m0"), 8.25),  # OCP MX 1.0: MXFP8, MXFP6, MXFP4
        (Operand(format="ocp:e3m2", block=32, scale="e8m0"), 6.25),
        (Operand(format="ocp:e2m1", block=32, scale="e8m0"), 4.25),
        (Operand(format="ocp:e2m1", block=16, scale="e4m3"), 4.5 + 32 / 4096),  # NVFP4
        (Operand(format="E0M7", block="channel"), 8 + 32 / 64),
        (Operand(format="E4M3", block="tensor"), 8 + 32 / 4096),
        (Operand(format="E4M3", block=(32, 32)), 8 + 32 / 1024),
        (Operand(format="E8M7", block=32), 16),
    ],
)
def test_bits_of_known_formats(operand: Operand, bits: float):
    assert stored(operand, (64, 64)).bits_each == bits


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 9), (1, 1)])
@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_scales_are_as_many_as_there_are_blocks(shape: tuple[int, ...], block: int):
    x = torch.randn(shape)
    scales = block_maxima(x.reshape(1, -1, shape[-1]), (1, min(block, shape[-1]))).numel()
    assert stored(Operand(format="E2M1", block=block), shape).bits == 4 * x.numel() + 32 * scales
    first = sum(part.numel() // part.shape[0] for part in x.split(block, 0))
    assert stored(Operand(format="E2M1", block=block), shape, axis=0).bits == 4 * x.numel() + 32 * first
