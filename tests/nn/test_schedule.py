"""Schedules of TransPoints: Table 6 of the paper, its mean, and scaling to other lengths."""

import pytest

from tandem.nn import SCHEDULE_LENGTH, SCHEDULES, preset, transpoints


def test_v9_is_the_papers_and_switches_on_average_after_2032_tokens():
    assert transpoints("v9", 8) == (0, 128, 256, 512, 1024, 2048, 4096, 8192)
    assert sum(SCHEDULES["v9"]) / 8 == 2032


@pytest.mark.parametrize("length", [64, 512, 4096, 65_536])
def test_v9_scales_to_halves_of_a_length(length: int):
    assert transpoints("v9", 8, length) == (0, *(length // 2**k for k in range(6, -1, -1)))


def test_a_cycle_repeats_over_the_layers():
    assert transpoints("v4", 5) == (3072, 4096, 5120, 3072, 4096)
    assert preset("transmamba-400m").transpoints[8:] == (0, 128, 256, 512)


def test_every_schedule_stays_within_its_length():
    assert all(0 <= point <= SCHEDULE_LENGTH for cycle in SCHEDULES.values() for point in cycle)


@pytest.mark.parametrize(
    ("schedule", "layers", "length", "message"),
    [
        ("v10", 8, 512, "schedule='v10' is unknown; use one of attention, mamba, hybrid, v1"),
        ([0, -4], 2, 512, "has the TransPoint -4; use 0"),
        ([0, 4, 8], 2, 512, "has 3 TransPoints for 2 T layers; give one a layer"),
        ("v9", 8, 0, "schedule_length=0 must be 1 or more"),
    ],
)
def test_mistakes_are_named(schedule: str | list[int], layers: int, length: int, message: str):
    with pytest.raises(ValueError, match=message):
        transpoints(schedule, layers, length)
