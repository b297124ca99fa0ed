"""The package `gguf`, which knows the file format and the block formats of numbers."""

import importlib
import importlib.util
from typing import Any


def library() -> Any:
    """The package, imported on use: it is an extra.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ImportError("GGUF files need the package gguf: pip install 'tandem-lm[hf]'")
    return importlib.import_module("gguf")
