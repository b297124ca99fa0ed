"""What llama.cpp itself computes with a file, where its Python package is installed.

Shapes: T tokens, V vocabulary.
"""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor


def has_llama_cpp() -> bool:
    """Whether the package `llama_cpp` is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def llama_cpp_logits(path: Path, tokens_T: Tensor) -> Tensor:
    """llama.cpp's logits of every token of one text, logits_TV in float32.

    Keys and values are kept in float32 and not, as it does by default, in float16. A file that it cannot compute may end the
    process: it checks by assertions. Those that `write_gguf` writes are not among them.

    Raises:
        ImportError: the package is missing; the message says how to install it.
        ValueError: llama.cpp refuses the file.
    """
    if not has_llama_cpp():
        raise ImportError("comparing with llama.cpp needs its package: pip install llama-cpp-python")
    llama_cpp = importlib.import_module("llama_cpp")  # on use: most do without
    model = llama_cpp.Llama(
        str(path),
        n_ctx=len(tokens_T),
        n_threads=torch.get_num_threads(),
        n_threads_batch=torch.get_num_threads(),
        logits_all=True,
        flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    try:
        model.eval(tokens_T.tolist())
        return torch.from_numpy(model.scores[: len(tokens_T)].copy())
    finally:
        model.close()
