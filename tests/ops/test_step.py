"""A replayed program against the ops that it records, in their forms of PyTorch and float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import (
    ACTIVATIONS,
    SequenceLayout,
    StepProgram,
    StepUnsupportedError,
    cached_attention,
    conv_step,
    convert_memory_direct,
    experts_reference,
    mamba_step,
    quantize_int8,
    rms_norm,
    rotary,
    route,
    step_sizes,
    swiglu,
)
from tandem.ops.cpu.compiled import library
from tandem.ops.int8 import dequantize_int8

FORMATS = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _kernels():
    if library() is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")


def close(got: Tensor, want: Tensor, size: float = 0.0) -> bool:
    """Whether the error is what arithmetic on numbers of got's format leaves, of want's norm or of `size` if that is more."""
    tolerance = 2e-2 if got.dtype == torch.bfloat16 else 3e-5
    return bool((got.double() - want.double()).norm() <= tolerance * max(float(want.double().norm()), size))


def normal(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype)


def start(slots: int, width: int, dtype: torch.dtype, int8: bool = False) -> tuple[StepProgram, Tensor, Tensor]:
    """A program that begins with an embedding, the memory of its rows, and what will be in it after a run of tokens 0, 1, …"""
    program, table = StepProgram(slots, dtype, int8=int8), normal(dtype, slots, width)
    return program, program.embedding(table, 1.0), table


def run(program: StepProgram, positions: list[int] | None = None) -> None:
    program.run(range(program.slots), positions or [0] * program.slots)


@settings(max_examples=30)
@given(
    slots=st.sampled_from([1, 2, 3, 5, 8, 16, 32]),
    widths=st.sampled_from([(1, 1), (16, 3), (37, 130), (256, 33), (512, 64)]),
    dtype=st.sampled_from(FORMATS),
    biased=st.booleans(),
)
@torch.no_grad()
def test_linear_and_embedding(slots: int, widths: tuple[int, int], dtype: torch.dtype, biased: bool):
    torch.manual_seed(slots)
    program, x, table = start(slots, widths[0], dtype)
    weight, bias = normal(dtype, widths[1], widths[0]), normal(dtype, widths[1]) if biased else None
    y = program.linear(x, weight, bias)
    for tokens in (range(slots), [slots - 1] * slots):
        program.run(tokens, [0] * slots)
        want = table[list(tokens)].double() @ weight.double().t()
        assert torch.equal(x, table[list(tokens)])
        added = torch.zeros(()) if bias is None else bias.double()
        assert close(y, want + added, size=float(want.norm()))  # the bias may cancel the product


@given(
    slots=st.sampled_from([1, 3]),
    scale=st.sampled_from([1.0, 0.22]),
    gain=st.sampled_from([1.0, 3.0]),
    groups=st.sampled_from([1, 5]),
    dtype=st.sampled_from(FORMATS),
)
@torch.no_grad()
def test_residual_stream_and_norm(slots: int, scale: float, gain: float, groups: int, dtype: torch.dtype):
    program, x, table = start(slots, 40, dtype)
    weight, matrix = normal(dtype, 40), normal(dtype, 40, 40)
    first = program.norm(x, weight, 1e-5, groups=groups)
    program.add(x, program.linear(first, matrix), scale)
    second = program.norm(x, weight, 1e-5, gain)
    run(program)
    wide = table.double()
    normed = rms_norm(wide, weight.double(), 1e-5, groups=groups)
    assert close(first, normed)
    wide = wide + scale * normed @ matrix.double().t()
    assert close(x, wide)
    assert close(second, gain * rms_norm(wide, weight.double(), 1e-5))


@given(
    slots=st.sampled_from([1, 4]),
    width=st.sampled_from([1, 31, 64]),
    dtype=st.sampled_from(FORMATS),
    name=st.sampled_from(["swiglu", "relu2"]),
)
@torch.no_grad()
def test_activation(slots: int, width: int, dtype: torch.dtype, name: str):
    program, x, table = start(slots, 2 * width, dtype)
    y = program.activation(x, name)
    run(program)
    assert close(y, ACTIVATIONS[name](table.double()))


@settings(max_examples=30)
@given(
    slots=st.sampled_from([1, 2, 5, 16, 32]),
    top_k=st.integers(1, 3),
    widths=st.sampled_from([(32, 32, 0), (96, 160, 5), (64, 64, 48)]),
    dtype=st.sampled_from(FORMATS),
    biased=st.booleans(),
    int8=st.booleans(),
)
@torch.no_grad()
def test_mixture(slots: int, top_k: int, widths: tuple[int, int, int], dtype: torch.dtype, biased: bool, int8: bool):
    torch.manual_seed(slots)
    D, F, shared_F = widths
    program, x, table = start(slots, D, dtype, int8)
    router = (torch.randn(4, D), torch.randn(4) if biased else None, top_k)
    experts = (normal(dtype, 4, D, 2 * F) / 8, normal(dtype, 4, F, D) / 8)
    shared = (normal(dtype, 2 * shared_F, D) / 8, normal(dtype, D, shared_F) / 8) if shared_F else None
    y = program.mixture(x, router, experts, shared)
    run(program)
    table = exact(table, program)
    chosen, weights, _ = route(table, router[0].double(), None if router[1] is None else router[1].double(), top_k)
    want = experts_reference(table, chosen, weights, *(exact(matrix, program, 1) for matrix in experts))
    if shared:
        want = want + swiglu(table @ exact(shared[0], program).t()) @ exact(shared[1], program).t()
    tolerance = 1e-3 if program.int8 and dtype == torch.float32 else 0  # of x in 14 bits
    assert close(y, want) or (y.double() - want).norm() <= tolerance * want.norm()


def exact(matrix: Tensor, program: StepProgram, axis: int = -1) -> Tensor:
    """What the program has for a matrix, in float64."""
    return (dequantize_int8(*quantize_int8(matrix, axis), axis) if program.int8 else matrix).double()


@settings(max_examples=20)
@given(
    slots=st.integers(1, 4),
    widths=st.sampled_from([(1, 1), (64, 3), (37, 130), (1024, 65)]),
    dtype=st.sampled_from(FORMATS),
)
@torch.no_grad()
def test_int8_matrices(slots: int, widths: tuple[int, int], dtype: torch.dtype):
    program, x, table = start(slots, widths[0], dtype, int8=True)
    weight = normal(dtype, widths[1], widths[0])
    y = program.linear(x, weight)
    run(program)
    assert close(x, exact(table, program))
    want = x.double() @ exact(weight, program).t()
    # Sums of few products may nearly cancel; their terms tell how far x in 14 bits may be off.
    terms = x.double().abs() @ exact(weight, program).abs().t()
    assert close(y, want) or (y.double() - want).norm() <= 1e-4 * terms.norm()


def test_more_documents_than_int8_is_faster_for_read_the_matrices():
    with torch.no_grad():
        assert StepProgram(4, torch.float32, int8=True).int8
        assert not StepProgram(5, torch.float32, int8=True).int8


@settings(max_examples=20)
@given(
    slots=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    sizes=st.sampled_from([(2, 8, 8, 1), (2, 8, 8, 2), (4, 16, 40, 4), (4, 64, 128, 4)]),
    dtype=st.sampled_from(FORMATS),
    limits=st.sampled_from([(0.0, float("inf")), (0.05, 0.3)]),
    biased=st.booleans(),
)
@torch.no_grad()
def test_mamba_three_tokens_long(
    slots: int,
    groups: int,
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    limits: tuple[float, float],
    biased: bool,
):
    torch.manual_seed(slots)
    H, P, N, W = sizes
    inner, C = H * P, H * P + 2 * groups * N
    program, x, table = start(slots, 24, dtype)
    into, out = normal(dtype, inner + C + H, 24) / 4, normal(dtype, 8, inner)
    middle = (normal(dtype, C, W) / 4, normal(dtype, C) if biased else None, normal(dtype, inner))
    decays, norm = (torch.randn(H), torch.randn(H) - 2, torch.randn(H)), (1e-5, groups)
    halo, state = normal(dtype, slots, W - 1, C), torch.randn(slots, H, P, N)
    exact_halo, exact_state = halo.double(), state.double()
    y = program.linear(program.mamba(program.linear(x, into), middle, decays, norm, (halo, state), limits), out)
    wide = tuple(None if t is None else t.double() for t in (into, out, *middle))
    for _ in range(3):
        run(program)
        want = mamba_step(
            table.double(), wide, tuple(t.double() for t in decays), norm, exact_halo, exact_state, limits
        )
        assert close(y, want)
        assert close(state.to(dtype), exact_state)
        assert W == 1 or close(halo, exact_halo)


@settings(max_examples=20)
@given(
    slots=st.integers(1, 3),
    sizes=st.sampled_from([(2, 8, 8, 1), (4, 16, 40, 4), (4, 64, 128, 2)]),
    dtype=st.sampled_from(FORMATS),
    biased=st.booleans(),
)
@torch.no_grad()
def test_state_and_rows_before_attention(
    slots: int, sizes: tuple[int, int, int, int], dtype: torch.dtype, biased: bool
):
    torch.manual_seed(slots)
    H, P, N, G = sizes
    inner, C = H * P, H * P + 2 * G * N
    program, x, table = start(slots, inner + C + H, dtype)
    taps, bias = normal(dtype, C, 4) / 4, normal(dtype, C) if biased else None
    A_log, dt_bias, D = torch.randn(H), torch.randn(H) - 2, torch.randn(H)
    halo, state = normal(dtype, slots, 3, C), torch.randn(slots, H, P, N)
    exact_halo, exact_state = halo.double(), state.double()
    limits = (0.0, 0.5)
    rows = program.mamba_before_attention(
        x, (taps, bias, normal(dtype, inner)), (A_log, dt_bias, D), (halo, state), limits
    )
    _, xBC, dt = table.double().split([inner, C, H], dim=1)
    for _ in range(2):
        run(program)
        shift = torch.zeros(C).double() if bias is None else bias.double()
        mixed = torch.nn.functional.silu(conv_step(xBC, taps.double(), shift, exact_halo))
        x_SI, B, K = mixed.split([inner, G * N, G * N], dim=1)
        steps = step_sizes(dt, dt_bias.double(), limits)
        layout = SequenceLayout.from_lengths([1] * slots)
        exact_state = convert_memory_direct(
            B.unflatten(1, (G, N)), x_SI.unflatten(1, (H, P)), steps, -A_log.double().exp(), exact_state, layout
        )
        assert close(rows, torch.cat([K, B, x_SI], dim=1))
        assert close(state.to(dtype), exact_state)
        assert close(halo, exact_halo)


@settings(max_examples=25)
@given(
    positions=st.lists(st.sampled_from([0, 1, 16, 255, 256, 600]), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (8, 8)]),
    width=st.sampled_from([6, 16, 128]),
    dtype=st.sampled_from(FORMATS),
    normed=st.sampled_from([None, False, True]),
    pairs=st.sampled_from([0, 2, 3]),
    scale=st.sampled_from([None, 0.03]),
)
@torch.no_grad()
def test_attention(
    positions: list[int],
    heads: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    normed: bool | None,
    pairs: int,
    scale: float | None,
):
    torch.manual_seed(len(positions))
    (H, G), S, L = heads, len(positions), max(positions) + 3
    program, x, table = start(S, (H + 2 * G) * width, dtype)
    k, v = normal(dtype, S, L, G, width), normal(dtype, S, L, G, width)
    exact_k, exact_v = k.double(), v.double()
    norms = None if normed is None else (normal(dtype, width), normal(dtype, width), 1e-5, normed)
    rotation = (torch.rand(pairs), 1.2) if pairs else None
    y = program.attention(x, (k, v), H, norms, rotation, scale)
    run(program, positions)

    layout = SequenceLayout.from_lengths([1] * S, starts=positions)
    turned = table.double().unflatten(1, (-1, width)).split([H, G, G], 1)
    for step in ("norm", "turn") if normed else ("turn", "norm"):
        if step == "turn" and rotation:
            turned = (*(rotary(t, layout.position_T, rotation[0].double(), 1.2) for t in turned[:2]), turned[2])
        if step == "norm" and norms:
            turned = (*(rms_norm(t, w.double(), 1e-5) for t, w in zip(turned[:2], norms[:2], strict=True)), turned[2])
    exact_k[range(S), positions], exact_v[range(S), positions] = turned[1:]
    assert close(k, exact_k)
    assert torch.equal(v.double(), exact_v)
    assert close(y.view(S, H, width), cached_attention(turned[0], exact_k, exact_v, layout, scale))


def test_tokens_outside_the_vocabulary_are_refused():
    with torch.no_grad():
        program, *_ = start(2, 8, torch.float32)
        with pytest.raises(ValueError, match=r"an id outside \[0, 2\)"):
            program.run([0, 2], [0, 0])
        with pytest.raises(ValueError, match=r"an id outside \[0, 2\)"):
            program.run([-1, 0], [0, 0])


def test_what_the_kernels_do_not_have_is_said():
    with pytest.raises(StepUnsupportedError):
        StepProgram(1, torch.float32)  # gradients are on
    with torch.no_grad():
        with pytest.raises(StepUnsupportedError):
            StepProgram(33, torch.float32)
        with pytest.raises(StepUnsupportedError):
            StepProgram(1, torch.float64)
        program, x, _ = start(1, 32, torch.bfloat16)
        with pytest.raises(StepUnsupportedError):
            program.linear(x, torch.randn(4, 32))
        with pytest.raises(StepUnsupportedError):
            program.linear(x, normal(torch.bfloat16, 32, 4).t())
        for width in (16, 40):
            experts = (normal(torch.bfloat16, 2, 32, 2 * width), normal(torch.bfloat16, 2, width, 32))
            with pytest.raises(StepUnsupportedError):
                program.mixture(x, (torch.randn(2, 32), None, 1), experts, None)
        with pytest.raises(StepUnsupportedError):
            program.activation(x, "gelu")


def test_memory_of_weights_stays_while_the_program_does():
    """What a module drops is still read, never freed memory."""
    with torch.no_grad():
        program, x, table = start(1, 64, torch.float32)
        weight = torch.randn(64, 64)
        y, want = program.linear(x, weight), table @ weight.t()
        del weight
        torch.full((64, 64), torch.nan)
        run(program)
        torch.testing.assert_close(y, want)
