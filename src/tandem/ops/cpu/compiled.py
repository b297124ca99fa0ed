"""Builds the C++ kernels of this folder once and loads them; without a C++ compiler there are none, and PyTorch's ops run.

The sources are compiled for the processor at hand by the system's compiler on first use, which takes a few seconds, into
`$TANDEM_CACHE/kernels` (`~/.cache/tandem/kernels`) under a name made of sources, compiler and processor. `TANDEM_KERNELS=off`
switches them off.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)
_SOURCES = Path(__file__).parent / "kernels"
# Reassociation lets sums use vector registers. Infinities and NaN keep their meaning, so -ffast-math is not used.
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-ffp-contract=fast"),
)


# Arguments of each kernel: p a pointer, l an int64, i an int, f a float.
_SIGNATURES = {
    "ssd_forward": "pppi" + "p" * 10,
    "ssd_backward": "pppi" + "p" * 16,
    "conv_forward": "ppi" + "p" * 5,
    "conv_backward": "ppi" + "p" * 8,
    "norm_forward": "pfii" + "p" * 4,
    "norm_backward": "pfi" + "p" * 7,
    "swiglu_forward": "llipp",
    "swiglu_backward": "llippp",
    "softmax_gradient": "llipppp",
    "rotary": "pffi" + "p" * 4,
    "gather_sum": "llli" + "p" * 4,
    "scatter_gradient": "llli" + "p" * 6,
    "block_maxima": "pipp",
    "round_blocks": "pfii" + "p" * 4,
    "run": "lipp",
}
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, built on first use; None without a compiler, after one log line that says why."""
    if os.environ.get("TANDEM_KERNELS") == "off":
        return None
    compiler = find_compiler()
    if compiler is None:
        _logger.warning("CPU kernels are off, PyTorch's ops run: no C++ compiler found (install g++ or set CXX)")
        return None
    path = _cache() / f"tandem-{_key(compiler)}.so"
    try:
        if not path.is_file():
            # Louder than its importance: who waits in a terminal should know for what.
            _logger.warning("building CPU kernels with %s, once for this processor, about 10 s", Path(compiler).name)
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        _logger.warning("CPU kernels are off, PyTorch's ops run: %s could not build them (%s)", compiler, error)
        return None


def find_compiler() -> str | None:
    """The C++ compiler named by `CXX`, else g++, else clang++."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)


def kernels_for(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """The kernels if they can work on these tensors: on the CPU, float32 or bfloat16, and not traced by a compiler."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype not in (torch.float32, torch.bfloat16) or tensor.device.type != "cpu"):
            return None
    return None if torch.compiler.is_compiling() else library()


def call(name: str, *arguments: Any) -> None:
    """Calls a kernel; tensors are passed as pointers to their data, None as a null pointer."""
    _bound(name)(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])


def int64s(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """A C array of sizes."""
    return (ctypes.c_int64 * len(values))(*values)


def is_narrow(tensor: Tensor) -> bool:
    """True for bfloat16, False for float32, as kernels of both formats take it."""
    return tensor.dtype == torch.bfloat16


def rows_of_heads(t: Tensor) -> Tensor:
    """The same values with heads and their channels side by side; rows may lie apart, as in a slice of a projection."""
    fits = t.stride(2) == 1 and (t.shape[1] == 1 or t.stride(1) == t.shape[2])
    return t if fits else t.contiguous()


@functools.cache
def _bound(name: str) -> Callable[..., None]:
    kernels = library()
    assert kernels is not None, "callers ask kernels_for first"
    function = kernels[f"tandem_{name}"]
    function.restype, function.argtypes = None, [_TYPES[letter] for letter in _SIGNATURES[name]]
    return function


def _build(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        objects = [Path(folder) / f"{source.stem}.o" for source in _SOURCES.glob("*.cpp")]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda o: _run(compiler, "-c", str(_SOURCES / f"{o.stem}.cpp"), "-o", str(o)), objects))
        _run(compiler, "-shared", *map(str, sorted(objects)), "-o", str(built))
        built.replace(path)  # two processes may build at once; either result is whole


def _run(compiler: str, *arguments: str) -> None:
    subprocess.run([compiler, *_FLAGS, *arguments], check=True, capture_output=True, timeout=300)


def _key(compiler: str) -> str:
    """Equal for equal machine code: sources, flags, compiler and processor."""
    digest = hashlib.sha256(" ".join((*_FLAGS, compiler, platform.machine(), _processor())).encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    return Path(os.environ.get("TANDEM_CACHE") or Path.home() / ".cache" / "tandem") / "kernels"
