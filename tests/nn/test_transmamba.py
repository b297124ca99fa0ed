"""The layer T: what the notes' list of tests asks of it, against Mamba-2, attention, and itself cut in other places."""

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tandem.nn import (
    DecodePool,
    DecodeState,
    DenseConfig,
    HybridLM,
    Mamba,
    MambaConfig,
    ModelConfig,
    SequenceLayout,
    TransMamba,
    TransMambaConfig,
    TransSlots,
    preset,
)
from tandem.ops import FixedLayout, NotKeptError, StepProgram, StepUnsupportedError, causal_attention, causal_conv
from tandem.ops.cpu.compiled import library
from tandem.plan import parameters

WIDTH = 32
SHAPE = TransMambaConfig(heads=4, groups=2, head_width=8, state=12, chunk=16, rope_mode="attn")
POINTS = [0, 1, 20, 49, 50, 64]  # of texts of 50 tokens
OPTIONS = [
    {},
    {"rope_mode": "both", "gate": "both", "skip": "both"},
    {"rope_mode": "none", "gate": "none", "norm": "none", "skip": "none"},
    {"norm": "ssm", "scale": 0.5, "bias": True, "conv_bias": False, "rope_alpha": 4.0},
    {"groups": 4, "state": 4},  # values wider than keys, one head a group
    {"convert": False},
]


def layer(point: int, seed: int = 0, **changes: object) -> TransMamba:
    torch.manual_seed(seed)
    made = TransMamba(replace(SHAPE, **changes), WIDTH, 1e-5, point).double()
    made.init_weights(1.0)
    return made


def text(*lengths: int) -> tuple[Tensor, SequenceLayout]:
    generator = torch.Generator().manual_seed(3)
    x_TD = torch.randn(sum(lengths), WIDTH, generator=generator, dtype=torch.float64)
    return x_TD, SequenceLayout.from_lengths(lengths, chunk=16)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# 1: the two ends


def test_a_transpoint_of_0_is_mamba_with_the_same_parameters():
    trans = layer(0)
    shape = {field.name: getattr(SHAPE, field.name) for field in fields(MambaConfig)}
    mamba = Mamba(MambaConfig(**shape), WIDTH, 1e-5).double()
    mamba.load_state_dict(trans.state_dict())
    x_TD, layout = text(50, 3, 1)
    assert torch.equal(trans(x_TD, layout), mamba(x_TD, layout))


