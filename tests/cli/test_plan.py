"""`tandem plan model` as it is typed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tandem.cli.main import main
from tandem.nn import preset


def test_turbos_in_json_has_the_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "plan.png"
    main(["plan", "model", "turbos-560b", "--json", "--out", str(out), "--context", "262144"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["total"] / 1e9 == pytest.approx(558.15, abs=0.01)
    assert plan["parameters"]["active"] / 1e9 == pytest.approx(56.09, abs=0.01)
    assert plan["memory"]["kv_per_token"] == 17_920
    assert plan["memory"]["ssm_per_sequence"] == 114 * 2**20
    assert plan["context"] == 262_144
    assert plan["figure"] == str(out)
    assert out.stat().st_size > 10_000


def test_the_tables_show_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["plan", "model", "turbos-560b", "--out", str(tmp_path / "plan.png"), "--parallel.tensor", "8"])
    text = capsys.readouterr().out
    for part in ("558.15B", "56.09B", "17.5 KiB", "114 MiB", "838 tokens", "tensor 8"):
        assert part in text


def test_a_config_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"
    path.write_text(preset("nano").to_json())
    main(["plan", "model", str(path), "--json", "--out", str(tmp_path / "plan.png")])
    assert json.loads(capsys.readouterr().out)["config"] == preset("nano").to_dict()


def test_transpoints_show_the_published_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "curve.png"
    main(["plan", "model", "transmamba-400m", "--transpoints", "--seconds", "0", "--out", str(out)])
    text = capsys.readouterr().out
    # Transformer ÷ F* and Mamba ÷ F* of the paper, the mean of V9, the optimum N / 2; keys and values of 8,192 tokens.
    for part in ("2.286", "1.143", "3.171e+10", "768", "8,192 (never)", "64 MiB", "1.035 MiB", "this model (v9)"):
        assert part in text
    assert "measured" not in text
    with Image.open(out) as image:
        assert image.width > 800


def test_transpoints_in_json_have_the_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--transpoints", "--json", "--seconds", "0.01", "--context", "256", "--device", "cpu"]
    main(["plan", "model", "transmamba-nano", *options, "--out", str(tmp_path / "curve.png")])
    plan = json.loads(capsys.readouterr().out)
    assert [layer["transpoint"] for layer in plan["layers"]] == [0, 8, 16, 32, 64, 128, 256, 512]
    assert plan["schedules"]["v9"]["transpoints"] == [0, 4, 8, 16, 32, 64, 128, 256]
    assert set(plan["costs"]) == {"example", "formula", "counted", "measured"}
    assert plan["costs"]["example"]["attention_to_least"] == pytest.approx(2.286, abs=5e-4)
    assert plan["costs"]["formula"]["optimum"] == 96
    measured, found = plan["measurement"], plan["costs"]["measured"]
    assert measured["speed_range"][0] <= found["speed"] * 1.5
    assert measured["device"] == "cpu"
    assert plan["schedules"]["v9"]["to_attention"]["measured"] > 0
    assert Path(plan["figure"]).stat().st_size > 10_000


def test_a_list_of_transpoints_is_shown_as_the_models_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"
    path.write_text(preset("transmamba-nano").rescheduled([1, 2, 3, 5, 8, 13, 21, 600]).to_json())
    main(["plan", "model", str(path), "--transpoints", "--seconds", "0", "--out", str(tmp_path / "curve.png")])
    text = capsys.readouterr().out
    assert "this model (its own)" in text
    assert "600 (never)" in text


def test_a_transmamba_model_is_planned_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["plan", "model", "transmamba-400m", "--out", str(tmp_path / "plan.png")])
    text = capsys.readouterr().out
    for part in ("818.62M", "transmamba", "the same after 8,192 tokens", "smaller than that from"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["nano", "--transpoints"],
            "model.pattern='(MF)2 AMF (MF)2' has no T layers, so there are no TransPoints to plan",
        ),
        (["transmamba-nano", "--transpoints", "--seconds", "-1"], "seconds=-1.0 above 0"),
        (["transmamba-nano", "--transpoints", "--seconds", "nan"], "seconds=nan above 0"),
        (["transmamba-nano", "--transpoints", "--device", "tpu"], "device='tpu'"),
        (["transmamba-nano", "--transpoints", "--context", "8"], "context=8 must be 16 or more"),
    ],
)
def test_transpoints_that_cannot_be_planned_are_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", *options])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "MFX"}, "model.pattern='MFX' at character 3 has no layer called 'X'"),
        ({"widht": 3}, "model.widht is not a known key"),
        ({"attention": {"heads": 5, "kv_heads": 2, "head_width": 64}}, "kv_heads=2 does not divide attention.heads=5"),
    ],
)
def test_a_bad_config_file_is_one_line(
    change: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(preset("nano").to_dict() | change))
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", str(path)])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error.count("\n") == 1
    assert message.removeprefix("model.") in error


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 200_000, bytes(range(256))])
def test_a_file_that_is_no_config_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", str(path)])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error.count("\n") == 1
    assert f"model={path} is " in error


@pytest.mark.parametrize("name", ["plan", "plan.doc", "."])
def test_a_plot_that_is_no_picture_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", "nano", "--out", str(tmp_path / name)])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error == f"tandem plan: out={tmp_path / name} does not end as a picture does; use .png, .svg or .pdf\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", str(tmp_path / "absent.json")])
    assert exit_info.value.code == 2
    assert "absent.json" in capsys.readouterr().err


def test_context_must_be_positive(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", "nano", "--context", "-5"])
    assert exit_info.value.code == 2
    assert "--context=-5" in capsys.readouterr().err
