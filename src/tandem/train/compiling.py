"""When `torch.compile` is used: where the task gains from it and a C++ compiler is at hand."""

import logging
import os
import shutil

_logger = logging.getLogger(__name__)


def has_compiler() -> bool:
    """True when the C++ compiler that TorchInductor needs is found: the one named by `CXX`, g++ or clang++."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def may_compile(mode: str) -> bool:
    """Whether a task is asked to compile under `train.compile=mode`; a missing compiler is one log line."""
    if mode == "off":
        return False
    if has_compiler():
        return True
    _logger.warning("torch.compile is off: no C++ compiler was found (install g++ or clang++, or set CXX)")
    return False