@pytest.mark.parametrize("point", [50, 8192])
def test_a_transpoint_beyond_the_text_is_attention_over_the_convolved_projections(point: int):
    trans = layer(point, groups=4, state=8, rope_mode="none")  # heads as multi-head attention has them
    x_TD, layout = text(50)
    xBC = trans.into(x_TD)[:, 32 : 32 + 96]
    taps = torch.nn.functional.pad(xBC.t()[None], (3, 0))
    mixed = torch.nn.functional.conv1d(taps, trans.conv_weight[:, None], trans.conv_bias, groups=96)[0].t()
    v, k, q = (t.unflatten(-1, (4, 8)).transpose(0, 1) for t in torch.nn.functional.silu(mixed).split(32, dim=-1))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    normed = y.transpose(0, 1)  # four groups of the norm are the four heads
    normed = (normed / (normed.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1) * trans.norm.weight
    close(trans(x_TD, layout), normed @ trans.out.weight.t())


# 2 and 8: what the TransPoint changes


@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_outputs_behind_two_transpoints_agree_and_so_do_those_before_both(options: dict):
    """Also test 2 of the notes: behind P the output is that of a layer that is an SSM from the first token on."""
    x_TD, layout = text(50, 30)
    ys = {point: layer(point, **options)(x_TD, layout).split([50, 30]) for point in (0, 7, 19, 64)}
    for (p, one), (q, other) in product(ys.items(), repeat=2):
        for y, z in zip(one, other, strict=True):
            close(y[: min(p, q)], z[: min(p, q)])
            close(y[max(p, q) :], z[max(p, q) :])
    assert (ys[7][0][7:19] - ys[19][0][7:19]).abs().max() > 1e-3


def test_without_the_converter_the_suffix_is_wrong():
    x_TD, layout = text(50)
    exact, without = layer(20)(x_TD, layout), layer(20, convert=False)(x_TD, layout)
    assert (exact[20:] - without[20:]).abs().max() > 1e-2


# 4: decoding


def decoded(trans: TransMamba, x_TD: Tensor, cuts: list[int], state: TransSlots) -> Tensor:
    """One text, read in pieces."""
    pieces, held = [], 0
    for piece in x_TD.split(cuts):
        layout = SequenceLayout.from_lengths([len(piece)], chunk=16, starts=[held])
        pieces.append(trans(piece, layout, state))
        held += len(piece)
    return torch.cat(pieces)


@torch.no_grad()
@pytest.mark.parametrize("cache", ["running", "convert"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cuts", [[1] * 50, [13, 1, 1, 20, 15], [50]])
def test_decoding_equals_one_pass_across_the_switch(options: dict, cache: str, cuts: list[int]):
    x_TD, layout = text(50)
    for point in POINTS:
        trans = layer(point, cache=cache, **options)
        state = TransSlots.before(trans.config, point, 1, torch.float64, torch.device("cpu"))
        close(decoded(trans, x_TD, cuts, state), trans(x_TD, layout))


@torch.no_grad()
@pytest.mark.parametrize("cache", ["running", "convert"])
def test_documents_switch_each_at_its_own_time(cache: str):
    trans = layer(20, cache=cache)
    texts = [text(50)[0], text(50)[0].flip(0), text(50)[0] * 0.5]
    expected = [trans(x, SequenceLayout.from_lengths([50], chunk=16)) for x in texts]
    state = TransSlots.before(trans.config, 20, 3, torch.float64, torch.device("cpu"))
    held, found = [0, 0, 0], [[], [], []]
    for pieces in ([3, 25, 18], [1, 1, 1], [1, 1, 1], [15, 1, 2], [30, 22, 28]):
        layout = SequenceLayout.from_lengths(pieces, chunk=16, starts=held)
        rows = torch.cat([x[h : h + n] for x, h, n in zip(texts, held, pieces, strict=True)])
        for own, y in zip(found, trans(rows, layout, state).split(pieces), strict=True):
            own.append(y)
        held = [h + n for h, n in zip(held, pieces, strict=True)]
    for own, whole in zip(found, expected, strict=True):
        close(torch.cat(own), whole)
    assert state.is_released


@torch.no_grad()
@pytest.mark.parametrize("cache", ["running", "convert"])
@pytest.mark.parametrize("pieces", [[30, 5, 30], [15, 30, 15]])
def test_a_document_between_others_crosses_alone_or_stays_alone(pieces: list[int], cache: str):
    """The parts of the layout then list documents as 1, 0, 2: all slots, and not in their order."""
    held = [10, 10, 10] if pieces[1] == 5 else [25, 10, 25]
    trans = layer(20, cache=cache)
    x_TD, _ = text(40, 40, 40)
    texts = [x[: h + n] for x, h, n in zip(x_TD.split(40), held, pieces, strict=True)]
    state = TransSlots.before(trans.config, 20, 3, torch.float64, torch.device("cpu"))
    trans(
        torch.cat([x[:h] for x, h in zip(texts, held, strict=True)]),
        SequenceLayout.from_lengths(held, chunk=16),
        state,
    )
    rest = torch.cat([x[h:] for x, h in zip(texts, held, strict=True)])
    found = trans(rest, SequenceLayout.from_lengths(pieces, chunk=16, starts=held), state).split(pieces)
    for y, x, h in zip(found, texts, held, strict=True):
        close(y, trans(x, SequenceLayout.from_lengths([len(x)], chunk=16))[h:])


@torch.no_grad()
def test_memory_is_constant_behind_the_transpoint():
    trans = layer(20)
    state = TransSlots.before(trans.config, 20, 1, torch.float64, torch.device("cpu"))
    x_TD, _ = text(50)
    held = []
    for t in range(50):
        trans(x_TD[t : t + 1], SequenceLayout.from_lengths([1], starts=[t]), state)
        held.append(state.kv_bytes([t + 1]))
    per_token = 2 * 2 * 16 * 8  # keys and values of two heads as wide as the values, float64
    assert held == [per_token * (t + 1) for t in range(19)] + [0] * 31
    assert state.k_SLGW.numel() == state.v_SLGW.numel() == 0
    assert sum(t.nbytes for t in state.tensors) == 4 * 8 * 12 * 8 + 3 * 80 * 8


# 7: packed documents


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("point", [0, 1, 3, 20, 100])
def test_packed_equals_separate_forward_and_backward(point: int, options: dict):
    lengths = [1, 3, 50, 20, 21]
    trans, (x_TD, layout) = layer(point, **options), text(*lengths)
    pull = torch.randn_like(x_TD)

    def gradients(y_TD: Tensor) -> list[Tensor]:
        made = torch.autograd.grad((y_TD * pull).sum(), [x, *trans.parameters()], allow_unused=True)
        return [torch.zeros(()) if g is None else g for g in made]

    x = x_TD.requires_grad_()
    packed = trans(x, layout)
    separate = torch.cat([trans(p, SequenceLayout.from_lengths([len(p)], chunk=16)) for p in x.split(lengths)])
    close(packed, separate)
    for one, other in zip(gradients(packed), gradients(separate), strict=True):
        close(one, other, 1e-11)


def test_the_first_token_of_a_text_may_be_the_last_before_the_transpoint():
    trans = layer(1)
    x_TD, layout = text(1, 2)
    close(trans(x_TD, layout)[:1], layer(5)(x_TD, layout)[:1])


# 9: parameters


def test_parameters_do_not_depend_on_the_schedule():
    config = preset("transmamba-nano")
    with torch.device("meta"):
        shapes = [
            {name: p.shape for name, p in HybridLM(config.rescheduled(schedule)).named_parameters()}
            for schedule in ("v9", "attention", "mamba", "v4")
        ]
    assert all(shape == shapes[0] for shape in shapes)
    assert sum(s.numel() for s in shapes[0].values()) == parameters(config).total


# whole models

MODEL = ModelConfig(
    vocab_size=50,
    width=WIDTH,
    pattern="TFTFTF",
    transmamba=replace(SHAPE, schedule=(0, 6, 30)),
    ffn=DenseConfig(hidden=16),
)


def model(**changes: object) -> HybridLM:
    torch.manual_seed(1)
    return HybridLM(MODEL.replace(**changes)).eval()


@torch.no_grad()
@pytest.mark.parametrize("cache", ["running", "convert"])
@pytest.mark.parametrize("held", [3, 6, 17, 33])
def test_a_state_saved_in_the_middle_of_a_text_goes_on(tmp_path: Path, held: int, cache: str):
    lm = model(transmamba=replace(SHAPE, schedule=(0, 6, 30), cache=cache))
    tokens = torch.arange(80) % 50
    state = lm.new_state(2)
    lm(torch.cat([tokens[:held], tokens[40 : 40 + held]]), state.layout([held, held]), state)
    state.save(tmp_path / "state")
    read = DecodeState.load(tmp_path / "state", lm.config)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    for at in range(held, 36):
        step = tokens[[at, 40 + at]]
        assert torch.equal(lm(step, state.layout([1, 1]), state), lm(step, read.layout([1, 1]), read))


def test_a_saved_state_of_another_model_is_refused(tmp_path: Path):
    lm, other = model(), model(transmamba=replace(SHAPE, schedule=(0, 6, 30), state=8))
    lm.new_state(2).save(tmp_path / "state")
    with pytest.raises(ValueError, match="of a model of another shape"):
        DecodeState.load(tmp_path / "state", other.config)
    lm.reschedule([0, 6, 31])
    with pytest.raises(ValueError, match=r"made for the TransPoints \[0, 6, 30\], not \[0, 6, 31\]"):
        DecodeState.load(tmp_path / "state", lm.config)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a decode state"):
        DecodeState.load(tmp_path / "other", lm.config)
    with pytest.raises(ValueError, match="is not a file"):
        DecodeState.load(tmp_path / "missing", lm.config)


@torch.no_grad()
def test_another_schedule_gives_the_model_of_that_schedule_with_these_weights():
    lm, tokens = model(), torch.arange(40)
    state = lm.new_state(1)
    lm.reschedule("v7", 32)
    other = model(transmamba=replace(SHAPE, schedule="v7", schedule_length=32))
    assert lm.config.transpoints == other.config.transpoints == (8, 16, 24)
    layout = SequenceLayout.from_lengths([40], chunk=16)
    assert torch.equal(lm(tokens, layout), other(tokens, layout))
    with pytest.raises(ValueError, match="state was made for the TransPoint 0, but the layer's is 8"):
        lm(tokens, state.layout([40]), state)


@torch.no_grad()
def test_a_recorded_step_does_not_outlive_its_schedule():
    """Behind all TransPoints steps are replayed, and no layer is asked."""
    lm, tokens, held = model(), torch.arange(50), 40
    lm.reschedule([32, 32, 32])
    state = lm.new_state(1)
    lm.next_logits(tokens[:held], state.layout([held]), state)
    lm.next_logits(tokens[held : held + 1], state.layout([1]), state)
    lm.reschedule([16, 16, 16])
    with pytest.raises(ValueError, match="state was made for the TransPoint 32, but the layer's is 16"):
        lm.next_logits(tokens[held + 1 : held + 2], state.layout([1]), state)


def test_a_schedule_needs_transmamba_layers():
    with pytest.raises(ValueError, match="schedule='v7' needs T layers"):
        preset("nano").rescheduled("v7")


@torch.no_grad()
def test_single_steps_equal_one_pass_and_end_as_recorded_programs():
    lm, tokens = model(), torch.arange(80) % 50
    layout = SequenceLayout.from_lengths([40], chunk=16)
    whole = lm(tokens[:40], layout)
    state = lm.new_state(1)
    for t in range(40):
        found = lm.next_logits(tokens[t : t + 1], state.layout([1]), state)
        torch.testing.assert_close(found[0], whole[t], rtol=1e-4, atol=1e-4)
    slots = state.layers[4]
    assert isinstance(slots, TransSlots)
    assert slots.is_released
    assert state.step is not None
    assert state.step._program is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "none"}, "options that Mamba-2 does not have"),
        ({"rope_mode": "both"}, "options that Mamba-2 does not have"),
        ({"cache": "convert"}, "on both sides, or with options"),
        ({"state": 12}, "on both sides, or with options"),  # keys narrower than values
    ],
)
def test_a_step_that_the_kernels_do_not_have_is_not_recorded(options: dict, message: str):
    if library() is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")
    trans = layer(5, **{"state": 16, **options}).float()
    slots = TransSlots.before(trans.config, 5, 1, torch.float32, torch.device("cpu"))
    with torch.no_grad(), pytest.raises(StepUnsupportedError, match=message):
        trans.record(StepProgram(1, torch.float32), torch.zeros(1, WIDTH), slots)


