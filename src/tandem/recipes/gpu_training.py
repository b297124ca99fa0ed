"""Training on a GPU beside transformers' GraniteMoeHybrid of one shape: whole steps on the same tokens. Start at `measure_training`.

Both sides compute in bfloat16 and clip; AdamW is fused on both. Ours keeps float32 weights and runs as `fit` runs it, with
AdamW's moments in float32 and in bfloat16. The peer runs under autocast with float32 weights, with everything in bfloat16, and
so with its layers compiled; each time with the most rows at once that fit into memory, whose gradients are summed. It is also
checked that our step captured as CUDA graphs gives the losses of one issued call by call.

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
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tandem.data import Batch
from tandem.nn import HybridLM, ModelConfig, SequenceLayout
from tandem.plan import flops
from tandem.recipes.granite import COMPILED_GPU_CHUNK, GPU_CHUNK, GRANITE, compile_layers, granite_config
from tandem.train import CapturedStep, LanguageModelTask, OptimizerConfig, TrainConfig, build_optimizer, clip_gradients

ROWS, ROW_TOKENS = 4, 2048
DATASHEET = 989.4e12  # dense bf16 operations a second of an H100 or H200 (SXM)
_BATCHES, _WARM_UP, _CHECKED = 8, 4, 4
_RUNS, _STEPS = 7, 5
_SLOW, _SLOW_RUNS, _SLOW_STEPS = 1.0, 3, 1  # where a step takes longer than so many seconds
_CONFIG = TrainConfig(precision="bfloat16", optimizer=OptimizerConfig(lr=1e-4))

Step = Callable[[Batch], Tensor]
"""Trains on a batch; returns its loss, without waiting for more of it than the step itself needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Steps of one side.

    Attributes:
        seconds: of a step, from batches on the CPU to moved weights: means of a few steps each.
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
        if not self.seconds:
            return [self.name, "out of memory", *["–"] * 4]
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
        losses.append([float(step(batch)) for batch in batches])
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
    batches = token_batches(GRANITE, _BATCHES, [ROW_TOKENS] * ROWS)

    def ours(name: str, moments: Literal["float32", "bfloat16"]) -> Training:
        return _timed(name, lambda: captured_step(GRANITE, device, moments), batches)

    rows = [ours("Tandem", "float32"), ours("Tandem, bfloat16 moments", "bfloat16")]
    if importlib.util.find_spec("transformers") is None:
        return rows
    kinds = ((False, False), (True, False), (True, True))
    peers = [_peer(device, batches, narrow=narrow, compiled=compiled) for narrow, compiled in kinds]
    return [*rows, *peers, ours("Tandem, again", "float32")]


def _peer(device: str, batches: list[Batch], *, narrow: bool, compiled: bool) -> Training:
    """The peer with the most rows at once that fit; without seconds if not even one does."""
    name = f"transformers, {'all in bfloat16' if narrow else 'autocast'}{', compiled' if compiled else ''}"
    row = None
    for count in (ROWS, ROWS // 2, 1):

        def make(count: int = count) -> Step:
            return peer_step(GRANITE, device, count, narrow=narrow, compiled=compiled)

        row = _timed(f"{name}, {count} rows at once", make, batches)
        if row.seconds:
            break
    assert row is not None
    return row


def captured_step(shape: ModelConfig, device: str, moments: Literal["float32", "bfloat16"] = "float32") -> Step:
    """Our step as `fit` runs it on a GPU."""
    config = replace(_CONFIG, optimizer=replace(_CONFIG.optimizer, moments=moments))
    task = LanguageModelTask(_model(shape, device), config)
    step = CapturedStep(task, build_optimizer(task.param_groups(config.optimizer), config.optimizer), config)

    def run(batch: Batch) -> Tensor:
        values, norm = step.backward([batch])
        loss = values["loss"].clone()
        step.finish(norm, accepted=True)
        return loss

    return run


def plain_step(shape: ModelConfig, device: str) -> Step:
    """The same without graphs, copies and kernels of our own for AdamW."""
    task = LanguageModelTask(_model(shape, device), _CONFIG)
    optimizer = build_optimizer(task.param_groups(_CONFIG.optimizer), _CONFIG.optimizer)

    def run(batch: Batch) -> Tensor:
        values = task.step(batch)
        values["objective"].backward()
        clip_gradients(list(task.module.parameters()), _CONFIG.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return values["loss"].detach()

    return run


def peer_step(shape: ModelConfig, device: str, count: int, *, narrow: bool, compiled: bool = False) -> Step:
    """GraniteMoeHybrid of transformers: under autocast, or `narrow`, with weights and AdamW in bfloat16; `count` rows at once."""
    chunk = COMPILED_GPU_CHUNK if compiled else GPU_CHUNK
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    with torch.device(device):
        model: Any = transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, shape, chunk)).train()
    if narrow:
        model.bfloat16()
    if compiled:
        compile_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_CONFIG.optimizer.lr, fused=True)

    def run(batch: Batch) -> Tensor:
        losses: list[Tensor] = []
        for tokens in batch.tokens_T.view(ROWS, -1).to(device).split(count):
            with torch.autocast(device, torch.bfloat16, enabled=not narrow):
                loss: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss * (count / ROWS)
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).sum()

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
    seconds, last = list[float](), 0.0
    try:
        step = make()
        for batch in batches[:_WARM_UP]:
            last = _seconds(step, [batch])
        runs, steps = (_RUNS, _STEPS) if last < _SLOW else (_SLOW_RUNS, _SLOW_STEPS)
        for number in range(runs):
            taken = [batches[(number + place) % len(batches)] for place in range(steps)]
            seconds.append(_seconds(step, taken) / steps)
    except torch.OutOfMemoryError:
        seconds.clear()
    memory = torch.cuda.max_memory_reserved()
    step = None
    free()
    return Training(name=name, seconds=tuple(seconds), memory=memory, operations=operations_per_token())


def _seconds(step: Step, batches: list[Batch]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for batch in batches:
        step(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - begin
