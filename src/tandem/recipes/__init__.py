"""Whole runs as readable functions: start at `quickstart.py`, then `pretrain.py`, `twins.py`."""

from tandem.recipes.pretrain import PretrainConfig, pretrain
from tandem.recipes.quickstart import QuickstartConfig, quickstart
from tandem.recipes.twins import TwinsConfig, twins

__all__ = ["PretrainConfig", "QuickstartConfig", "TwinsConfig", "pretrain", "quickstart", "twins"]