def test_a_pool_of_fixed_slots_is_refused():
    with pytest.raises(ValueError, match="has T layers, for which there is no pool"):
        DecodePool.empty(MODEL, 2, 8, torch.float32, torch.device("cpu"))


def test_work_of_a_layer_is_that_of_its_parts():
    """P = 0 is Mamba-2; each token before P trades its scan and gate for pairs of attention, and is converted."""
    _, layout = text(50)
    config = SHAPE
    inner, shared = 32, 24
    mamba = Mamba(MambaConfig(heads=4, groups=2, head_width=8, state=12, chunk=16), WIDTH, 1e-5)
    assert layer(0).flops(layout) == mamba.flops(layout)
    scan = 2 * config.chunk * (shared + inner) + 4 * inner * config.state
    for point, converted in ((10, 10), (50, 0)):
        traded = point * (scan + 2 * WIDTH * inner)
        pairs = point * (point + 1) // 2
        expected = mamba.flops(layout) - traded + 2 * (inner + shared) * pairs + 2 * inner * config.state * converted
        assert layer(point).flops(layout) == expected


def test_bytes_of_the_state_are_those_that_it_takes():
    lm = model().bfloat16()
    for tokens in (3, 6, 20, 40):
        state = lm.new_state(1)
        with torch.no_grad():
            lm(torch.arange(tokens), state.layout([tokens]), state)
        expected = sum(each.state_bytes(tokens) for each in lm.layers if isinstance(each.mixer, TransMamba))
        assert state.kv_bytes + state.ssm_bytes == expected


