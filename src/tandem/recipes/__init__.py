"""Whole runs as readable functions: start at `quickstart.py`, then `pretrain.py`."""

from tandem.recipes.pretrain import PretrainConfig, pretrain
from tandem.recipes.quickstart import QuickstartConfig, quickstart

__all__ = ["PretrainConfig", "QuickstartConfig", "pretrain", "quickstart"]
