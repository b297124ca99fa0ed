from pathlib import Path

import pytest

import tandem
from tandem.cli.main import main

pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")


def test_it_says_what_was_written_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "nano", str(tmp_path / "nano"), "--to", "transformers", "--dtype", "float32"])
    first, hint, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'nano'}: tandem, 40.")
    assert hint.endswith("it loads there after `import tandem.hub.transformers`")
    assert "what transformers reads as tandem: logits differ by" in second
    assert next(tandem.load(tmp_path / "nano").model.parameters()).itemsize == 4
