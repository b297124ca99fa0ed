"""The package `gguf` is an extra, and its lack is said in one line."""

import importlib.util

import pytest

from tandem.hub.gguf.package import library


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"GGUF files need the package gguf: pip install 'tandem-lm\[hf\]'"):
        library()
