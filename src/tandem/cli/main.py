"""Entry point of `tandem`: finds the verb and hands it the rest of the line.

Start here; each verb is a module of this room with `run(argv)`. A verb's module is imported only when it is called, so
that `tandem --help` answers without torch.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from tandem._version import __version__
from tandem.cli.errors import user_errors

VERBS = {
    "quickstart": ("tandem.cli.quickstart", "fetch text, train a small hybrid model, write a report, answer a prompt"),
    "plan": ("tandem.cli.plan", "parameters, FLOPs and memory of a model, and the number format to train it in"),
    "data": ("tandem.cli.data", "fetch a corpus, train a tokenizer, write token shards"),
    "pretrain": ("tandem.cli.pretrain", "train a model on token shards; resumes from its run directory"),
    "generate": ("tandem.cli.generate", "continue a prompt"),
    "chat": ("tandem.cli.chat", "talk to a model in the terminal"),
    "eval": ("tandem.cli.evaluate", "perplexity, retrieval and lm-eval tasks of a model"),
    "convert": ("tandem.cli.convert", "write a model in another format: transformers, GGUF, Tandem"),
    "bench": ("tandem.cli.bench", "time training and decoding beside transformers"),
    "recipe": (
        "tandem.cli.recipe",
        "a whole experiment: the hybrid against its twins, number formats, counting questions",
    ),
    "locate": (
        "tandem.cli.locate",
        "find k hidden items by counting: rows that an insert refuses, or a command's number",
    ),
    "report": ("tandem.cli.report", "write the HTML report of a run directory"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `tandem` with the given arguments, those of the process by default.

    Raises:
        SystemExit: 2 after a user's mistake, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
    elif arguments[0] in ("-V", "--version"):
        print(f"tandem {__version__}")
    else:
        verb = arguments[0]
        with user_errors(verb if verb in VERBS else ""):
            importlib.import_module(_module(verb)).run(arguments[1:])


def usage() -> str:
    """The text of `tandem --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items())
    return (
        "usage: tandem VERB [options]\n\n"
        "Train, plan and talk to hybrid Transformer–Mamba language models.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`tandem VERB --help` explains a verb. TANDEM_DEBUG=1 shows the traceback of an error."
    )


def _module(verb: str) -> str:
    if verb in VERBS:
        return VERBS[verb][0]
    close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(VERBS)}"
    raise ValueError(f"verb={verb!r} is unknown; {hint}")
