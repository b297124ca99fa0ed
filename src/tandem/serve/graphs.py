"""Decode steps of a GPU, captured in CUDA graphs and replayed: hundreds of launches become one.

Sequences lie in slots of a pool. A graph serves a power of two of slots, and idle ones compute what nobody reads; a sequence
that ends leaves an idle slot, and once a smaller graph is enough the others move together. A graph is captured when it is
first needed, after a rehearsal on slots of its own, and captured again when keys and values outgrow the pool or the
model's weights lie elsewhere. Start at `stepping`.

Shapes: S sequences, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tandem.nn import DecodePool, DecodeState, HybridLM
from tandem.ops import greatest
from tandem.serve.sampling import Sampling, accepted, sample

_LEAST = 256  # tokens of a pool

Run = Callable[[], tuple[Tensor, Tensor]]
"""A step: logits_SV, and what `tandem.ops.greatest` says of them."""
Capture = Callable[[Run, Run], Run]


def cuda_graph(run: Run, rehearsal: Run) -> Run:
    """A function that repeats what `run` launches and returns the same tensors each time.

    Args:
        rehearsal: launches the same kernels on other memory, so that they are compiled before the capture.
    """
    rehearsal()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return result

    return replay


class StepGraphs:
    """Slots for sequences of one model, and a captured step for each power of two of them.

    Args:
        capture: makes a step repeatable.
    """

    def __init__(self, capture: Capture = cuda_graph) -> None:
        self._capture = capture
        self._pool: DecodePool | None = None
        self._graphs: dict[int, Run] = {}
        self._marks: _Marks | None = None
        self._embedding = 0  # where it lies
        self._tokens_S = self._host_S = torch.empty(0, dtype=torch.int64)
        self._slots: list[int] = []  # of the live sequences, in order
        self._held: list[int] = []  # tokens that each of them holds

    @torch.inference_mode()
    def load(self, model: HybridLM, state: DecodeState) -> None:
        """Takes over what a prefill has read; sequence i gets slot i."""
        count, longest = len(state.lengths), max(state.lengths)
        if self._pool is None or self._marks is None or not self._marks.hold(model) or count > len(self._tokens_S):
            slots = _power_of_two(max(count, len(self._tokens_S)))
            self._mark(model)
            self._pool = _pool(model, slots, longest, state.device)
            self._host_S = torch.zeros(slots, dtype=torch.int64, pin_memory=state.device.type == "cuda")
            self._tokens_S = self._host_S.to(state.device)
        self._reserve(longest)
        self._pool.load(state)
        self._slots, self._held = list(range(count)), list(state.lengths)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the live sequences."""
        assert self._pool is not None
        before = _power_of_two(self._slots[-1] + 1)
        self._slots, self._held = [self._slots[row] for row in rows], [self._held[row] for row in rows]
        if _power_of_two(len(rows)) < before:
            self._pool.gather(self._slots)
            self._slots = list(range(len(rows)))
        lengths = [0] * (self._slots[-1] + 1)
        for slot, held in zip(self._slots, self._held, strict=True):
            lengths[slot] = held
        self._pool.use(lengths)

    @torch.inference_mode()
    def draw(
        self, model: HybridLM, tokens: Sequence[int], sampling: Sampling, generators: Sequence[torch.Generator]
    ) -> list[int]:
        """Feeds one token to each live sequence and draws the next ones."""
        with torch.cuda.device_of(self._tokens_S):
            step = self._step(model)
            self._host_S.numpy()[self._slots] = tokens
            self._tokens_S.copy_(self._host_S, non_blocking=True)  # drawing waits for the device before the next one
            logits_SV, greatest_S = step()
        self._held = [held + 1 for held in self._held]
        rows = slice(len(self._slots)) if len(self._slots) == self._slots[-1] + 1 else self._slots
        return accepted(greatest_S[rows]) if sampling.greedy else sample(logits_SV[rows], sampling, generators)

    def _step(self, model: HybridLM) -> Run:
        """The graph of the slots in use, for one token more than they hold."""
        self._reserve(max(self._held) + 1)
        if self._embedding != model.embedding.data_ptr():  # the model was moved or cast since the last token
            self._mark(model)
        slots = _power_of_two(self._slots[-1] + 1)
        if slots not in self._graphs:
            self._graphs[slots] = self._captured(model, slots)
        return self._graphs[slots]

    def _mark(self, model: HybridLM) -> None:
        self._graphs, self._marks, self._embedding = {}, _Marks(model), model.embedding.data_ptr()

    def _reserve(self, tokens: int) -> None:
        assert self._pool is not None
        if tokens > self._pool.capacity:
            self._graphs.clear()
            self._pool.reserve(_power_of_two(tokens))

    def _captured(self, model: HybridLM, slots: int) -> Run:
        assert self._pool is not None
        tokens_S, real = self._tokens_S[:slots], self._pool.first(slots)
        other = _pool(model, slots, min(self._pool.capacity, model.config.context), tokens_S.device)

        def step(pool: DecodePool) -> tuple[Tensor, Tensor]:
            logits_SV = model.next_logits(tokens_S, pool.layout(), pool)
            return logits_SV, greatest(logits_SV)

        return self._capture(lambda: step(real), lambda: step(other))


