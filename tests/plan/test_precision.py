"""The plan of a number format: the paper's numbers, searches by brute force, and what must hold of any training."""

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tandem.plan import HARDWARE, Choice, outside_runs, parameter_growth, plan_precision
from tandem.plan.precision import Block
from tandem.precision import CAPYBARA, parse_format

CHIPS = st.sampled_from(sorted(HARDWARE))
PARAMETERS, TOKENS = (
    st.floats(math.log(low), math.log(high)).map(math.exp) for low, high in ((1e7, 1e12), (1e9, 1e14))
)


def choice(N: float, D: float, format: str, block: Block, hardware: str = "h200") -> Choice:
    (found,) = [
        item for item in plan_precision(N=N, D=D, hardware=hardware, blocks=[block]).choices if item.format == format
    ]
    return found


@pytest.mark.parametrize(("format", "trillions"), [("E8M7", 1730.4), ("E4M3", 27.33), ("E2M1", 0.393)])
def test_the_papers_critical_sizes(format: str, trillions: float):
    found = choice(1e9, 1e11, format, 128).critical_tokens
    assert found / 1e12 == pytest.approx(trillions, rel=1e-3)


@pytest.mark.parametrize(
    ("format", "trillions"),
    [("E4M3", (73.4, 59.2, 42.7, 23.2)), ("E2M1", (1.06, 0.850, 0.614, 0.333)), ("E5M2", (None, None, 30.3, None))],
)
def test_the_table_of_critical_sizes_at_7b(format: str, trillions: tuple[float | None, ...]):
    for block, expected in zip((16, 32, 128, "channel"), trillions, strict=True):
        if expected:
            assert choice(7e9, 2e12, format, block).critical_tokens / 1e12 == pytest.approx(expected, rel=5e-3)


def test_the_loss_of_an_example():
    plan = plan_precision(N=7e9, D=2e12, hardware="h200")
    found = choice(7e9, 2e12, "E2M1", 32)
    assert found.loss == pytest.approx(2.334308, abs=5e-7)
    assert plan.bf16_loss == pytest.approx(2.259775, abs=5e-7)
    assert found.added == pytest.approx(2.334308 - 2.259775, abs=1e-6)


@pytest.mark.parametrize(
    ("D", "bits"), [(1e10, 3.52), (1e11, 4.27), (1e12, 5.18), (1e13, 6.28), (1e14, 7.62), (1e15, 9.25)]
)
def test_the_table_of_bits_for_tokens(D: float, bits: float):
    (found,) = plan_precision(N=1e9, D=D, hardware="cpu", blocks=[128]).bits
    assert found.fixed_tokens == pytest.approx(bits, abs=6e-3)


@pytest.mark.parametrize(
    ("compute", "bits"),
    [(1e20, 3.95), (1e21, 4.19), (1e22, 4.45), (1e23, 4.72), (1e24, 5.01), (1e25, 5.31), (1e31, 7.58)],
)
def test_the_table_of_bits_for_compute(compute: float, bits: float):
    """However a budget is spent in BF16, the free optimum is the same."""
    for N in (math.sqrt(compute), math.sqrt(compute) / 30):
        (found,) = plan_precision(N=N, D=compute / (6 * N), hardware="cpu", blocks=[128]).bits
        assert found.free.bits == pytest.approx(bits, abs=6e-3)
        assert 6 / 16 * found.free.bits * found.free.N * found.free.D == pytest.approx(compute)


def test_bits_outside_the_runs_are_marked():
    (found,) = plan_precision(N=1e9, D=1e17, hardware="cpu", blocks=[128]).bits
    assert found.fixed_tokens > 10
    assert "tokens" in found.outside
    (found,) = plan_precision(N=1e8, D=2e10, hardware="cpu", blocks=[128]).bits
    assert found.outside == ()


@given(
    PARAMETERS,
    TOKENS,
    st.sampled_from(["E1M1", "E2M1", "E3M2", "E4M3", "E5M2"]),
    st.sampled_from([2, 16, 128, "channel"]),
)
def test_so_many_more_parameters_have_bf16s_loss(N: float, D: float, format: str, block: Block):
    grown = N * parameter_growth(D=D, format=format, block=block)
    assert CAPYBARA.loss(N=grown, D=D, format=format, block=block) == pytest.approx(
        CAPYBARA.bf16_loss(N=N, D=D), rel=1e-9
    )


@given(TOKENS, st.sampled_from([2, 16, 128, "channel"]))
def test_the_best_whole_bits_are_next_to_those_of_a_search(D: float, block: Block):
    """Least bits times parameters for BF16's loss, over all formats; and the closed form of real bits by a search of that product."""
    (found,) = plan_precision(N=1e9, D=D, hardware="cpu", blocks=[block]).bits
    formats = [f"E{E}M{M}" for E, M in itertools.product(range(1, 9), range(9)) if E + M <= 15]
    costs = {name: parse_format(name).bits * parameter_growth(D=D, format=name, block=block) for name in formats}
    assert costs[found.format] <= min(costs.values()) * (1 + 1e-12)

    def cost(bits: float) -> float:
        term = CAPYBARA.loss_at_bits(N=1, D=D, bits=bits, block=block) - CAPYBARA.bf16_loss(N=1, D=D)
        return math.log(bits) + math.log1p(term / CAPYBARA.n) / CAPYBARA.alpha

    search = minimize_scalar(cost, bounds=(1, 20), method="bounded")
    assert found.fixed_tokens == pytest.approx(search.x, abs=1e-3)


