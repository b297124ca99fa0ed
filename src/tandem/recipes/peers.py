"""Tandem beside transformers and llama.cpp on the same weights: a released model of random weights, in interleaved rounds.

The weights are made by transformers and saved; Tandem loads that directory and writes the GGUF files that llama.cpp loads.
Before anything is timed, the logits of all sides are compared on one prompt. Each side has a process of its own. Start at
`compare_peers`.
"""

import importlib
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandem.hub import load
from tandem.hub.gguf import has_llama_cpp, llama_cpp_logits, write_gguf
from tandem.hub.huggingface import load_model
from tandem.nn import AttentionConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig
from tandem.recipes.benchmark import (
    BATCH,
    PROMPT_TOKENS,
    STEPS,
    Ceiling,
    Side,
    decoding,
    prefill,
    prefill_operations,
    step_bytes,
)
from tandem.recipes.granite import granite_config

LLAMA = "pip install llama-cpp-python==0.3.36"
SHAPE = ModelConfig(
    vocab_size=16_384,
    width=512,
    pattern="(MF)5 AF (MF)9 AF (MF)4",
    attention=AttentionConfig(heads=8, kv_heads=4, head_width=64, qk_norm=False),
    mamba=MambaConfig(heads=16, head_width=64, state=128, groups=1),
    ffn=MoEConfig(experts=8, top_k=2, hidden=256),
)
"""112M parameters: 20 mixers, the 6th and 16th of attention, each followed by experts."""
BATCH_STEPS = 32
_CHECKED = 48  # tokens of the prompt on which logits are compared


