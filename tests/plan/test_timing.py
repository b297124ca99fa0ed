"""The fit against times made by formula; the measurement itself on shapes small enough for a test."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.nn import TransMambaConfig, preset
from tandem.ops import fastest_dtype
from tandem.plan import TransPointCost, measure_transpoints
from tandem.plan.timing import fit_cost

LENGTHS = (64, 128, 256, 512)


@given(st.floats(1e-9, 1e-3), st.floats(1e-9, 1e-3), st.floats(0, 1e-3), st.floats(1e-9, 1e-3), st.floats(1e-9, 1e-3))
def test_times_of_the_model_are_found_again(square: float, scan: float, linear: float, conversion: float, gate: float):
    seconds = {
        "attention": {n: linear * n + square * n * n for n in LENGTHS},
        "converter": {n: conversion * n for n in LENGTHS},
        "scan": {n: scan * n for n in LENGTHS},
        "gate": {n: gate * n for n in LENGTHS},
    }
    cost = fit_cost(TransPointCost(width=192, context=512), seconds)
    for point in (0, 100, 511):
        expected = square * point**2 + (linear + conversion) * point + (scan + gate) * (512 - point)
        assert cost.layer(point) == pytest.approx(expected, rel=1e-4)
    assert cost.attention == pytest.approx(linear * 512 + square * 512**2, rel=1e-4)
    turning = (scan + gate - linear - conversion) / (2 * square)
    if 1 < turning < 500:
        assert cost.optimum == pytest.approx(turning, rel=1e-2) or cost.optimum == 512


def test_speed_is_that_of_the_paper():
    """Attention of an operation of the formula in 1 ns, the SSM in 2.67 ns."""
    seconds = {
        "attention": {n: 1e-9 * n * n * 1536 for n in LENGTHS},
        "converter": dict.fromkeys(LENGTHS, 1e-12),
        "scan": {n: 2.67e-9 * n * 1536**2 for n in LENGTHS},
    }
    cost = fit_cost(TransPointCost(width=1536, context=8192), seconds)
    assert cost.speed == pytest.approx(2.67)
    assert cost.optimum == pytest.approx(2050.56, rel=1e-3)


def test_times_that_fall_with_the_length_still_give_a_cost():
    """A burst of noise while the short text was timed; without a bound attention would get a negative part."""
    seconds = {
        "attention": {64: 1.0, 128: 1.1, 256: 1.2, 512: 1.3},
        "converter": dict.fromkeys(LENGTHS, 0.1),
        "scan": dict.fromkeys(LENGTHS, 1.0),
    }
    cost = fit_cost(TransPointCost(width=192, context=512), seconds)
    assert cost.overhead == 0
    assert 0 < cost.speed < math.inf


@pytest.mark.parametrize("gate", ["ssm", "both"])
def test_a_measurement_times_every_operation_at_every_length(gate: str):
    shape = TransMambaConfig(heads=2, groups=1, head_width=8, state=8, chunk=16, gate=gate)
    config = preset("transmamba-nano").replace(transmamba=shape, width=16, pattern="T", ffn=None)
    before = torch.get_rng_state()
    measured = measure_transpoints(config, context=128)
    assert set(measured.seconds) == {"attention", "converter", "scan"} | ({"gate"} if gate == "ssm" else set())
    assert all(set(times) == {16, 32, 64, 128} for times in measured.seconds.values())
    assert all(time > 0 for times in measured.seconds.values() for time in times.values())
    assert (measured.device, measured.dtype, measured.skipped) == (
        "cpu",
        str(fastest_dtype()).removeprefix("torch."),
        (),
    )
    speeds = [cost.speed for cost in measured.in_rounds]
    assert len(speeds) == 5
    assert 0 < min(speeds) < max(speeds)
    assert torch.equal(before, torch.get_rng_state())


def test_long_texts_are_left_out_when_there_is_no_time_but_two_lengths_stay():
    measured = measure_transpoints(preset("transmamba-nano"), context=256, seconds=1e-3)
    assert list(measured.seconds["attention"]) == [64, 128]
    assert measured.skipped == (256,)
    assert measured.cost.context == 256


@pytest.mark.parametrize(("context", "seconds"), [(15, 1.0), (64, 0.0), (64, -1.0)])
def test_no_time_and_no_text_are_refused(context: int, seconds: float):
    with pytest.raises(ValueError, match=rf"context={context} must be 16 or more and seconds={seconds} above 0"):
        measure_transpoints(preset("transmamba-nano"), context=context, seconds=seconds)
