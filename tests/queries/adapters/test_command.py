import sys
from pathlib import Path

import pytest

from tandem.queries import CommandCount, CountError, Prior, Region, Session, locate

REGION = Region([(0, 2), (5, 8)])


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import sys\n{code}"]


def test_the_command_reads_numbers_of_items():
    assert CommandCount(python("print(sum(map(int, sys.stdin)))"))(REGION) == 0 + 1 + 5 + 6 + 7


def test_the_command_reads_ranges():
    code = "print(sum(b - a for a, b in (map(int, line.split()) for line in sys.stdin)))"
    assert CommandCount(python(code), give="ranges")(REGION) == 5


def test_the_command_reads_lines():
    count = CommandCount(python("print(sys.stdin.read().count('b'))"), lines=["b", "a", "b", "b", "b", "bb", "a", "a"])
    assert count(REGION) == 3


def test_the_last_line_is_the_count_and_may_be_a_fraction():
    assert CommandCount(python("print('working'); print(' 2.5 '); print()"))(REGION) == 2.5
    assert isinstance(CommandCount(python("print('3.0')"))(REGION), int)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('disk is full')", "ended with exit code 1 and said 'disk is full'"),
        ("print(3); sys.exit(4)", "ended with exit code 4;"),
        ("print('three')", "printed 'three' as its last line, which is no number"),
        ("print('nan')", "printed 'nan'"),
        ("pass", "printed '' as its last line"),
    ],
)
def test_no_count_is_an_error_that_says_why(code: str, said: str):
    with pytest.raises(CountError) as caught:
        CommandCount(python(code))(REGION)
    assert said in str(caught.value)


def test_a_command_that_cannot_be_started_or_does_not_end():
    with pytest.raises(CountError, match="cannot be started: No such file"):
        CommandCount(["./no-such-program"])(REGION)
    with pytest.raises(CountError, match="took longer than"):
        CommandCount(python("import time; time.sleep(60)"), timeout=0.05)(REGION)


def test_an_empty_command_is_refused():
    with pytest.raises(ValueError, match="command is empty"):
        CommandCount([])


def test_a_region_larger_than_a_pipe_is_read_whole():
    assert CommandCount(["wc", "-l"])(Region([(0, 200_000)])) == 200_000


def test_it_drives_a_search(tmp_path: Path):
    words = [f"word{number}" for number in range(300)]
    words[41] = words[222] = "needle"
    count = CommandCount(python("print(sys.stdin.read().split().count('needle'))"), lines=words)
    assert locate(Session(Prior.uniform(300, k=2)), count) == (41, 222)
