"""Generation on a GPU beside transformers' GraniteMoeHybrid of one shape: 64 tokens after 128, greedy. Start at `measure_decoding`.

First it is checked that the tokens of our captured steps are those of steps launched one by one, and how far below the best
any of them is by a forward pass in float32 without our kernels, with the same experts. Then both sides generate in turn, prefill included.

Shapes: S sequences, T tokens, V vocabulary.
"""

import copy
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.nn import HybridLM, ModelConfig, MoEConfig, SequenceLayout
from tandem.ops.triton.support import without_triton
from tandem.plan import memory, parameters
from tandem.recipes.granite import GPU_CHUNK, GRANITE, granite_config
from tandem.serve import Sampling, generate_batch, without_graphs

PROMPT_TOKENS, NEW_TOKENS, BATCHES = 128, 64, (1, 32)
_GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Generations of one batch, in seconds, run by run.

    Attributes:
        ours: of prefill and all tokens; first: of prefill and one token.
        peer: empty where transformers is not installed.
        same: sequences whose tokens are those of steps launched one by one.
        behind: largest distance of a chosen token below the best, in standard deviations of the logits of its place.
        step_bytes: what a step must move.
    """

    batch: int
    ours: tuple[float, ...]
    first: tuple[float, ...]
    peer: tuple[float, ...]
    same: int
    behind: float
    step_bytes: float

    @property
    def step(self) -> float:
        """Seconds of a step, by medians."""
        return (statistics.median(self.ours) - statistics.median(self.first)) / (NEW_TOKENS - 1)

    @property
    def ratios(self) -> list[float]:
        """Our speed over the peer's, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.peer, strict=bool(self.peer))]

    def cells(self, copy_rate: float) -> list[str]:
        """Batch, checks, tokens/s of both sides and their ratio with ranges, ms a step, its tokens/s and its share of a copy."""
        return [
            str(self.batch),
            f"{self.same}/{self.batch} the same, {self.behind:.2f} σ behind",
            self._speed(self.ours),
            self._speed(self.peer) if self.peer else "–",
            f"{statistics.median(self.ratios):.1f} ({min(self.ratios):.1f}–{max(self.ratios):.1f})"
            if self.peer
            else "–",
            f"{1e3 * statistics.median(self.first):.1f}",
            f"{1e3 * self.step:.3f}",
            f"{self.batch / self.step:,.0f}",
            f"{self.step_bytes / self.step / copy_rate:.0%}",
        ]

    def _speed(self, seconds: tuple[float, ...]) -> str:
        speeds = sorted(self.batch * NEW_TOKENS / s for s in seconds)
        return f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f}–{speeds[-1]:,.0f})"


def measure_decoding(device: str = "cuda", pairs: int = 5) -> Iterator[Decoding]:
    """A row a batch, as they are measured.

    Raises:
        ValueError: there is no such device, or fewer than one pair.
    """
    if device != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"device={device!r} cannot be timed; run on a machine with an NVIDIA GPU, with --device cuda")
    if pairs < 1:
        raise ValueError(f"pairs={pairs} is below 1; use 5 or more")
    torch.manual_seed(0)
    model = random_model(GRANITE, device)
    peer = _peer(GRANITE, device) if importlib.util.find_spec("transformers") else None
    return (_measured(model, peer, batch, pairs) for batch in BATCHES)


def step_bytes(shape: ModelConfig, batch: int, value_bytes: int = 2) -> float:
    """Bytes that a step must move: weights once, SSM states there and back, keys and values of the middle of the text.

    Of the routed experts those that some token is expected to choose, if all are equally likely.
    """
    counts, state = parameters(shape), memory(shape)
    weights, experts = counts.total, counts.by_kind["experts"]
    if isinstance(shape.ffn, MoEConfig):
        weights -= experts * (1 - shape.ffn.top_k / shape.ffn.experts) ** batch
    read = state.kv_per_token * (PROMPT_TOKENS + NEW_TOKENS // 2)
    return weights * value_bytes + batch * (2 * state.ssm_per_sequence + read)


def shortfall(model: HybridLM, prompts: list[list[int]], rows: list[list[int]]) -> float:
    """How far any greedy token of the first row is below the best by a forward pass in float32 without our kernels, in σ of its logits.

    That pass sends tokens to the experts that they went to: which of two nearly equal ones is chosen decides rounding, and
    turns all logits behind it.
    """
    exact, device = copy.deepcopy(model).float(), model.embedding.device
    prompt, new = prompts[0], rows[0]
    layout = SequenceLayout.from_lengths([len(prompt) + len(new) - 1], chunk=model.config.chunk, device=device)
    with torch.inference_mode():
        routes = _routes_of_the_first(model, prompts, rows)
        with without_triton():
            logits_TV = exact(torch.tensor([*prompt, *new[:-1]], device=device), layout, routes=routes)[
                len(prompt) - 1 :
            ]
    chosen_T = logits_TV.gather(1, torch.tensor(new, device=device)[:, None])[:, 0]
    return float(((logits_TV.amax(1) - chosen_T) / logits_TV.std(1)).max())


def _routes_of_the_first(model: HybridLM, prompts: list[list[int]], rows: list[list[int]]) -> list[Tensor]:
    """Experts of each layer, (T, K), that the tokens of the first sequence go to while all are generated."""
    state = model.new_state(len(prompts))
    parts = []
    for fed in (prompts, *([[row[place]] for row in rows] for place in range(len(rows[0]) - 1))):
        tokens_T = torch.tensor([k for ids in fed for k in ids], device=state.device)
        _, aux = model.hidden(tokens_T, state.layout([len(ids) for ids in fed]), state)
        parts.append([route_TK[: len(fed[0])] for route_TK in aux.routes])
    return [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)]


def random_model(shape: ModelConfig, device: str) -> HybridLM:
    """In bfloat16."""
    with torch.device(device):
        return HybridLM(shape).bfloat16().eval()


def _prompts(shape: ModelConfig, batch: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, shape.vocab_size, (batch, PROMPT_TOKENS), generator=generator).tolist()


def _measured(model: HybridLM, peer: Callable[[list[list[int]]], Any] | None, batch: int, pairs: int) -> Decoding:
    prompts = _prompts(model.config, batch)

    def generate(tokens: int) -> list[list[int]]:
        return generate_batch(model, prompts, sampling=_GREEDY, max_tokens=tokens)

    with without_graphs():
        plain = generate(NEW_TOKENS)
    rows = generate(NEW_TOKENS)
    if peer is not None:
        peer(prompts)
    ours, first, theirs = [], [], []
    for _ in range(pairs):
        ours.append(_seconds(lambda: generate(NEW_TOKENS)))
        first.append(_seconds(lambda: generate(1)))
        if peer is not None:
            theirs.append(_seconds(lambda: peer(prompts)))
    return Decoding(
        batch=batch,
        ours=tuple(ours),
        first=tuple(first),
        peer=tuple(theirs),
        same=sum(a == b for a, b in zip(rows, plain, strict=True)),
        behind=shortfall(model, prompts, rows),
        step_bytes=step_bytes(model.config, batch),
    )


def _seconds(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def _peer(shape: ModelConfig, device: str) -> Callable[[list[list[int]]], Any]:
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    with torch.device(device):
        model: Any = (
            transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, shape, GPU_CHUNK)).bfloat16().eval()
        )
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    return lambda prompts: model.generate(torch.tensor(prompts, device=device), do_sample=False, **length)
