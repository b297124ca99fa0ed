"""Shared by all rooms: shapes and types of every annotated argument are checked while the tests run."""

import importlib
import importlib.util
import os
from collections.abc import Generator
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports tandem: the hook decorates modules as they load. It errs inside torch.compile, so tests that
# compile run in a child process with JAXTYPING_DISABLE=1.
install_import_hook("tandem", "shape_checks.checked")

# Before anything imports Triton, as transformers does: its own functions are made for the interpreter or not when it loads.
if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")

settings.register_profile("tandem", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tandem")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fails a skip for want of a system package where such packages are installed first (TANDEM_STRICT_SKIPS=1)."""
    report = yield
    if report.skipped and os.environ.get("TANDEM_STRICT_SKIPS") == "1" and "apt-get install" in str(report.longrepr):
        report.outcome = "failed"
    return report
