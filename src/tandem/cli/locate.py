"""`tandem locate`: k items found by asking an oracle how many of them are in a set."""

import csv
import io
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import tyro

from tandem.cli.arguments import parse_command
from tandem.queries import (
    MOST_OBJECTS,
    AdditivityError,
    CommandCount,
    Count,
    HalfGreedyPolicy,
    InsertCount,
    Posterior,
    Prior,
    Region,
    SequentialBifurcation,
    Session,
    Standing,
    confirm,
    ddmin,
    search,
)
from tandem.report import atomic_path, png, progress, search_figure

# With more objects the exact table of half-greedy grows past what a question is worth waiting for.
_COMFORTABLE = 16
_UNFINISHED = 1  # exit code of a search that its budget stopped
_RANGES = 20  # of a question that `answers` shows
_BINS = 512  # columns of the map that --plot draws: more than that cannot be told apart on paper


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """What every search takes."""

    objects: int | None = None
    """How many items are hidden; when left out, the first question is about all items and tells."""
    session: Path | None = None
    """File that keeps the search after each answer; when it is there, the search goes on from it."""
    seed: int = 0
    """The same seed asks the same questions."""
    max_questions: int | None = None
    """Stop after this many questions; --session goes on later."""
    max_seconds: float | None = None
    """Ask nothing after this many seconds; a count that runs is waited for."""
    plot: Path | None = None
    """Where a picture goes (PNG): where objects were expected after each question, and the bits left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateCommand:
    """Ask a command, given after `--`: it reads items on standard input, one a line, and prints how many of the objects are
    among them as its last line. It has to exit with 0.

    Example: tandem locate command --lines words.txt -- sh -c 'grep -c needle || true'
    """

    search: tyro.conf.OmitArgPrefixes[SearchOptions]
    items: int | None = None
    """How many items there are; the command reads their numbers, from 0."""
    lines: Path | None = None
    """A text file in place of --items: its lines are the items, and what the command reads."""
    give: Literal["items", "ranges"] = "items"
    """With --items: the number of an item a line, or `start stop`, half-open ranges of numbers, a line."""
    at_most_one: bool = False
    """No item counts more than once."""
    timeout: float | None = None
    """Seconds that one count may take."""
    ddmin: bool = False
    """When counts do not add up, look for a minimal set of items that counts above 0, by delta debugging."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateSqlite:
    """Find the rows of a CSV file that a table of SQLite refuses (duplicates, say), from the number of rows inserted alone.

    Rows are inserted inside a savepoint and rolled back; the database stays as it is, and is locked for other writers meanwhile.

    Example: tandem locate sqlite --database people.db --table people --rows new.csv
    """

    search: tyro.conf.OmitArgPrefixes[SearchOptions]
    database: Path
    """The database file."""
    table: str
    """The table to insert into."""
    rows: Path
    """A CSV file; its first line names the columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateAnswers:
    """List the questions and answers of a session file: number, answer, how many items, and their ranges.

    Example: tandem locate answers search.json
    """

    session: tyro.conf.Positional[Path]
    """The file that --session kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateRetract:
    """Take an answer of a session file back; the search goes on without it when it is started again.

    Example: tandem locate retract search.json 4
    """

    session: tyro.conf.Positional[Path]
    """The file that --session kept."""
    question: tyro.conf.Positional[int]
    """Number of the question, as `tandem locate answers` lists it."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), searches and prints an item a line."""
    cut = argv.index("--") if "--" in argv else len(argv)
    kinds = {"command": LocateCommand, "sqlite": LocateSqlite, "answers": LocateAnswers, "retract": LocateRetract}
    options = parse_command(kinds, "tandem locate", "Find k items by counting.", argv[:cut])
    command = argv[cut + 1 :]
    if isinstance(options, LocateCommand):
        locate_by_command(options, command)
    elif command:
        raise ValueError(f"command={command[0]!r} has no use here; leave out -- and what follows")
    elif isinstance(options, LocateSqlite):
        locate_in_sqlite(options)
    elif isinstance(options, LocateAnswers):
        list_answers(options)
    else:
        retract(options)