@settings(max_examples=50)
@given(PARAMETERS, TOKENS, CHIPS)
def test_what_holds_of_any_plan(N: float, D: float, hardware: str):
    plan = plan_precision(N=N, D=D, hardware=hardware)
    for item in plan.choices:
        assert item.added > 0
        assert item.growth > 1
        assert (item.critical_tokens < D) == (
            CAPYBARA.loss(N=N, D=D * 1.0001, format=item.format, block=item.block) > item.loss
        ) or item.critical_tokens == pytest.approx(D, rel=1e-3)
        assert item.cost >= 1 or item.native
    cheaper = [item for item in plan.choices if item.native and item.critical_tokens >= D and item.cost < 1]
    assert (plan.best is None) == (not cheaper)
    assert plan.best is None or plan.best.cost == min(item.cost for item in cheaper)


@settings(max_examples=25)
@given(PARAMETERS, TOKENS, CHIPS, st.floats(1.01, 100))
def test_coarser_blocks_and_more_tokens_cost_more_and_more_parameters_less(
    N: float, D: float, hardware: str, times: float
):
    rows = itertools.groupby(plan_precision(N=N, D=D, hardware=hardware).choices, key=lambda item: item.format)
    for _, row in rows:
        for fine, coarse in itertools.pairwise(row):
            assert coarse.added > fine.added
            assert coarse.critical_tokens < fine.critical_tokens
            assert coarse.growth > fine.growth
    before = plan_precision(N=N, D=D, hardware=hardware)
    for longer, larger, item in zip(
        plan_precision(N=N, D=D * times, hardware=hardware).choices,
        plan_precision(N=N * times, D=D, hardware=hardware).choices,
        before.choices,
        strict=True,
    ):
        assert longer.added > item.added
        assert longer.critical_tokens == item.critical_tokens
        assert larger.added < item.added
        assert larger.critical_tokens > item.critical_tokens
    after = plan_precision(N=N, D=D * times, hardware=hardware)
    assert all(b.fixed_tokens > a.fixed_tokens for a, b in zip(before.bits, after.bits, strict=True))


def test_four_bits_pay_where_tokens_are_few():
    short, long = (plan_precision(N=7e9, D=D, hardware="b200") for D in (1e11, 2e12))
    assert short.best is not None
    assert long.best is not None
    assert (short.best.format, short.best.block) == ("E2M1", 16)
    assert short.best.native is not None
    assert short.best.native.scale == "e4m3"
    assert (long.best.format, long.best.block) == ("E4M3", 32)


def test_what_a_chip_lacks_is_listed_and_emulated():
    for hardware, natives in HARDWARE.items():
        plan = plan_precision(N=1e8, D=2e10, hardware=hardware)
        listed = {item.format for item in plan.choices}
        assert {"E1M1", "E2M1", "E3M2", "E4M3", "E5M2", "E5M4", "E8M7"} <= listed
        pairs = {(item.native.format, item.block) for item in plan.choices if item.native}
        assert pairs == {(n.format, block) for n in natives for block in n.blocks if n.format not in plan.uncovered}
    assert plan_precision(N=1e8, D=2e10, hardware="a100").uncovered == ("E0M7",)
    assert plan_precision(N=1e8, D=2e10, hardware="cpu").best is None
    assert plan_precision(N=1e8, D=2e10, hardware="h200", blocks=[32]).best is None


def test_blocks_and_sizes_outside_the_runs_are_told():
    plan = plan_precision(N=1e8, D=2e10, hardware="h200", blocks=[16, 32, 512, 513, "channel", 32])
    assert plan.blocks == (16, 32, 512, 513, "channel")
    assert {item.block for item in plan.choices if item.outside and item.bits <= 10} == {16, 513}
    assert plan.outside == ()
    assert outside_runs(40_894_464, 50_000 * 2**21) == ()
    assert [line.split(" is ")[0] for line in outside_runs(1e6, 1e12)] == [
        "1.00M parameters",
        "1.00T tokens",
        "1.00M tokens a parameter",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"N": 0}, "params=0 must be 1 to 1e18"),
        ({"N": math.nan}, "params=nan must be 1 to 1e18"),
        ({"D": math.inf}, "tokens=inf must be 1 to 1e18"),
        ({"hardware": "tpu"}, "hardware='tpu' is not known; use one of h100, h200, b200, a100, cpu"),
        ({"blocks": ()}, "block=() names no block"),
        ({"blocks": ("tensor",)}, "block='tensor' is not covered by the law; use a number of elements or 'channel'"),
        ({"blocks": (1,)}, "block=1 costs no loss in the law, so no number of bits is best; use 2 or more"),
        ({"blocks": (-3,)}, "block=-3 must be 1 or more elements"),
    ],
)
def test_what_cannot_be_planned_is_told(change: dict[str, object], message: str):
    arguments: dict[str, object] = {"N": 1e9, "D": 1e11, "hardware": "h200"} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_precision(**arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("N", "D"), [*itertools.product((1.0, 1e18), (1.0, 1e18))])
def test_the_ends_of_what_is_allowed_have_finite_numbers(N: float, D: float):
    plan = plan_precision(N=N, D=D, hardware="b200")
    assert all(math.isfinite(item.growth) and math.isfinite(item.critical_tokens) for item in plan.choices)
    assert all(math.isfinite(b.fixed_parameters) and math.isfinite(b.free.bits) for b in plan.bits)
