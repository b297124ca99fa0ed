"""`tandem recipe`: what reaches the recipe, and mistakes in one line."""

from pathlib import Path

import pytest

from tandem.cli import main
from tandem.cli import recipe as verb
from tandem.recipes.twins import TwinsConfig


def test_options_reach_the_recipe(monkeypatch: pytest.MonkeyPatch):
    seen: list[TwinsConfig] = []
    monkeypatch.setattr(verb, "compare_twins", seen.append)
    options = "--data shards --seeds 2 --steps 5 --batch-tokens 64 --lr 1e-3 --device cpu --jobs 3 --against mamba"
    main(["recipe", "twins", *options.split()])
    assert seen == [
        TwinsConfig(
            data=Path("shards"),
            seeds=2,
            steps=5,
            batch_tokens=64,
            lr=1e-3,
            device="cpu",
            jobs=3,
            against=("mamba",),
        )
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["twins", "--seeds", "0"], "tandem recipe: seeds=0 is below 1"),
        (["twins", "--device", "gpu"], "tandem recipe: device='gpu' is not known; use auto, cpu, cuda or cuda:N"),
        (["twin"], "tandem recipe: "),
        (["twins", "--sedes", "1"], "tandem recipe: "),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["recipe", *options])
    assert left.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
