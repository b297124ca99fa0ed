"""`tandem plan precision` as it is typed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tandem.cli.main import main

EXAMPLE = ("plan", "precision", "--params", "7e9", "--tokens", "2e12", "--hardware")


def test_the_tables_have_the_laws_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([*EXAMPLE, "h200", "--out", str(tmp_path / "new" / "p.png")])
    text = capsys.readouterr().out
    for part in (
        "7.00B parameters, 2.00T tokens: 2.2598 nats",
        "advice: ocp:e4m3fn, float32 scales for 128 numbers",
        "native: 128, channel",
        "emulated",
        "0.075",  # E2M1 with 32 numbers: 2.334308 - 2.259775
        "613.85B!",
        "42.70T",
        "7.00B parameters is an extrapolation: the law's runs had 40.89M to 679.48M",
        "(P2, P4)",
    ):
        assert part in text
    with Image.open(tmp_path / "new" / "p.png") as image:
        assert image.width > 1600


def test_json_has_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main([*EXAMPLE, "b200", "--json", "--block", "32", "channel", "--plot", str(tmp_path / "p.png")])
    plan = json.loads(capsys.readouterr().out)
    assert plan["blocks"] == [32, "channel"]
    assert plan["best"]["native"] == {"format": "ocp:e4m3fn", "blocks": [32], "scale": "e8m0", "speed": 2}
    (found,) = [row for row in plan["choices"] if (row["format"], row["block"]) == ("E2M1", 32)]
    assert found["loss"] == pytest.approx(2.334308, abs=5e-7)
    assert found["cost"] == pytest.approx(found["growth"] / 4)
    assert [bits["block"] for bits in plan["bits"]] == [32, "channel"]
    assert Path(plan["figure"]).stat().st_size > 10_000
    assert len(plan["outside"]) == 2


def test_a_training_like_the_laws_runs_is_no_extrapolation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--params", "1e8", "--tokens", "2e10", "--out", str(tmp_path / "p.png")]
    main(["plan", "precision", *options, "--hardware", "a100"])
    text = capsys.readouterr().out
    assert "extrapolation" not in text
    assert "advice: BF16" in text
    assert "a100 multiplies E0M7 too, which the law does not cover" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*EXAMPLE, "tpu"), "--hardware='tpu' is no choice; use one of 'h100', 'h200', 'b200', 'a100', 'cpu'"),
        ((*EXAMPLE, "h200", "--block", "tensor"), "block='tensor' is not covered by the law; use a number"),
        ((*EXAMPLE, "h200", "--block", "1"), "block=1 costs no loss in the law"),
        ((*EXAMPLE, "h200", "--tokens", "-1"), "tokens=-1.0 must be 1 to 1e18"),
        ((*EXAMPLE, "h200", "--params", "many"), "--params='many' is not a number; give one"),
        (("plan", "precision", "--params", "1e9"), "--tokens FLOAT, --hardware {h100,h200,b200,a100,cpu} is missing"),
    ],
)
def test_a_mistake_is_one_line(options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        main(options)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error.count("\n") == 1
    assert message in error
