"""A training step that the CPU hardly takes part in: CUDA graphs, bfloat16 copies of matrices, one kernel for AdamW.

A step of a large model is thousands of launches, which take Python longer to issue than a GPU to do. So forward and backward
passes are captured, once for each class of batches, and replayed. Matrices that every use would cast have a copy in
bfloat16, cast once a step; their gradients stay in bfloat16, as matrix products make them.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tandem.ops import AdamWPass, Gradients, Trained
from tandem.train.config import TrainConfig
from tandem.train.protocols import Replayable, Trainable

_GRAPHS = 4  # classes of batches that get one; each keeps the gradients of all parameters

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def may_capture(task: Trainable, parameters: Sequence[nn.Parameter], config: TrainConfig) -> bool:
    """Whether `CapturedStep` does what the plain loop would: one batch a step, all of it on one GPU, weights in float32."""
    return (
        config.graphs == "auto"
        and config.accumulate == 1
        and config.precision == "bfloat16"
        and isinstance(task, Replayable)
        and all(p.is_cuda and p.dtype == torch.float32 and p.is_contiguous() for p in parameters)
    )


class CapturedStep:
    """One step of `optimizer`, whose state and groups it takes; only its own `step` is not called.

    The first batch of a class runs as ever, the second is captured, and all others are replayed. Batches that the task does
    not hold, and classes beyond a handful, run as ever. A batch that finds too little memory beside graphs takes theirs; see
    `beside`.
    """

    def __init__(self, task: Replayable, optimizer: AdamW, config: TrainConfig) -> None:
        self.task, self.optimizer, self.limit = task, optimizer, config.clip_norm
        self.narrow = NarrowCopies(task.module, task.matrices())
        trained = _trained(optimizer, self.narrow, getattr(torch, config.optimizer.moments))
        self._adamw = AdamWPass(trained, config.optimizer.betas, config.optimizer.eps)
        self._owners = [t.parameter if t.narrow is None else t.narrow for t in trained]
        self._steps = [optimizer.state[t.parameter]["step"] for t in trained]
        self._count = int(self._steps[0])
        self._room = _GRAPHS
        self._classes: list[_Class] = []
        self._gradients: Gradients | None = None

    def backward(self, batches: Sequence[Any]) -> tuple[dict[str, Any], float]:
        """Values of the one batch, whose tensors the next call overwrites, and the norm of its gradients."""
        (batch,) = batches
        with torch.cuda.device_of(self._steps[0]):  # a graph is captured and replayed on the current device
            values = self.beside(lambda: self._values(batch), fewer=True)
        assert self._gradients is not None
        return {**values, **self.task.counts(batch)}, float(self._adamw.norm(self._gradients))

    def _values(self, batch: Any) -> dict[str, Tensor]:
        where = self._class_of(batch)
        if where is not None and where.seen and where.replayable and where.captured is None:
            self._capture(where)
        if where is None or where.captured is None:
            values = self._run(batch, where)
            self._gradients = self._collected()
            return values
        where.captured.graph.replay()
        self._gradients = where.captured.gradients
        return where.captured.values

    def finish(self, norm: float, *, accepted: bool) -> None:
        """Moves the parameters by what `backward` found, unless the step is left out."""
        assert self._gradients is not None
        gradients, self._gradients = self._gradients, None
        if not accepted:
            return
        factor = 1.0 if self.limit is None else min(1.0, self.limit / (norm + 1e-6))  # as clip_grads_with_norm_
        self._count += 1
        self._adamw.step(gradients, self._rates(), factor, self._count)
        torch._foreach_add_(self._steps, 1.0)  # pyright: ignore[reportPrivateImportUsage] # as torch.optim does

    def _rates(self) -> Tensor:
        """Learning rate and decay of each group; from page-locked memory, so that the CPU goes on meanwhile."""
        groups, device = self.optimizer.param_groups, self._steps[0].device
        rates_G2 = torch.tensor([[group["lr"], group["weight_decay"]] for group in groups])
        return rates_G2.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rates_G2

    def _class_of(self, batch: Any) -> "_Class | None":
        """The class that the batch fits, which then holds it; a new one where there is room, else none."""
        for where in self._classes:
            if self.task.refill(where.held, batch):
                return where
        held = self.task.hold(batch) if len(self._classes) < self._room else None
        if held is None:
            return None
        self._classes.append(_Class(held))
        return self._classes[-1]

    def _run(self, batch: Any, where: "_Class | None") -> dict[str, Tensor]:
        """The passes as ever; on what the class holds if it will be captured, to find out whether that works."""
        if where is not None and where.replayable:
            where.seen = True
            self._forget()
            try:
                return self._passes(where.held)
            except torch.OutOfMemoryError:
                raise
            except (
                RuntimeError
            ) as error:  # a NotKeptError, say; what is wrong with the batch itself comes up again below
                _logger.warning("no CUDA graph of a training step: %s", error)
                where.replayable = False
        self._forget()
        return self._passes(batch)

    def _capture(self, where: "_Class") -> None:
        """Captures the class's passes, which does not run them; where that fails, all its batches run as ever."""
        self._forget()
        gc.collect()  # a cycle may hold tensors of earlier passes
        graphs = self._graphs()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=graphs[0].graph.pool() if graphs else None):
                values = self._passes(where.held)
        except RuntimeError as error:
            if graphs and isinstance(error, torch.OutOfMemoryError):
                raise
            _logger.warning("no CUDA graph of a training step: %s", error)
            where.replayable = False
            return
        where.captured = _Captured(graph, values, self._collected())

    def _graphs(self) -> "list[_Captured]":
        return [where.captured for where in self._classes if where.captured is not None]

    def beside(self, work: Callable[[], Result], *, fewer: bool = False) -> Result:
        """Does what needs memory beside the graphs; where there is too little of it, they give theirs back first.

        Args:
            fewer: from then on there is one class at most, and after a second time none.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self._graphs():
                raise
        # Not in the handler, where the error still holds the tensors of what failed.
        _logger.warning("too little memory beside %d CUDA graphs of training steps: let go", len(self._graphs()))
        if fewer:
            self._room = 1 if self._room > 1 else 0
        self._classes.clear()
        self._gradients = None
        self._forget()
        gc.collect()
        torch.cuda.empty_cache()
        return work()

    def _passes(self, batch: Any) -> dict[str, Tensor]:
        with self.narrow.in_use():
            values = self.task.values(batch)
        values.pop("objective", values["loss"]).backward()
        return {name: value.detach() for name, value in values.items()}

    def _collected(self) -> Gradients:
        return Gradients(self._adamw, [owner.grad for owner in self._owners])

    def _forget(self) -> None:
        for owner in self._owners:
            owner.grad = None


class _Captured(NamedTuple):
    """Passes as a graph, and where it leaves what they give."""

    graph: torch.cuda.CUDAGraph
    values: dict[str, Tensor]
    gradients: Gradients


@dataclass(slots=True)
class _Class:
    """Batches that fit into `held` one after the other."""

    held: Any
    seen: bool = False
    replayable: bool = True
    captured: _Captured | None = None


class NarrowCopies:
    """bfloat16 copies of parameters, which stand in for them while a forward pass is traced.

    A gradient belongs to the copy; whoever moves the parameter writes the copy too.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.of = {p: p.detach().bfloat16().requires_grad_() for p in parameters if p.requires_grad}
        self._places = [
            (owner, name, self.of[parameter])
            for owner in module.modules()
            for name, parameter in owner.named_parameters(recurse=False)
            if parameter in self.of
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the module's parameters are their copies."""
        before = [owner._parameters[name] for owner, name, _ in self._places]
        try:
            for owner, name, copy in self._places:
                owner._parameters[name] = copy  # pyright: ignore[reportArgumentType] # a setter would refuse a plain tensor
            yield
        finally:
            for (owner, name, _), parameter in zip(self._places, before, strict=True):
                owner._parameters[name] = parameter


def _trained(optimizer: AdamW, narrow: NarrowCopies, moments: torch.dtype) -> list[Trained]:
    """The optimizer's parameters with their state, which is made where there is none yet, as AdamW makes it.

    A state that was loaded is in float32 even if it was saved in bfloat16; narrowing it again is exact.
    """
    trained = []
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].to(moments), state["exp_avg_sq"].to(moments)
            copy = narrow.of.get(parameter)
            trained.append(Trained(parameter, state["exp_avg"], state["exp_avg_sq"], copy, number))
    return trained
