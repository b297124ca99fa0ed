"""Real test runs: the example of the documentation, and tests that fail alone or beside one another."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tandem.queries import (
    CommandCount,
    CountError,
    FailingChanges,
    FailingTests,
    Found,
    Prior,
    Region,
    Session,
    locate,
    locate_or_ddmin,
    pytest_failures,
)

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "locate"


@pytest.fixture(autouse=True)
def _without_plugins(monkeypatch: pytest.MonkeyPatch):
    """A run of the example then starts in half the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "locate", ignore=shutil.ignore_patterns("applied.txt")))


def apply_in(directory: Path, region: Region) -> None:
    (directory / "applied.txt").write_text("\n".join(map(str, region)))


def test_changes_that_break_a_test_each_are_found(example: Path):
    count = FailingChanges(lambda region: apply_in(example, region), ["test_prices.py"], example)
    session = Session(Prior.uniform(24, k=count(Region([(0, 24)]))), seed=0)
    assert locate_or_ddmin(session, count) == Found((2, 13, 20), additive=True)


def test_the_same_through_a_command(example: Path):
    count = CommandCount([sys.executable, "-B", str(example / "count.py"), "test_prices.py"])
    assert locate(Session(Prior.uniform(24, k=3), seed=0), count) == (2, 13, 20)


@pytest.mark.slow
def test_changes_that_break_a_test_together_are_found_by_ddmin(example: Path):
    count = FailingChanges(lambda region: apply_in(example, region), ["test_basket.py"], example)
    session = Session(Prior.uniform(24, k=count(Region([(0, 24)]))), seed=0)
    assert locate_or_ddmin(session, count) == Found((5, 17), additive=False)


def test_a_test_that_fails_only_after_another_is_found_by_ddmin(tmp_path: Path):
    """The order of the file: test_1 leaves something behind that test_3 stumbles over."""
    body = "".join(f"def test_{number}(): left.add({number}); assert not {{1, 3}} <= left\n" for number in range(4))
    (tmp_path / "test_order.py").write_text("left = set()\n" + body)
    count = FailingTests([f"test_order.py::test_{number}" for number in range(4)], directory=tmp_path)
    assert locate_or_ddmin(Session(Prior.uniform(4, k=1)), count) == Found((1, 3), additive=False)


def test_a_subset_of_tests_is_counted(tmp_path: Path):
    body = "".join(f"def test_{number}(): assert {number} not in (2, 5)\n" for number in range(8))
    (tmp_path / "test_numbers.py").write_text(body + "import pytest\n@pytest.fixture\ndef broken(): raise OSError\n")
    with open(tmp_path / "test_numbers.py", "a") as file:
        file.write("def test_8(broken): pass\n")
    count = FailingTests([f"test_numbers.py::test_{number}" for number in range(9)], directory=tmp_path)
    assert count(Region([(0, 9)])) == 3
    assert count(Region([(0, 5)])) == 1
    assert count(Region()) == 0


def test_a_run_that_cannot_start_is_no_count(tmp_path: Path):
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    with pytest.raises(CountError, match="pytest ended with exit code 2"):
        pytest_failures(["test_broken.py"], tmp_path)
    with pytest.raises(CountError, match="exit code 4"):
        pytest_failures(["test_absent.py"], tmp_path)
    assert os.listdir(tmp_path) == ["test_broken.py"]