def locate_by_command(options: LocateCommand, command: Sequence[str]) -> None:
    """Searches items that a command counts.

    Raises:
        ValueError: no command, not one of --items and --lines, a command that gives no count, counts that do not add up.
    """
    if not command:
        raise ValueError("command is missing; give it after --, as in: tandem locate command --items 100 -- ./count.sh")
    if (options.items is None) == (options.lines is None):
        raise ValueError(f"items={options.items} and lines={options.lines}: give one of --items and --lines")
    lines = None if options.lines is None else _text("lines", options.lines).splitlines()
    items = options.items if lines is None else len(lines)
    count = CommandCount(command, lines=lines, give=options.give, timeout=options.timeout)
    name = str if lines is None else (lambda item: f"{item}\t{lines[item]}")
    try:
        _search(options.search, items or 0, count, name, at_most_one=options.at_most_one)
    except AdditivityError as error:
        if not options.ddmin:
            raise ValueError(f"{error}; --ddmin finds a minimal set that counts above 0") from error
        print(f"tandem locate: {error}; looking for a minimal set that counts above 0", file=sys.stderr)
        for item in ddmin(lambda region: count(region) > 0, Region([(0, items or 0)])):
            print(name(item))


def locate_in_sqlite(options: LocateSqlite) -> None:
    """Searches rows of a CSV file that a table refuses.

    Raises:
        ValueError: a file or table that is not there, rows that do not fit, rows that refuse each other.
    """
    columns, rows = _read_csv(options.rows)
    if not options.database.is_file():
        raise ValueError(f"database={options.database} is no file; give a database of SQLite")
    names = ", ".join(map(_quoted, columns))
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT OR IGNORE INTO {_quoted(options.table)} ({names}) VALUES ({marks})"
    with closing(sqlite3.connect(options.database)) as connection:
        # Never committed: without it the release of each savepoint would be a commit, of nothing, that writes to the file.
        connection.execute("BEGIN")
        count = InsertCount(connection, statement, rows)
        _search(options.search, len(rows), count, lambda row: f"{row}\t{','.join(rows[row])}", at_most_one=True)


def list_answers(options: LocateAnswers) -> None:
    """Prints a line for each answer of a session file, and how far the search is to stderr."""
    session = _loaded(options.session)
    for number, (region, answer) in enumerate(session.posterior.history, 1):
        print(number, f"{answer:g}", len(region), _shown(region), sep="\t")
    print(_told(session), file=sys.stderr)


def retract(options: LocateRetract) -> None:
    """Takes an answer back in a session file.

    Raises:
        ValueError: the file is no session, or the question has no answer.
    """
    session = _loaded(options.session)
    session.retract(options.question)
    session.save(options.session)
    print(_told(session), file=sys.stderr)


def _loaded(path: Path) -> Session:
    if not path.is_file():
        raise ValueError(f"session={path} is no file; give one that --session kept")
    return Session.load(path)


def _told(session: Session) -> str:
    return f"{session.questions} answers about {session.prior.k} objects among {session.prior.cells:,} items, {session.bits_left:.3g} bits left"


def _shown(region: Region) -> str:
    """The ranges with both ends, cut short where there are many."""
    ranges = [f"{start}" if stop - start == 1 else f"{start}-{stop - 1}" for start, stop in region.ranges[:_RANGES]]
    return ",".join(ranges) + (",…" if len(region.ranges) > _RANGES else "")


