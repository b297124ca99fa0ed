"""Tandem beside transformers' GraniteMoeHybrid of one shape: the same tokens and threads, in interleaved pairs.

Each side lives in a process of its own and is set up as its users would have it: Tandem with what its training loop and its
generation set, the peer in the faster of float32 and bf16 autocast, tried first. Weights are random. What the peer's users can
switch on beside that, an allocator that keeps memory and torch.compile, are settings of a run. Start at `compare`.
"""

import importlib
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from torch import Tensor

from tandem.nn import AttentionConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig, SequenceLayout
from tandem.plan import flops, memory, parameters
from tandem.recipes.granite import COMPILED_CPU_CHUNK, CPU_CHUNK, compile_layers, granite_config
from tandem.recipes.quickstart import fast_precision
from tandem.train import keep_freed_memory

SHAPE = ModelConfig(
    vocab_size=16_384,
    width=256,
    pattern="(MF)3 AF (MF)3",
    attention=AttentionConfig(heads=8, kv_heads=4, head_width=32, qk_norm=False),
    mamba=MambaConfig(heads=8, head_width=64, state=128, groups=1),
    ffn=MoEConfig(experts=8, top_k=2, hidden=256),
)
ROWS, ROW_TOKENS, PROMPT_TOKENS, STEPS, BATCH = 4, 512, 2048, 128, 16
Work = Literal["train", "prefill", "decode", "decode-16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Seconds of both sides for one piece of work, pair by pair.

    Attributes:
        tokens: tokens one run of ours handles, and the peer's.
    """

    work: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    tokens: tuple[int, int]
    peer_precision: str

    @property
    def ratios(self) -> list[float]:
        """Our tokens a second over the peer's, pair by pair."""
        ours, theirs = self.tokens
        return [(ours / a) / (theirs / b) for a, b in zip(self.ours, self.peer, strict=True)]

    def row(self) -> list[str]:
        """work, our tokens/s, the peer's, median ratio with its range."""
        ours, theirs = (
            count / statistics.median(t) for count, t in zip(self.tokens, (self.ours, self.peer), strict=True)
        )
        spread = f"{statistics.median(self.ratios):.2f} ({min(self.ratios):.2f}–{max(self.ratios):.2f})"
        return [self.work, f"{ours:,.0f}", f"{theirs:,.0f} ({self.peer_precision})", spread]

    def share(self, ceiling: "Ceiling") -> str:
        """How much of the ceiling that our side is under it reaches: matrix products, or memory when decoding."""
        rate = self.tokens[0] / statistics.median(self.ours)
        if not self.work.startswith("decode"):
            return ceiling.product_share(rate * _operations(self.work))
        sequences = BATCH if self.work == "decode-16" else 1
        return ceiling.memory_share(rate / sequences * step_bytes(SHAPE, sequences, ceiling.value_bytes))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """What this machine does at best in a number format, measured.

    Attributes:
        matmul: operations a second of a 1,024 × 1,024 × 1,024 product, the best of a hundred.
        read: bytes a second of the sum of 256 MiB, the best of a hundred.
        value_bytes: bytes of a number.
    """

    matmul: float
    read: float
    value_bytes: int

    @classmethod
    def measure(cls, dtype: torch.dtype) -> "Ceiling":
        """Takes a few seconds: only the best of many runs tells what a shared machine can do."""
        a, b = torch.randn(2, 1024, 1024).to(dtype)
        many = torch.ones(1 << 26)
        return cls(
            matmul=2 * 1024**3 / min(seconds_of(lambda: torch.mm(a, b)) for _ in range(100)),
            read=many.nbytes / min(seconds_of(many.sum) for _ in range(100)),
            value_bytes=dtype.itemsize,
        )

    def product_share(self, operations: float) -> str:
        """How much of it this many operations a second are."""
        return f"{operations / self.matmul:.0%} of {self.matmul / 1e9:.0f} GFLOP/s"

    def memory_share(self, moved: float) -> str:
        """How much of it this many bytes a second are."""
        return f"{moved / self.read:.0%} of {self.read / 1e9:.0f} GB/s"


def _operations(work: str) -> float:
    """Operations a token."""
    return flops(SHAPE, lengths=[ROW_TOKENS]).training if work == "train" else prefill_operations(SHAPE, PROMPT_TOKENS)


def prefill_operations(config: ModelConfig, tokens: int) -> float:
    """Operations a token of a prefill, which needs the head for its last token only."""
    counts = flops(config, lengths=[tokens])
    return counts.forward - counts.by_kind["head"] * (1 - 1 / tokens)


def step_bytes(config: ModelConfig, sequences: int, value_bytes: int) -> int:
    """Bytes that a step must move: weights once (every expert is chosen by one of 16), SSM states there and back.

    The few keys and values are left out.
    """
    counts = parameters(config)
    weights = counts.active if sequences == 1 else counts.total
    return weights * value_bytes + 2 * sequences * memory(config).ssm_per_sequence


def compare(work: Work, *, pairs: int = 5, peer_keeps_memory: bool = False, peer_compiled: bool = False) -> Comparison:
    """Runs both sides in turn, after a warm-up of each.

    Args:
        peer_keeps_memory: give the peer the allocator setting of Tandem's training (`keep_freed_memory`) as well.
        peer_compiled: compile the peer's layers, for training, whose shapes stay.
    Raises:
        ImportError: transformers is missing.
        ValueError: fewer than one pair, or layers to be compiled for other work than training.
    """
    if pairs < 1:
        raise ValueError(f"pairs={pairs} is below 1; use 5 or more")
    if peer_compiled and work != "train":
        raise ValueError(f"peer_compiled=True is for train, not for {work}, where the peer's cache grows; leave it out")
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("tandem bench needs transformers: pip install 'tandem-lm[bench]'")
    ours = Side(_ours, work, work == "train")
    setting = (peer_keeps_memory, peer_compiled)
    peers = {precision: Side(_peer, work, precision, *setting) for precision in ("float32", "bfloat16")}
    try:
        ours.seconds()
        trials = {name: min(peer.seconds() for _ in range(3)) for name, peer in peers.items()}
        precision = min(trials, key=lambda name: trials[name])
        times = [(ours.seconds(), peers[precision].seconds()) for _ in range(pairs)]
    finally:
        for side in (ours, *peers.values()):
            side.close()
    counts = {"train": (ROWS * ROW_TOKENS,) * 2, "prefill": (PROMPT_TOKENS,) * 2, "decode": (STEPS, STEPS)}
    return Comparison(
        work=work,
        ours=tuple(a for a, _ in times),
        peer=tuple(b for _, b in times),
        tokens=counts.get(work, (STEPS * BATCH, STEPS)),
        peer_precision=precision,
    )


class Side:
    """A process that builds one side with `make(*arguments)` and times a run of it whenever it is asked."""

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        threads = torch.get_num_threads()
        self._process = context.Process(target=_answer, args=(theirs, threads, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def seconds(self) -> float:
        """How long one run took."""
        self._connection.send(True)
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("a side of the benchmark ended; its error is printed above") from None

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()


def _answer(
    connection: Connection, threads: int, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = make(*arguments)
    try:
        while connection.recv():
            connection.send(seconds_of(run))
    except EOFError:  # the other end is closed
        pass


def seconds_of(run: Callable[[], Any]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _tokens(*shape: int) -> Tensor:
    """The same tokens on both sides."""
    return torch.randint(0, SHAPE.vocab_size, shape, generator=torch.Generator().manual_seed(0))


def _ours(work: Work, keeps_memory: bool) -> Callable[[], Any]:
    if keeps_memory:
        keep_freed_memory()
    model = HybridLM(SHAPE)
    precision = fast_precision()
    if work == "train":
        layout = SequenceLayout.from_lengths([ROW_TOKENS] * ROWS, chunk=SHAPE.chunk)
        tokens = _tokens(ROWS * ROW_TOKENS)
        return _training(model, lambda: model.loss(tokens, layout, tokens).total, precision)
    model.eval()
    if precision == "bfloat16":
        model.bfloat16()
    if work == "prefill":
        return lambda: prefill(model, _tokens(PROMPT_TOKENS))
    return decoding(model, BATCH if work == "decode-16" else 1)


@torch.inference_mode()
def prefill(model: HybridLM, prompt: Tensor) -> Tensor:
    """Logits after the last token of a prompt, the state made for it."""
    state = model.new_state(1)
    return model.next_logits(prompt, state.layout([len(prompt)]), state)


def decoding(model: HybridLM, sequences: int, steps: int = STEPS) -> Callable[[], Any]:
    """A run of some steps of some sequences, from where the last run ended."""
    state = model.new_state(sequences)
    tokens = torch.zeros(sequences, dtype=torch.long)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(steps):
            model.next_logits(tokens, state.layout([1] * sequences), state)

    return run


def _peer(work: Work, precision: str, keeps_memory: bool, compiled: bool) -> Callable[[], Any]:
    # On use: transformers is the extra `bench`, and slow to import.
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    if keeps_memory:
        keep_freed_memory()
    chunk = COMPILED_CPU_CHUNK if compiled else CPU_CHUNK
    model = transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, SHAPE, chunk))
    if compiled:
        compile_layers(model)
    if work == "train":
        tokens = _tokens(ROWS, ROW_TOKENS)
        return _training(model, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss, precision)
    model.eval()
    if work == "prefill":
        prompt = _tokens(1, PROMPT_TOKENS)
        return _inference(lambda: model(input_ids=prompt, use_cache=True, logits_to_keep=1), precision)
    token, memory = torch.zeros(1, 1, dtype=torch.long), {}

    def decode() -> None:
        for _ in range(STEPS):
            output = model(input_ids=token, past_key_values=memory.get("cache"), use_cache=True)
            memory["cache"] = output.past_key_values

    return _inference(decode, precision)


def _training(model: torch.nn.Module, loss: Callable[[], Tensor], precision: str) -> Callable[[], Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _inference(run: Callable[[], Any], precision: str) -> Callable[[], Any]:
    def guarded() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            run()

    return guarded