def test_a_layout_of_a_graph_that_would_cross_the_transpoint_is_refused():
    with pytest.raises(NotKeptError):
        layer(3)(text(8)[0], FixedLayout.of(SequenceLayout.from_lengths([8]), documents=2))


def test_attention_of_groups_is_attention_over_the_values_of_their_heads():
    """Four heads of width 8 in two groups are two attention heads with values of width 16."""
    trans = layer(64, norm="none", gate="none", skip="none", rope_mode="none", state=16)
    x_TD, layout = text(50)
    _, xBC, _ = trans.into(x_TD).split([32, 96, 4], dim=-1)
    x, B, C = causal_conv(xBC, trans.conv_weight, trans.conv_bias, layout, silu=True).split([32, 32, 32], dim=-1)
    y = causal_attention(*(t.unflatten(-1, (2, 16)) for t in (C, B, x)), layout)
    close(trans(x_TD, layout), y.flatten(1) @ trans.out.weight.t())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("point", [0, 5, 64, 300, 1000])
def test_a_gpu_in_bfloat16_is_near_float64(point: int):
    shape = TransMambaConfig(heads=4, groups=4, head_width=64, state=64, chunk=64)
    torch.manual_seed(0)
    exact = TransMamba(shape, 256, 1e-5, point)
    exact.init_weights(1.0)
    lengths = [1, 3, 500, 64, 200]
    x_TD, pull_TD = torch.randn(2, sum(lengths), 256).bfloat16()
    outcomes = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        trans = TransMamba(shape, 256, 1e-5, point).to(device)
        trans.load_state_dict(exact.state_dict())
        trans.to(dtype)
        leaf = x_TD.detach().to(device, dtype).requires_grad_()
        layout = SequenceLayout.from_lengths(lengths, chunk=64, device=device)
        y_TD = trans(leaf, layout)
        wanted = [leaf, trans.into.weight, trans.out.weight, trans.conv_weight]
        made = torch.autograd.grad(y_TD, wanted, pull_TD.to(device, dtype))
        outcomes.append([t.double().cpu() for t in (y_TD.detach(), *made)])
    for want, have in zip(*outcomes, strict=True):
        assert (have - want).norm() <= 2e-2 * want.norm()
