"""What the loop needs from a task and from its data, and nothing else: it knows no tokens, images or volumes."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tandem.train.config import OptimizerConfig


@runtime_checkable
class Trainable(Protocol):
    """A module and how one batch becomes a loss."""

    @property
    def module(self) -> nn.Module:
        """The module whose parameters are trained and checkpointed.

        Random generators that it owns are kept with it when it, or a module inside it, has `generator_state()` and
        `load_generator_state(state)`.
        """
        ...

    def step(self, batch: Any) -> dict[str, Any]:
        """Runs one forward pass.

        Returns:
            A dict with `loss`, a tensor of one element. The rest is optional and logged, by type: an `int` is a count
            (added up over the run, and logged as a rate a second too), a `float` or a tensor of one element is
            averaged, a matrix is averaged and becomes a metrics row of its own kind with one list a row.
            Two more names have a meaning: `objective` is differentiated in place of `loss`, for a task whose reported
            loss leaves a penalty out; `weight` says how much this batch counts among the accumulated ones (1).
        """
        ...

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Parameter groups for AdamW; `lr_factor` in a group scales the scheduled learning rate."""
        ...


@runtime_checkable
class Validating(Protocol):
    """A task that can also measure itself on held-out data."""

    def validate(self) -> dict[str, Any]:
        """Numbers for a `validation` row, empty when there is nothing to measure with.

        Leaves the module in training mode and every random state as it was.
        """
        ...


@runtime_checkable
class Steering(Protocol):
    """A task that moves something itself, beside what the optimizer moves."""

    def after_step(self, values: dict[str, Any]) -> None:
        """Called after each step that was not left out, with what `step` returned, means of its batches."""
        ...


@runtime_checkable
class Compilable(Protocol):
    """A task that knows which of its parts gain from `torch.compile`."""

    def compile(self) -> None:
        """Compiles those parts in place; called once, before the first step, where the policy allows it."""
        ...


@runtime_checkable
class Replayable(Trainable, Protocol):
    """A task whose passes can be captured as a CUDA graph, because batches fit into one held on the device."""

    def hold(self, batch: Any) -> Any:
        """A copy of the batch on the device with room for others like it; None where a graph could not serve them."""
        ...

    def refill(self, held: Any, batch: Any) -> bool:
        """Writes the batch over the one that is held; False, having done nothing, where it does not fit."""
        ...

    def values(self, batch: Any) -> dict[str, Tensor]:
        """What `step` returns, without its counts; for a held batch without the CPU waiting for the device."""
        ...

    def counts(self, batch: Any) -> dict[str, int]:
        """The counts of `step`."""
        ...

    def matrices(self) -> list[nn.Parameter]:
        """Parameters whose every use in training casts them to `TrainConfig.precision`."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """An iterator of batches that can go on from where an earlier process stood."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]:
        """A copy of the position: numbers, strings, tensors, and lists, tuples and dicts of them."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Moves to a position from `state_dict`; the next batch is the one that followed it."""
        ...