def _search(options: SearchOptions, items: int, count: Count, name: Callable[[int], str], *, at_most_one: bool) -> None:
    session = _session(options, items, count, at_most_one=at_most_one)
    _keep(session, options.session)
    with progress("locating", None, unit="questions", done=session.questions) as bar:

        def told(session: Session) -> None:
            _keep(session, options.session)
            bar.advance(bits_left=session.bits_left)

        try:
            reached = search(session, count, told, max_questions=options.max_questions, max_seconds=options.max_seconds)
        except AdditivityError as error:
            raise AdditivityError(f"{error}{_remedy(options, session)}") from error
    if not reached.done:
        _report_unfinished(reached, name)
    try:
        confirm(session, count)
    except AdditivityError as error:
        raise AdditivityError(f"{error}{_remedy(options, session)}") from error
    if options.plot is not None:
        with atomic_path(options.plot) as temporary:
            temporary.write_bytes(png(search_figure(*_course(session), items)))
    print(
        f"{len(reached.guess)} found among {items:,} items in {session.questions} questions, confirmed by one more",
        file=sys.stderr,
    )
    for item in reached.guess:
        print(name(int(item)))


def _report_unfinished(reached: Standing, name: Callable[[int], str]) -> NoReturn:
    """Prints the items that are certain, one a line, and what is open to stderr; ends with exit code 1."""
    for item in reached.certain:
        print(name(int(item)))
    print(f"tandem locate: {reached}", file=sys.stderr)
    raise SystemExit(_UNFINISHED)


def _remedy(options: SearchOptions, session: Session) -> str:
    """How to take an answer back, where there is a file and an answer in it."""
    if options.session is None or not session.questions:
        return ""
    return f"; `tandem locate answers {options.session}` lists answers, `tandem locate retract {options.session} N` takes one back"


def _session(options: SearchOptions, items: int, count: Count, *, at_most_one: bool) -> Session:
    if options.session is not None and options.session.exists():
        session = Session.load(options.session)
        if session.prior.cells != items or options.objects not in (None, session.prior.k):
            raise ValueError(
                f"session={options.session} is a search for {session.prior.k} objects among {session.prior.cells} items, not "
                f"{options.objects or 'any'} among {items}; give another file, or what the search began with"
            )
        return session
    prior = Prior.uniform(items, k=_objects(options, items, count), at_most_one=at_most_one)
    policy = HalfGreedyPolicy() if prior.k <= _COMFORTABLE else SequentialBifurcation()
    return Session(prior, policy, seed=options.seed)


def _objects(options: SearchOptions, items: int, count: Count) -> int:
    if options.objects is not None:
        number = options.objects
    else:
        number = count(Region([(0, items)]))
        print(f"all {items:,} items count {number:g}", file=sys.stderr)
    if number != int(number) or number < 0:
        raise ValueError(f"objects={number} is no number of objects; give a whole number, 0 or more")
    if number > MOST_OBJECTS:
        raise ValueError(
            f"objects={number:g} is more than a search can follow, {MOST_OBJECTS:,}; search part of the items"
        )
    return int(number)


def _keep(session: Session, path: Path | None) -> None:
    if path is not None:
        session.save(path)


def _course(session: Session) -> tuple[list[list[float]], list[float]]:
    """The map in runs of items, shape (questions + 1, runs), and the bits left, after each answer of a session."""
    posterior = Posterior(session.prior, session.posterior.answers)
    posteriors = [posterior]
    for region, answer in session.posterior.history:
        posterior = posterior.given(region, answer)
        posteriors.append(posterior)
    edges = np.linspace(0, session.prior.cells, min(_BINS, session.prior.cells) + 1).astype(np.int64)
    maps = [np.add.reduceat(posterior.expected_counts(), edges[:-1]) for posterior in posteriors]
    return [list(map(float, row)) for row in maps], [posterior.entropy() for posterior in posteriors]


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    table = [row for row in csv.reader(io.StringIO(_text("rows", path), newline="")) if row]
    if len(table) < 2:
        raise ValueError(f"rows={path} has no rows; its first line names the columns, each other one is a row")
    columns, rows = table[0], table[1:]
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"rows={path} has {len(row)} values in row {number} for {len(columns)} columns; correct it"
            )
    return columns, rows


def _text(field: str, path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{field}={path} cannot be read ({error.strerror}); give a text file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{field}={path} is not UTF-8 (byte {error.start}); convert it") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
