"""Without a GPU Triton's interpreter runs the kernels of this folder, and no others of the process."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.ops.triton import support

_INTERPRETED = not torch.cuda.is_available()
with pytest.MonkeyPatch.context() as patch:
    if _INTERPRETED:
        patch.setenv("TRITON_INTERPRET", "1")  # asked once, when a kernel is defined
    if importlib.util.find_spec("triton"):
        for path in sorted(Path(support.__file__).parent.glob("[a-z]*.py")):
            importlib.import_module(f"tandem.ops.triton.{path.stem}")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    monkeypatch.setattr(support, "_interpreted", _INTERPRETED)
    if _INTERPRETED:
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # Triton imports parts of itself on use


@pytest.fixture(autouse=True)
def _poison():
    """Memory that no kernel writes to is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _scalars(monkeypatch: pytest.MonkeyPatch):
    """Lets the interpreter count a loop by a loaded number, which NumPy 2.4 takes for an array."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


@pytest.fixture(scope="session")
def device() -> str:
    return "cpu" if _INTERPRETED else "cuda"
