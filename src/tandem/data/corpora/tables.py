"""What a corpus is made of, as tables in the terminal."""

from rich.console import Console
from rich.table import Table

from tandem.data.corpora.corpus import PreparedCorpus


def print_corpus(prepared: PreparedCorpus) -> None:
    """Prints what was left after each cleaning step, the splits, the license and where the documents are."""
    facts = prepared.facts
    steps = Table("step", "documents", "characters", title=f"{facts['corpus']}: {', '.join(facts['packages'])}")
    for step in facts["steps"]:
        steps.add_row(step["step"], f"{step['documents']:,}", f"{step['characters']:,}")
    splits = Table("split", "documents", "groups", "bytes", title=f"license: {facts['license']}")
    for split, size in facts["splits"].items():
        splits.add_row(split, *(f"{size[name]:,}" for name in ("documents", "groups", "bytes")))
    for column in (*steps.columns[1:], *splits.columns[1:]):
        column.justify = "right"
    console = Console()
    console.print(steps, splits)
    console.print(f"made in {facts['seconds']} s", highlight=False)
    print(prepared.path)
