"""Leaves out steps that would hurt: not finite, or far above what the run has seen lately."""

import math
from collections import deque
from statistics import median
from typing import Any

from tandem.train.config import SpikeConfig


class SpikeDetector:
    """Compares each step's loss and gradient norm with the medians of the last accepted steps.

    Medians, because one spike that slips through must not raise the bar for the next. Values of steps that were left
    out never enter the window.

    >>> detector = SpikeDetector(SpikeConfig(grad_norm=10.0, window=4))
    >>> [detector.judge(2.0, norm) for norm in (1.0, 1.1, 0.9, 50.0)]
    [None, None, None, 'gradient norm 50 is above 10 × the median 1']
    """

    def __init__(self, config: SpikeConfig) -> None:
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)
        self._consecutive = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """Says why this step must be left out, or None when it is sound.

        Raises:
            ValueError: `max_consecutive` steps in a row had to be left out.
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self._losses.append(loss)
            self._norms.append(norm)
            self._consecutive = 0
            return None
        self._consecutive += 1
        if self._consecutive >= self.config.max_consecutive:
            raise ValueError(
                f"train.skip.max_consecutive={self.config.max_consecutive} steps in a row were left out, the last "
                f"because {reason}; lower train.optimizer.lr, or raise train.skip.grad_norm and train.skip.loss"
            )
        return reason

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if not math.isfinite(norm):
            return f"gradient norm is {norm}"
        return _excess("loss", loss, self._losses, self.config.loss) or _excess(
            "gradient norm", norm, self._norms, self.config.grad_norm
        )

    def state_dict(self) -> dict[str, Any]:
        """The windows and the current run of left-out steps, as plain numbers."""
        return {"losses": list(self._losses), "norms": list(self._norms), "consecutive": self._consecutive}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self._consecutive = state["consecutive"]


def _excess(name: str, value: float, window: deque[float], multiple: float | None) -> str | None:
    if multiple is None or len(window) < (window.maxlen or 0) / 4:
        return None
    typical = median(window)
    if typical > 0 and value > multiple * typical:
        return f"{name} {value:.4g} is above {multiple:g} × the median {typical:.4g}"
    return None
