"""Whole runs as readable functions: start at `quickstart.py`, then `pretrain.py`."""

from tandem.recipes.pretrain import PretrainConfig, run_pretraining
from tandem.recipes.quickstart import QuickstartConfig, run_quickstart

__all__ = ["PretrainConfig", "QuickstartConfig", "run_pretraining", "run_quickstart"]