@dataclass(frozen=True, slots=True)
class Work:
    """A row of the comparison.

    Attributes:
        sides: makers of the sides, ours first, by the name that is shown.
        tokens: how many one run handles.
    """

    name: str
    tokens: int
    sides: dict[str, Callable[[Path], Callable[[], Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRow:
    """Seconds of one piece of work, round by round.

    Attributes:
        seconds: by side, ours first; empty for a side that is not installed.
        share: of the measured ceiling that ours reaches.
    """

    work: str
    tokens: int
    seconds: dict[str, tuple[float, ...]]
    share: str

    def cells(self) -> list[list[str]]:
        """A line a peer: work, our tokens/s, share, peer, its tokens/s, median ratio with its range."""
        (_, ours), *peers = self.seconds.items()
        return [[self.work, self._rate(ours), self.share, name, *self._beside(ours, theirs)] for name, theirs in peers]

    def ratios(self, peer: str) -> list[float]:
        """Our tokens a second over the peer's, round by round."""
        ours = next(iter(self.seconds.values()))
        return [b / a for a, b in zip(ours, self.seconds[peer], strict=True)]

    def _beside(self, ours: Sequence[float], theirs: Sequence[float]) -> list[str]:
        if not theirs:
            return [f"not installed: {LLAMA}", "–"]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return [self._rate(theirs), f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"]

    def _rate(self, seconds: Sequence[float]) -> str:
        return f"{self.tokens / statistics.median(seconds):,.0f}"


def compare_peers(ceiling: Ceiling, *, rounds: int = 5) -> tuple[dict[str, float], list[PeerRow]]:
    """Compares logits, then times every piece of work in rounds of all its sides.

    Args:
        ceiling: measured in bfloat16.
    Returns:
        the distance of each side's logits from transformers' in float32, relative to their size, and the rows.
    Raises:
        ImportError: transformers or gguf is missing.
        ValueError: fewer than one round, or a side whose logits are further off than its number format explains.
    """
    if rounds < 1:
        raise ValueError(f"pairs={rounds} is below 1; use 5 or more")
    for package in ("transformers", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"tandem bench peers needs {package}: pip install 'tandem-lm[bench]'")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder)
        distances = check_logits(folder)
        return distances, [_measure(work, folder, ceiling, rounds) for work in WORKS]


def write_weights(folder: Path) -> None:
    """A directory of transformers, and GGUF files in bf16 and q8_0, all of the same random weights."""
    transformers = _quiet_transformers()
    torch.manual_seed(0)
    model = transformers.GraniteMoeHybridForCausalLM(granite_config(transformers, SHAPE)).bfloat16()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "router" in name:  # as clear in its choices as a trained one; near ties fall with any rounding
                weight.copy_(torch.randn(weight.shape))
    model.save_pretrained(folder / "model")
    ours, tokenizer = _model(folder, "bfloat16"), load("nano")[1]
    if has_llama_cpp():
        for format in ("bf16", "q8_0"):
            write_gguf(ours, tokenizer, folder / f"{format}.gguf", format=format)


def check_logits(folder: Path) -> dict[str, float]:
    """Relative distance of each side's last logits of a prompt from transformers' in float32.

    Raises:
        ValueError: Tandem in float32 differs by more than 1e-3, or a side by more than thrice what bfloat16 does to transformers
            (8-bit weights: ten times).
    """
    prompt = prompt_tokens(_CHECKED)
    exact = _peer_logits(folder, prompt, torch.float32)
    sides = {
        "Tandem float32": prefill(_model(folder, "float32"), prompt)[0],
        "transformers bf16": _peer_logits(folder, prompt, torch.bfloat16),
        "Tandem bf16": prefill(_model(folder, "bfloat16"), prompt)[0],
        "Tandem int8": _stepped(_int8_model(folder), prompt),
    }
    if has_llama_cpp():
        sides |= {
            f"llama.cpp {kind}": llama_cpp_logits(folder / f"{kind}.gguf", prompt)[-1] for kind in ("bf16", "q8_0")
        }
    found = {name: float((logits.float() - exact).norm() / exact.norm()) for name, logits in sides.items()}
    rounding = found["transformers bf16"]
    allowed = {"Tandem float32": 1e-3, "Tandem int8": 10 * rounding, "llama.cpp q8_0": 10 * rounding}
    for name, distance in found.items():
        if not distance <= allowed.get(name, 3 * rounding):
            raise ValueError(f"{name} computes something else: its logits are {distance:.1e} off transformers'")
    return found


def prompt_tokens(count: int) -> Tensor:
    """The same tokens for all sides."""
    return torch.randint(3, SHAPE.vocab_size, (count,), generator=torch.Generator().manual_seed(0))


def _measure(work: Work, folder: Path, ceiling: Ceiling, rounds: int) -> PeerRow:
    here = {name: make for name, make in work.sides.items() if has_llama_cpp() or not name.startswith("llama")}
    sides = {name: Side(make, folder) for name, make in here.items()}
    try:
        for side in sides.values():
            side.seconds()
        times = [{name: side.seconds() for name, side in sides.items()} for _ in range(rounds)]
    finally:
        for side in sides.values():
            side.close()
    seconds = {name: tuple(round_[name] for round_ in times if name in round_) for name in work.sides}
    rate = work.tokens / statistics.median(next(iter(seconds.values())))
    return PeerRow(work=work.name, tokens=work.tokens, seconds=seconds, share=_share(work, rate, folder, ceiling))


def _share(work: Work, rate: float, folder: Path, ceiling: Ceiling) -> str:
    config = _model(folder, "bfloat16").config
    if work.name.startswith("prefill"):
        return ceiling.product_share(rate * prefill_operations(config, PROMPT_TOKENS))
    sequences = BATCH if work.name == "decode-16" else 1
    return ceiling.memory_share(rate / sequences * step_bytes(config, sequences, 1 if "int8" in work.name else 2))


def _model(folder: Path, dtype: str) -> HybridLM:
    plain = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    return load_model(folder / "model", plain, dtype).eval()


def _int8_model(folder: Path) -> HybridLM:
    model = _model(folder, "bfloat16")
    model.round_to_int8()
    return model


@torch.inference_mode()
def _stepped(model: HybridLM, prompt: Tensor) -> Tensor:
    """The last logits, token by token."""
    state = model.new_state(1)
    steps = [model.next_logits(token, state.layout([1]), state) for token in prompt.split(1)]
    return steps[-1][0]


def _quiet_transformers() -> Any:
    # On use: transformers is the extra `bench`, and slow to import.
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _peer_model(folder: Path, dtype: torch.dtype) -> Any:
    return _quiet_transformers().GraniteMoeHybridForCausalLM.from_pretrained(folder / "model", dtype=dtype).eval()


@torch.inference_mode()
def _peer_logits(folder: Path, prompt: Tensor, dtype: torch.dtype) -> Tensor:
    return _peer_model(folder, dtype)(input_ids=prompt[None], logits_to_keep=1).logits[0, -1].float()


def _llama(path: Path) -> Any:
    threads = torch.get_num_threads()
    return importlib.import_module("llama_cpp").Llama(
        str(path),
        n_ctx=4096,
        n_batch=PROMPT_TOKENS,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )


def _our_prefill(folder: Path) -> Callable[[], Any]:
    model, prompt = _model(folder, "bfloat16"), prompt_tokens(PROMPT_TOKENS)
    return lambda: prefill(model, prompt)


def _our_decode(folder: Path) -> Callable[[], Any]:
    return decoding(_model(folder, "bfloat16"), 1)


def _our_batch(folder: Path) -> Callable[[], Any]:
    return decoding(_model(folder, "bfloat16"), BATCH, BATCH_STEPS)


def _our_int8(folder: Path) -> Callable[[], Any]:
    return decoding(_int8_model(folder), 1)


def _peer_prefill(folder: Path) -> Callable[[], Any]:
    model, prompt = _peer_model(folder, torch.bfloat16), prompt_tokens(PROMPT_TOKENS)[None]
    return torch.inference_mode()(lambda: model(input_ids=prompt, use_cache=True, logits_to_keep=1))


def _peer_decode(folder: Path, sequences: int = 1, steps: int = STEPS) -> Callable[[], Any]:
    model, memory = _peer_model(folder, torch.bfloat16), {}
    tokens = torch.zeros(sequences, 1, dtype=torch.long)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(steps):
            output = model(input_ids=tokens, past_key_values=memory.get("cache"), use_cache=True)
            memory["cache"] = output.past_key_values

    return run


def _peer_batch(folder: Path) -> Callable[[], Any]:
    return _peer_decode(folder, BATCH, BATCH_STEPS)


def _llama_prefill(folder: Path) -> Callable[[], Any]:
    model, prompt = _llama(folder / "bf16.gguf"), prompt_tokens(PROMPT_TOKENS).tolist()

    def run() -> None:
        model.reset()
        model._ctx.kv_cache_clear()  # `reset` alone leaves the recurrent states
        model.eval(prompt)

    return run


def _llama_decode(folder: Path, kind: str = "bf16") -> Callable[[], Any]:
    model = _llama(folder / f"{kind}.gguf")

    def run() -> None:
        for _ in range(STEPS):
            model.eval([0])

    return run


def _llama_int8(folder: Path) -> Callable[[], Any]:
    return _llama_decode(folder, "q8_0")


WORKS = (
    Work("prefill", PROMPT_TOKENS, {"ours": _our_prefill, "transformers": _peer_prefill, "llama.cpp": _llama_prefill}),
    Work("decode", STEPS, {"ours": _our_decode, "transformers": _peer_decode, "llama.cpp": _llama_decode}),
    Work("decode-16", BATCH_STEPS * BATCH, {"ours": _our_batch, "transformers": _peer_batch}),
    Work("decode, int8", STEPS, {"ours": _our_int8, "llama.cpp q8_0": _llama_int8}),
)
