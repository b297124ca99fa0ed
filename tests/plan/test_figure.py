"""The plot and the units it is labeled with."""

from pathlib import Path

import pytest
from PIL import Image

from tandem.nn import ModelConfig, preset
from tandem.plan import readable_bytes, state_figure


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
    ],
    ids=["hybrid", "attention only", "mamba only"],
)
def test_the_figure_is_a_picture_for_every_kind_of_model(config: ModelConfig, tmp_path: Path):
    path = state_figure(config, tmp_path / "new" / "plan.png", title="x", context=32_768)
    with Image.open(path) as image:
        assert image.width > 800
        assert len(image.getcolors(1 << 24)) > 20
