"""`tandem plan model` as it is typed."""

import json
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_no_config_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "model", str(path)])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


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
