"""Tandem models as `transformers` knows models: importing this registers them with its Auto classes.

>>> import tandem.hub.transformers                                      # doctest: +SKIP
>>> AutoModelForCausalLM.from_pretrained("directory of m.save")         # doctest: +SKIP
"""

import importlib.util

if importlib.util.find_spec("transformers") is None:
    raise ImportError("tandem.hub.transformers needs transformers: pip install 'tandem-lm[hf]'")

from tandem.hub.transformers.cache import TandemCache
from tandem.hub.transformers.config import TandemConfig
from tandem.hub.transformers.model import TandemForCausalLM, register

register()

__all__ = ["TandemCache", "TandemConfig", "TandemForCausalLM"]
