"""Where a run's numbers go: the metrics file, the progress bar, and TensorBoard when it is asked for."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tandem.report import MetricsWriter, progress
from tandem.train.config import TrainConfig

_logger = logging.getLogger(__name__)
_SHOWN = ("loss", "lr", "tokens_per_second")


class RunLog:
    """Writes rows at global steps; open it with `open_log`."""

    def __init__(self, metrics: MetricsWriter, bar: Any, board: Any, stage: str) -> None:
        self._metrics = metrics
        self._bar = bar
        self._board = board
        self._stage = {"stage": stage} if stage else {}

    def advance(self) -> None:
        """Moves the bar by one step."""
        self._bar.advance(1)

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """One `train` row of scalars; each matrix among the values becomes a row of its own kind."""
        scalars = {name: _number(value) for name, value in values.items() if not _is_matrix(value)}
        self._row(step, "train", scalars)
        self._bar.advance(0, **{name: scalars[name] for name in _SHOWN if name in scalars})
        for name, value in values.items():
            if _is_matrix(value):
                rows = [[round(x, 5) for x in _shortened(row)] for row in value.tolist()]
                self._metrics.write(step=step, kind=name, layers=rows, **self._stage)

    def validation(self, step: int, values: Mapping[str, Any]) -> None:
        """One `validation` row."""
        scalars = {name: _number(value) for name, value in values.items()}
        self._row(step, "validation", scalars)
        if "loss" in scalars:
            self._bar.advance(0, validation=scalars["loss"])

    def event(self, step: int, message: str) -> None:
        """One `event` row and one log line."""
        _logger.warning("step %d: %s", step, message)
        self._metrics.write(step=step, kind="event", message=message, **self._stage)

    def _row(self, step: int, kind: str, scalars: dict[str, Any]) -> None:
        self._metrics.write(step=step, kind=kind, **scalars, **self._stage)
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


@contextmanager
def open_log(
    run_dir: Path, metrics: Path, config: TrainConfig, *, stage: str, done: int, before: int
) -> Iterator[RunLog]:
    """Opens all outputs; rows after step `before + done` are those of a part that is run again, and are dropped.

    Raises:
        ImportError: `train.tensorboard` is set and the package is missing.
    """
    with ExitStack() as stack:
        board = _open_board(run_dir / "tensorboard", before + done) if config.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        writer = stack.enter_context(MetricsWriter(metrics, keep_before=before + done + 1))
        bar = stack.enter_context(progress(f"train {stage}".strip(), config.steps, done=done))
        yield RunLog(writer, bar, board, stage)


def _open_board(directory: Path, done: int) -> Any:
    try:
        # Deferred: only runs that ask for TensorBoard need it installed.
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("train.tensorboard=True needs the tensorboard package: pip install tensorboard") from error
    return SummaryWriter(directory, purge_step=done + 1)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _shortened(row: list[float]) -> list[float]:
    """Without NaN at the end, which stands for nothing there: rows of a matrix have one length, those of a file need not."""
    length = next((k for k in range(len(row), 0, -1) if not math.isnan(row[k - 1])), 0)
    return row[:length]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
