"""The command line, one file a verb: parse, call, print."""

from tandem.cli.main import main

__all__ = ["main"]
