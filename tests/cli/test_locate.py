"""`tandem locate` as it is typed."""

import csv
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from tandem.cli.main import main
from tandem.queries import Prior, Region, Session

NEEDLES = ("--", "sh", "-c", "grep -c needle || true")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("".join("needle\n" if line in (3, 77) else f"hay{line}\n" for line in range(200)))
    return path


def test_lines_are_found_kept_and_drawn(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    session, plot = tmp_path / "s.json", tmp_path / "search.png"
    options = ["locate", "command", "--lines", str(words), "--session", str(session)]
    main([*options, "--plot", str(plot), *NEEDLES])
    assert capsys.readouterr().out == "3\tneedle\n77\tneedle\n"
    with Image.open(plot) as image:
        assert image.width > 800
    # A search that is over asks only for the confirmation.
    main([*options, *NEEDLES])
    assert capsys.readouterr().out == "3\tneedle\n77\tneedle\n"


def test_a_command_that_fails_leaves_the_session(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    session = tmp_path / "s.json"
    options = [
        "locate",
        "command",
        "--lines",
        str(words),
        "--session",
        str(session),
        "--objects",
        "2",
        "--",
        "sh",
        "-c",
    ]
    # It works for two questions, then its file of marks is full.
    marks = tmp_path / "marks"
    once = f"test $(cat {marks} 2>/dev/null | wc -l) -lt 2 || exit 9; echo >> {marks}; grep -c needle || true"
    with pytest.raises(SystemExit) as left:
        main([*options, once])
    assert left.value.code == 2
    assert "ended with exit code 9" in capsys.readouterr().err
    before = session.read_bytes()
    with pytest.raises(SystemExit):
        main([*options, "exit 9"])
    assert session.read_bytes() == before
    main([*options, "grep -c needle || true"])
    assert capsys.readouterr().out == "3\tneedle\n77\tneedle\n"


def test_rows_that_a_table_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    database, rows = tmp_path / "people.db", tmp_path / "new.csv"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO people VALUES (?, '')", [(7,), (430,)])
    connection.close()
    with open(rows, "w", newline="") as file:
        csv.writer(file).writerows([("id", "name"), *((number, f"n{number}") for number in range(1, 501))])
    before = database.read_bytes()
    main(["locate", "sqlite", "--database", str(database), "--table", "people", "--rows", str(rows)])
    assert capsys.readouterr().out == "6\t7,n7\n429\t430,n430\n"
    assert database.read_bytes() == before


def test_items_that_count_only_together(capsys: pytest.CaptureFixture[str]):
    both = ("--", "sh", "-c", 'test $(grep -cE "^(3|20)$") = 2 && echo 1 || echo 0')
    with pytest.raises(SystemExit):
        main(["locate", "command", "--items", "32", *both])
    assert "counts do not add up" in capsys.readouterr().err
    main(["locate", "command", "--items", "32", "--ddmin", *both])
    assert capsys.readouterr().out == "3\n20\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["command", "--items", "4"], "command is missing; give it after --"),
        (["command", "--", "true"], "give one of --items and --lines"),
        (["sqlite"], "--database PATH, --table STR, --rows PATH is missing"),
        (["command", "--items", "4", "--objects", "-1", "--", "true"], "objects=-1 is no number of objects"),
        (
            ["command", "--items", "4", "--objects", "99999", "--", "true"],
            "objects=99999 is more than a search can follow, 1,029",
        ),
    ],
)
def test_mistakes_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["locate", *argv])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read (No such file or directory)"), (b"a\n\xff\n", "is not UTF-8 (byte 2)")]
)
@pytest.mark.parametrize("field", ["lines", "rows"])
def test_files_that_are_no_text_are_named(
    field: str, content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "given"
    if content is not None:
        path.write_bytes(content)
    (tmp_path / "p.db").touch()
    of_rows = ["locate", "sqlite", "--database", str(tmp_path / "p.db"), "--table", "t", "--rows", str(path)]
    with pytest.raises(SystemExit) as left:
        main(["locate", "command", "--lines", str(path), *NEEDLES] if field == "lines" else of_rows)
    assert left.value.code == 2
    assert f"{field}={path} {said}" in capsys.readouterr().err


def test_wrong_answers_are_diagnosed_and_can_be_retracted(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    session, answers = tmp_path / "s.json", tmp_path / "answers"
    options = ["locate", "command", "--lines", str(words), "--objects", "2", "--session", str(session)]
    # The third answer is false where the truth differs from it: of two objects, all or none of those there.
    lie = f"n=$(grep -c needle || true); echo >> {answers}; [ $(wc -l < {answers}) -ne 3 ] || n=$(( n == 2 ? 1 : n + 1 )); echo $n"
    with pytest.raises(SystemExit) as left:
        main([*options, "--", "sh", "-c", lie])
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"tandem locate retract {session} N" in said
    before = session.read_bytes()
    for wrong in ("-1", "3", "0.5"):
        with pytest.raises(SystemExit) as left:
            main([*options, "--", "sh", "-c", f"echo {wrong}"])
        assert left.value.code == 2
        assert f"answer={wrong} about 2 objects is impossible" in capsys.readouterr().err
    assert session.read_bytes() == before
    main(["locate", "answers", str(session)])
    assert capsys.readouterr().out.splitlines()[2].startswith("3\t")
    answered = Session.load(session).questions
    main(["locate", "retract", str(session), "3"])
    assert Session.load(session).questions == answered - 1
    main([*options, *NEEDLES])
    assert capsys.readouterr().out == "3\tneedle\n77\tneedle\n"


def test_a_contradiction_names_the_questions(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The file says that both objects are in the first half; a command that counts 2 in every other set cannot be right."""
    path = tmp_path / "s.json"
    session = Session(Prior.uniform(200, k=2))
    session.posterior = session.posterior.given(Region([(0, 100)]), 2).given(Region([(50, 150)]), 0)
    session._queue = [Region([(100, 120), (140, 200)])]
    session.save(path)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["locate", "command", "--lines", str(words), "--session", str(path), "--", "sh", "-c", "echo 1"])
    assert left.value.code == 2
    assert "the answers to questions 1, 3 cannot all be true" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_budget_stops_and_says_what_is_open(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    session = tmp_path / "s.json"
    options = ["locate", "command", "--lines", str(words), "--objects", "2", "--session", str(session)]
    with pytest.raises(SystemExit) as left:
        main([*options, "--max-questions", "3", *NEEDLES])
    assert left.value.code == 1
    assert "not done after 3 questions, stopped by questions" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([*options, "--max-seconds", "0", *NEEDLES])
    assert left.value.code == 1
    assert "stopped by seconds" in capsys.readouterr().err
    main([*options, *NEEDLES])
    assert capsys.readouterr().out == "3\tneedle\n77\tneedle\n"


@pytest.mark.parametrize(("objects", "policy"), [(16, "HalfGreedyPolicy"), (17, "SequentialBifurcation")])
def test_many_objects_are_bisected(objects: int, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    session = tmp_path / "s.json"
    options = ["locate", "command", "--items", "64", "--objects", str(objects), "--session", str(session)]
    counts = f"awk '$1 % 3 == 0 && $1 < {3 * objects}' | wc -l"
    if objects == 17:
        main([*options, "--", "sh", "-c", counts])
        assert capsys.readouterr().out.split() == [str(3 * i) for i in range(17)]
    else:
        with pytest.raises(SystemExit):
            main([*options, "--max-questions", "1", "--", "sh", "-c", counts])
    assert type(Session.load(session).policy).__name__ == policy
