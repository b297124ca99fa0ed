"""The plot and the units it is labeled with."""

from pathlib import Path

import pytest
from PIL import Image

from tandem.nn import ModelConfig, preset
from tandem.plan import (
    counted_cost,
    measure_transpoints,
    paper_cost,
    plan_precision,
    precision_figure,
    readable_bytes,
    state_figure,
    transpoints_figure,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (17920, "17.5 KiB"),
        (114 * 2**20, "114 MiB"),
        (2**50, "1 PiB"),
        (2**70, "1.049e+06 PiB"),
    ],
)
def test_readable_bytes(count: int, text: str):
    assert readable_bytes(count) == text


@pytest.mark.parametrize(
    "config",
    [
        preset("turbos-560b"),
        preset("nano").replace(pattern="AF", mamba=None),
        preset("nano").replace(pattern="MF", attention=None),
        preset("transmamba-nano"),
    ],
    ids=["hybrid", "attention only", "mamba only", "transmamba"],
)
def test_the_figure_is_a_picture_for_every_kind_of_model(config: ModelConfig, tmp_path: Path):
    path = state_figure(config, tmp_path / "new" / "plan.png", title="x", context=32_768)
    with Image.open(path) as image:
        assert image.width > 800
        assert len(image.getcolors(1 << 24)) > 20


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_the_cost_of_a_transpoint_is_drawn_with_and_without_a_measurement(seconds: float, tmp_path: Path):
    config = preset("transmamba-nano")
    measured = measure_transpoints(config, context=128, seconds=seconds) if seconds else None
    costs = paper_cost(config, 128), counted_cost(config, 128)
    path = transpoints_figure(
        tmp_path / "new" / "curve.png", *costs, measured, title="x", transpoints=config.transpoints
    )
    with Image.open(path) as image:
        assert image.width > 800
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24) or ()}
    # Blue and green curves are always there, the rust of the measurement where there is one.
    assert {(0x1F, 0x5F, 0x8B), (0x3F, 0x8F, 0x74)} <= colors
    assert ((0xB3, 0x54, 0x1E) in colors) == bool(seconds)


@pytest.mark.parametrize(("hardware", "blocks"), [("h200", (16, 32, 128, "channel")), ("cpu", (*range(2, 10),))])
def test_what_a_format_costs_is_drawn(hardware: str, blocks: tuple[int | str, ...], tmp_path: Path):
    """More blocks than colors, and a chip without formats, too; the runs behind the law are gray."""
    plan = plan_precision(N=7e9, D=2e12, hardware=hardware, blocks=blocks)
    path = precision_figure(plan, tmp_path / "new" / "precision.png")
    with Image.open(path) as image:
        assert image.width > 1600
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0x1F, 0x5F, 0x8B), (0x3F, 0x8F, 0x74), (0xB3, 0x54, 0x1E), (0xCC, 0xCC, 0xCC)} <= colors
