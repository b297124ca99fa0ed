"""The cost of a TransPoint against the paper's published numbers, closed forms and a search over all TransPoints."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.nn import SCHEDULES, DenseConfig, ModelConfig, TransMambaConfig, preset
from tandem.plan import (
    TransPointCost,
    counted_cost,
    memory,
    named_schedules,
    paper_cost,
    switching_layers,
)

PAPER = TransPointCost(width=1536, context=8192)


def test_the_papers_example():
    """§3.3 says 2.29 and 1.14 for T = 8K and N = 4K."""
    example = TransPointCost(width=4096, context=8192)
    assert example.optimum == 2048
    assert example.least == 8192 * 4096**2 - 4096**3 / 4
    assert example.attention / example.least == pytest.approx(2.286, abs=5e-4)
    assert example.mamba / example.least == pytest.approx(1.143, abs=5e-4)


def test_the_papers_table_of_operations():
    """Table 5 prints 10.51, 2.01, 6.26 and 1.91 · 10¹⁰ for 8,192 tokens, which is a width of 1,566; V9 is our own sum."""
    cost = TransPointCost(width=1566, context=8192)
    found = cost.attention, cost.mamba, cost.schedule(SCHEDULES["hybrid"]), cost.least
    assert found == pytest.approx((10.51e10, 2.01e10, 6.26e10, 1.91e10), rel=5e-3)
    assert cost.schedule(SCHEDULES["v9"]) == pytest.approx(3.26e10, rel=2e-3)
    assert PAPER.schedule(SCHEDULES["v9"]) == pytest.approx(3.17e10, rel=1e-3)
    assert PAPER.attention == pytest.approx(10.31e10, rel=1e-3)


def test_the_papers_measured_optimum_and_times():
    """2.67 operations of attention in the time of one of Mamba's; the rest of a layer calibrated on Mamba's time of 0.77."""
    measured = TransPointCost(width=1536, context=8192, speed=2.67)
    assert measured.optimum == pytest.approx(2050.56)
    rest = (0.77 * measured.attention - measured.mamba) / (1 - 0.77)
    relative = {
        name: (rest + measured.schedule(SCHEDULES[name])) / (rest + measured.attention)
        for name in ("attention", "mamba", "v1", "v5", "v6", "v8", "v9")
    }
    published = {"attention": 1, "mamba": 0.77, "v1": 0.741, "v5": 0.753, "v6": 0.749, "v8": 0.823, "v9": 0.79}
    assert relative == pytest.approx(published, abs=1e-3)


COSTS = st.builds(
    TransPointCost,
    width=st.integers(1, 300),
    context=st.integers(1, 300),
    speed=st.floats(0.05, 20),
    overhead=st.floats(0, 2),
    conversion=st.floats(0, 2),
    unit=st.floats(1e-9, 10),
)


@given(COSTS)
def test_no_transpoint_costs_less_than_the_optimum(cost: TransPointCost):
    costs = [cost.layer(point) for point in range(cost.context + 1)]
    assert cost.least <= min(costs) * (1 + 1e-9)
    assert 0 <= cost.optimum <= cost.context
    # A whole number of tokens next to it is as good as any.
    near = {min(max(0, int(cost.optimum) + step), cost.context) for step in (0, 1)}
    assert min(cost.layer(point) for point in near) == pytest.approx(min(costs), rel=1e-9)


@given(COSTS)
def test_the_cost_is_a_parabola_within_the_sequence_and_flat_beyond(cost: TransPointCost):
    inside = [cost.layer(point) for point in range(cost.context)]
    bends = [after - before for before, after in pairwise([b - a for a, b in pairwise(inside)])]
    assert bends == pytest.approx(
        [2 * cost.unit * cost.width / cost.speed] * len(bends), rel=1e-3, abs=1e-6 * cost.mamba
    )
    assert cost.layer(cost.context + 7) == cost.attention
    assert cost.schedule([0, cost.context]) == pytest.approx((cost.mamba + cost.attention) / 2)


def test_a_sequence_that_never_switches_converts_nothing():
    cost = TransPointCost(width=10, context=10, conversion=0.5)
    assert cost.attention == TransPointCost(width=10, context=10).attention
    assert cost.layer(9) == TransPointCost(width=10, context=10).layer(9) + 0.5 * 9 * 10**2
    # Were it not for that, the best would be to switch at 5 (1 - ½) / 2.
    assert TransPointCost(width=40, context=10, conversion=0.3).optimum == 10


def test_counted_operations_of_the_papers_shape():
    """With heads and state of 128, chunks of 128 and N = 1,536 a token behind costs 4.9 N² with its gate, a pair 2.7 N."""
    cost = counted_cost(preset("transmamba-400m"), 8192)
    assert cost.speed == pytest.approx(4 / 3)
    assert cost.conversion == 1 / 16
    assert cost.mamba == 8192 * (2 * 128 * 4096 + 4 * 2048 * 128 + 2 * 1536 * 2048)
    assert cost.attention == (2048 + 2048) * 8192 * 8193


def test_named_schedules_are_cycles_for_the_context():
    assert named_schedules(8192) == SCHEDULES
    assert named_schedules(512)["v9"] == (0, 8, 16, 32, 64, 128, 256, 512)


def test_layers_say_where_they_stand_and_what_they_keep():
    config = ModelConfig(
        vocab_size=8,
        width=16,
        pattern="TFFTT",
        transmamba=TransMambaConfig(heads=4, groups=2, head_width=8, state=16, schedule=(0, 10, 99), cache="convert"),
        ffn=DenseConfig(hidden=8),
    )
    layers = switching_layers(config, 64)
    assert [layer.layer for layer in layers] == [0, 3, 4]
    assert [layer.transpoint for layer in layers] == [0, 10, 99]
    assert [layer.operations for layer in layers] == [64 * 256, 100 * 16 + 54 * 256, 64 * 64 * 16]
    assert [layer.kv_bytes for layer in layers] == [n * (2 * 2 * 16 * 2 + 4 * 4) for n in (0, 10, 64)]
    assert sum(layer.state_bytes for layer in layers) == memory(config).sequence(1_000)


@pytest.mark.parametrize("plan", [paper_cost, counted_cost, switching_layers])
def test_a_model_without_transmamba_is_refused(plan: object):
    assert callable(plan)
    with pytest.raises(ValueError, match="has no T layers, so there are no TransPoints to plan"):
        plan(preset("nano"), 512)
