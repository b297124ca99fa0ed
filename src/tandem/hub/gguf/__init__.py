"""Files of llama.cpp (GGUF), read and written with the package `gguf` of the extra `hf`."""

from tandem.hub.gguf.architectures import ARCHITECTURES, Architecture, architecture_of
from tandem.hub.gguf.peer import has_llama_cpp, llama_cpp_logits
from tandem.hub.gguf.reading import GGUFFile
from tandem.hub.gguf.writing import FORMATS, write_gguf

__all__ = [
    "ARCHITECTURES",
    "FORMATS",
    "Architecture",
    "GGUFFile",
    "architecture_of",
    "has_llama_cpp",
    "llama_cpp_logits",
    "write_gguf",
]
