"""Whole runs as readable functions: start at `quickstart.py`, then `pretrain.py`, `twins.py`."""

from tandem.recipes.pretrain import PretrainConfig, run_pretraining
from tandem.recipes.quickstart import QuickstartConfig, run_quickstart
from tandem.recipes.twins import TwinsConfig, compare_twins

__all__ = ["PretrainConfig", "QuickstartConfig", "TwinsConfig", "compare_twins", "run_pretraining", "run_quickstart"]
