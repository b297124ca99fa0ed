"""Train, post-train and serve hybrid Transformer–Mamba language models.

Names resolve on first use, so that `import tandem` and `tandem --help` cost no import of torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tandem._version import __version__

if TYPE_CHECKING:
    from tandem._model import LanguageModel, load

__all__ = ["LanguageModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tandem' has no attribute {name!r}")
    return getattr(importlib.import_module("tandem._model"), name)


def __dir__() -> list[str]:
    return __all__