class Steps:
    """Decode steps of some sequences, launched one by one."""

    def __init__(self, state: DecodeState) -> None:
        self._state = state

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the live sequences."""
        self._state = self._state.select(rows)

    @torch.inference_mode()
    def draw(
        self, model: HybridLM, tokens: Sequence[int], sampling: Sampling, generators: Sequence[torch.Generator]
    ) -> list[int]:
        """Feeds one token to each live sequence and draws the next ones."""
        fed_S = torch.tensor(tokens, device=self._state.device)
        logits_SV = model.next_logits(fed_S, self._state.layout([1] * len(tokens)), self._state)
        return sample(logits_SV, sampling, generators)


_enabled = True
# Graphs that no generation uses at the moment. They do not hold their model, which takes them along when it goes.
_idle: WeakKeyDictionary[HybridLM, list[StepGraphs]] = WeakKeyDictionary()


@contextmanager
def stepping(model: HybridLM, state: DecodeState) -> Iterator[StepGraphs | Steps]:
    """Decode steps behind a prefill: from graphs where the model can be captured, else one launch after another.

    Graphs and their slots stay with the model for the next generation; two at once have their own.
    """
    if not (_enabled and model.steps_on_device):
        yield Steps(state)
        return
    idle = _idle.setdefault(model, [])
    graphs = idle.pop() if idle else StepGraphs()
    graphs.load(model, state)
    try:
        yield graphs
    finally:
        idle.append(graphs)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Steps are launched one by one inside, so that graphs can be compared with them."""
    global _enabled  # noqa: PLW0603 # a switch of the process
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def _pool(model: HybridLM, slots: int, tokens: int, device: torch.device) -> DecodePool:
    room = _power_of_two(max(tokens, _LEAST))
    return DecodePool.empty(model.config, slots, room, model.embedding.dtype, device)


class _Marks:
    """Where a model's weights lie, and the format of autocast: what a graph has fixed."""

    def __init__(self, model: HybridLM) -> None:
        modules = list(model.modules())
        self._children = [(module._modules, dict(module._modules)) for module in modules]
        self._tables = [table for module in modules for table in (module._parameters, module._buffers)]
        self._then = self._now()

    def hold(self, model: HybridLM) -> bool:
        """Whether they are still true of the model."""
        same = all(now == then for now, then in self._children) and self._children[0][0] is model._modules
        return same and self._now() == self._then

    def _now(self) -> list[object]:
        format_ = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        return [format_, *(w.data_ptr() for table in self._tables for w in table.values() if w is not None)]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
