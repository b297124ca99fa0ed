"""Training on a GPU beside transformers' GraniteMoeHybrid of one shape: whole steps on the same tokens. Start at `measure_training`.

Both sides keep float32 weights, compute in bfloat16 and clip; AdamW is fused on both. Ours runs as `fit` runs it. First it
is checked that our step captured as CUDA graphs gives the losses of the step issued call by call.

    MFU = 3 · (forward operations of a token) · tokens per second / operations per second of the chip

Forward operations are those of `tandem.plan.flops`: two for each weight that a token meets, four times heads · width for
each pair of tokens that attention joins, and the scan's products in chunks of `ModelConfig.chunk`.
"""

import gc
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.data import Batch
from tandem.nn import HybridLM, ModelConfig, SequenceLayout
from tandem.plan import flops
from tandem.recipes.granite import GRANITE, granite_config
from tandem.train import CapturedStep, LanguageModelTask, OptimizerConfig, TrainConfig, build_optimizer, clip_gradients

ROWS, ROW_TOKENS = 4, 2048
DATASHEET = 989.4e12  # dense bf16 operations a second of an H100 or H200 (SXM)
_BATCHES, _WARM_UP, _STEPS, _CHECKED = 8, 4, 16, 4
_CONFIG = TrainConfig(precision="bfloat16", optimizer=OptimizerConfig(lr=1e-4))

Step = Callable[[Batch], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Steps of one side.

    Attributes:
        seconds: of each step, from its batch on the CPU to moved weights.
        memory: bytes that the process had reserved at most.
    """

    name: str
    seconds: tuple[float, ...]
    memory: int
    operations: float

    @property
    def speed(self) -> float:
        """Tokens a second, by the median step."""
        return ROWS * ROW_TOKENS / statistics.median(self.seconds)

    def cells(self, ceiling: float) -> list[str]:
        """Name, ms a step with its range, tokens/s, utilization by the measured ceiling and by the datasheet, memory."""
        milliseconds = sorted(1e3 * s for s in self.seconds)
        spread = f"{statistics.median(milliseconds):.1f} ({milliseconds[0]:.1f}–{milliseconds[-1]:.1f})"
        reached = self.operations * self.speed
        shares = [f"{reached / rate:.1%}" for rate in (ceiling, DATASHEET)]
        return [self.name, spread, f"{self.speed:,.0f}", *shares, f"{self.memory / 2**30:.1f} GiB"]


def operations_per_token(shape: ModelConfig = GRANITE) -> float:
    """3 · forward operations, a token of a row."""
    return float(flops(shape, lengths=[ROW_TOKENS]).training)


def token_batches(shape: ModelConfig, count: int, lengths: Sequence[int], seed: int = 0) -> list[Batch]:
    """Random tokens, each the target of the one before."""
    generator = torch.Generator().manual_seed(seed)
    layout = SequenceLayout.from_lengths(lengths, chunk=shape.chunk)
    batches = []
    for _ in range(count):
        ids = torch.randint(0, shape.vocab_size, (layout.tokens + 1,), generator=generator)
        weights_T = torch.ones(layout.tokens)
        batches.append(Batch(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=weights_T, layout=layout))
    return batches


def captured_error(shape: ModelConfig, device: str) -> float:
    """Largest relative distance of the captured step's losses from the plain step's, over a few steps of each."""
    batches = token_batches(shape, _CHECKED, [ROW_TOKENS] * ROWS)
    losses = []
    for make in (plain_step, captured_step):
        torch.manual_seed(0)
        step = make(shape, device)
        losses.append([step(batch) for batch in batches])
        del step
        free()
    return max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))


def measure_training(device: str = "cuda") -> list[Training]:
    """Ours, the peer where transformers is installed, and ours again, each after the memory of the one before is free.

    Raises:
        ValueError: there is no such device.
    """
    if device != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"device={device!r} cannot be timed; run on a machine with an NVIDIA GPU, with --device cuda")
    sides: list[tuple[str, Callable[[], Step]]] = [("Tandem", lambda: captured_step(GRANITE, device))]
    if importlib.util.find_spec("transformers") is not None:
        sides.append(("transformers", lambda: peer_step(GRANITE, device)))
        sides.append(sides[0])
    batches = token_batches(GRANITE, _BATCHES, [ROW_TOKENS] * ROWS)
    return [_timed(name, make, batches) for name, make in sides]


def captured_step(shape: ModelConfig, device: str) -> Step:
    """Our step as `fit` runs it on a GPU."""
    task = LanguageModelTask(_model(shape, device), _CONFIG)
    step = CapturedStep(task, build_optimizer(task.param_groups(_CONFIG.optimizer), _CONFIG.optimizer), _CONFIG)

    def run(batch: Batch) -> float:
        values, norm = step.backward([batch])
        step.finish(norm, accepted=True)
        return float(values["loss"])

    return run


def plain_step(shape: ModelConfig, device: str) -> Step:
    """The same without graphs, copies and kernels of our own for AdamW."""
    task = LanguageModelTask(_model(shape, device), _CONFIG)
    optimizer = build_optimizer(task.param_groups(_CONFIG.optimizer), _CONFIG.optimizer)

    def run(batch: Batch) -> float:
        values = task.step(batch)
        values["objective"].backward()
        clip_gradients(list(task.module.parameters()), _CONFIG.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(values["loss"].detach())

    return run


def peer_step(shape: ModelConfig, device: str) -> Step:
    """GraniteMoeHybrid of transformers under autocast."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    with torch.device(device):
        model: Any = transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, shape)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_CONFIG.optimizer.lr, fused=True)

    def run(batch: Batch) -> float:
        tokens = batch.tokens_T.view(ROWS, -1).to(device)
        with torch.autocast(device, torch.bfloat16):
            loss: Tensor = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return run


def free() -> None:
    """Gives back what no tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _model(shape: ModelConfig, device: str) -> HybridLM:
    with torch.device(device):
        return HybridLM(shape).train()


def _timed(name: str, make: Callable[[], Step], batches: list[Batch]) -> Training:
    free()
    step = make()
    seconds = []
    for number in range(_WARM_UP + _STEPS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step(batches[number % len(batches)])
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_reserved()
    del step
    free()
    operations = operations_per_token()
    return Training(name=name, seconds=tuple(seconds[_WARM_UP:]), memory=memory, operations=operations)
