"""Random models of every architecture of llama.cpp that is written, and what llama.cpp itself computes with their files."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tandem.data import Tokenizer
from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    HybridLM,
    LinearScaling,
    Llama3Scaling,
    MambaConfig,
    MixtureOfExperts,
    ModelConfig,
    MoEConfig,
    PairScaling,
    RopeScaling,
    Routing,
    SequenceLayout,
    YarnScaling,
)

PEER = "needs llama.cpp: pip install llama-cpp-python==0.3.36"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Returns 2048 buckets, it's\n  what we've asked for. über "] * 2, vocab_size=300)


def build(config: ModelConfig, seed: int, tokens: Tensor | None = None) -> HybridLM:
    """A model with lively random weights, under which no router is within 1e-4 of another choice on these tokens."""
    for attempt in range(seed, seed + 50):
        model = HybridLM(config).eval()
        _randomize(model, attempt)
        if tokens is None or _smallest_gap(model, tokens) > 1e-4:
            return model
    raise AssertionError("no seed gives clear choices")


def _randomize(model: HybridLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            drawn = torch.randn(tensor.shape, generator=generator)
            last = name.split(".")[-1]
            if last == "A_log":
                tensor.copy_(1.0 + 0.7 * drawn)
            elif last == "dt_bias":
                tensor.copy_(-2.0 + drawn)
            elif "norm" in name or last == "D":
                tensor.copy_(1.0 + 0.3 * drawn)
            elif tensor.ndim == 1:
                tensor.copy_(0.3 * drawn)
            else:
                fan_in = tensor.shape[1] if last in ("gate_up_EDF", "down_EFD") else tensor.shape[-1]
                tensor.copy_(1.2 * fan_in**-0.5 * drawn)


@torch.no_grad()
def _smallest_gap(model: HybridLM, tokens: Tensor) -> float:
    gaps = [1.0]

    def watch(layer: Any, _: Any, output: tuple[Tensor, Routing]) -> None:
        config, ranked_TE = layer.config, output[1].scores_TE
        if layer.island.bias_E is not None:
            ranked_TE = ranked_TE + layer.island.bias_E
        if config.top_groups < config.expert_groups:
            ranked_TGE = ranked_TE.unflatten(1, (config.expert_groups, -1))
            best_TG = ranked_TGE.topk(2, dim=-1).values.sum(-1)
            gaps.append(_edge(best_TG, config.top_groups))
            closed_TG = torch.ones_like(best_TG).scatter(1, best_TG.topk(config.top_groups, dim=-1).indices, 0.0)
            ranked_TE = (ranked_TGE - 1e9 * closed_TG[..., None]).flatten(1)
        if config.top_k < config.experts:
            gaps.append(_edge(ranked_TE, config.top_k))

    hooks = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, MixtureOfExperts)]
    if hooks:
        logits(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def _edge(scores: Tensor, count: int) -> float:
    ordered = scores.sort(dim=-1, descending=True).values
    return float((ordered[:, count - 1] - ordered[:, count]).min())


@torch.no_grad()
def logits(model: HybridLM, tokens: Tensor) -> Tensor:
    return model(tokens, SequenceLayout.from_lengths([len(tokens)], chunk=model.config.chunk)).float()


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@st.composite
def _scaling(draw: st.DrawFn, turned: int, pair_factors: bool) -> RopeScaling | None:
    factor = draw(st.sampled_from([2.0, 8.0]))
    kinds: list[RopeScaling | None] = [None] * 3 + [LinearScaling(factor=factor)]
    kinds.append(YarnScaling(factor=factor, original_context=32, attention_factor=draw(st.sampled_from([None, 1.3]))))
    if pair_factors:
        kinds.append(Llama3Scaling(factor=factor, original_context=64))
        kinds.append(PairScaling(factors=tuple(1.0 + k for k in range(turned // 2))))
    return draw(st.sampled_from(kinds))


@st.composite
def attention(
    draw: st.DrawFn, *, switch: bool = False, part: bool = False, pair_factors: bool = False, **fixed: Any
) -> AttentionConfig:
    heads, width = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([8, 16]))
    turned = draw(st.sampled_from([None, width // 2])) if part else None
    rope = draw(st.booleans()) if switch else fixed.pop("rope", True)
    options: dict[str, Any] = {
        "heads": heads,
        "kv_heads": draw(st.sampled_from(divisors(heads))),
        "head_width": width,
        "qk_norm": False,
        "rope": rope,
        "bias": draw(st.booleans()),
        "out_bias": draw(st.booleans()),
    }
    if rope:
        options |= {"rope_base": draw(st.sampled_from([100.0, 5e5])), "rotary_width": turned}
        options["rope_scaling"] = draw(_scaling(turned or width, pair_factors))
    return AttentionConfig(**{**options, **fixed})


@st.composite
def mamba(draw: st.DrawFn, inner: int) -> MambaConfig:
    heads = draw(st.sampled_from([2, 4, 8]))
    return MambaConfig(
        heads=heads,
        head_width=inner // heads,
        state=draw(st.sampled_from([4, 16])),
        groups=draw(st.sampled_from(divisors(heads))),
        conv=draw(st.integers(2, 4)),
        chunk=8,
        conv_bias=draw(st.booleans()),
    )


@st.composite
def experts(draw: st.DrawFn, shared: bool | None) -> MoEConfig:
    count = draw(st.sampled_from([4, 8]))
    shared = draw(st.booleans()) if shared is None else shared
    return MoEConfig(
        experts=count,
        top_k=draw(st.integers(1, count // 2)),
        hidden=draw(st.sampled_from([16, 32])),
        shared=int(shared),
        shared_hidden=draw(st.sampled_from([None, 24, 32])) if shared else None,
        balance_weight=0.0,
    )


@st.composite
def dense(draw: st.DrawFn, activation: str = "swiglu", bias: bool = False) -> DenseConfig:
    hidden = draw(st.sampled_from([24, 32]))
    return DenseConfig(hidden=hidden, activation=activation, bias=bias and draw(st.booleans()))


def _frame(draw: st.DrawFn, **options: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=draw(st.sampled_from([300, 317])),
        norm_eps=draw(st.sampled_from([1e-6, 1e-2])),
        tie_embeddings=draw(st.booleans()),
        context=256,
        **options,
    )


def _multipliers(draw: st.DrawFn) -> dict[str, float]:
    return {
        "embedding_scale": draw(st.sampled_from([1.0, 12.0])),
        "residual_scale": draw(st.sampled_from([1.0, 0.22])),
        "logit_scale": 1 / draw(st.sampled_from([1.0, 6.0])),
    }


_layers = st.integers(1, 4)
_widths = st.sampled_from([32, 64])
_scales = st.sampled_from([None, 0.0625])


@st.composite
def llama(draw: st.DrawFn) -> ModelConfig:
    feed = draw(st.one_of(dense(bias=True), experts(shared=False)))
    shape = draw(attention(pair_factors=True))
    return _frame(draw, width=draw(_widths), pattern=f"(AF){draw(_layers)}", attention=shape, ffn=feed)


@st.composite
def qwen2(draw: st.DrawFn) -> ModelConfig:
    shape = draw(attention(bias=True, out_bias=False))
    width = shape.heads * shape.head_width
    return _frame(draw, width=width, pattern=f"(AF){draw(_layers)}", attention=shape, ffn=draw(dense()))


def _normed(architecture: str) -> Callable[[], st.SearchStrategy[ModelConfig]]:
    @st.composite
    def make(draw: st.DrawFn) -> ModelConfig:
        shape = draw(attention(out_bias=False, qk_norm=True, qk_norm_first=architecture == "qwen3"))
        feed = draw(experts(shared=True) if architecture == "hunyuan-moe" else dense())
        return _frame(draw, width=draw(_widths), pattern=f"(AF){draw(_layers)}", attention=shape, ffn=feed)

    return make


def _granite(architecture: str) -> Callable[[], st.SearchStrategy[ModelConfig]]:
    @st.composite
    def make(draw: st.DrawFn) -> ModelConfig:
        shape = draw(attention(switch=architecture == "granite", pair_factors=True, scale=draw(_scales)))
        feed = draw(experts(shared=None) if architecture == "granitemoe" else dense(bias=True))
        scales = {**_multipliers(draw), "embedding_scale": 12.0}  # else it is a plain llama
        layers = f"(AF){draw(_layers)}"
        return _frame(draw, width=draw(_widths), pattern=layers, attention=shape, ffn=feed, **scales)

    return make


@st.composite
def granitehybrid(draw: st.DrawFn) -> ModelConfig:
    width = draw(_widths)
    mixers = ["M", "A", *draw(st.lists(st.sampled_from("MA"), max_size=2))]
    return _frame(
        draw,
        width=width,
        pattern="F".join([*draw(st.permutations(mixers)), ""]),
        attention=draw(attention(switch=True, part=True, pair_factors=True, scale=draw(_scales))),
        mamba=draw(mamba(2 * width)),
        ffn=draw(st.one_of(dense(bias=True), experts(shared=None))),
        **_multipliers(draw),
    )


@st.composite
def mamba2(draw: st.DrawFn) -> ModelConfig:
    width = draw(_widths)
    inner = draw(st.sampled_from([width, 2 * width]))
    return _frame(draw, width=width, pattern=f"(M){draw(_layers)}", mamba=draw(mamba(inner)))


@st.composite
def nemotron_h(draw: st.DrawFn) -> ModelConfig:
    width = draw(_widths)
    layers = draw(st.lists(st.sampled_from("MAF"), max_size=2))
    return _frame(
        draw,
        width=width,
        pattern="".join(draw(st.permutations([*"FMA", *layers]))),
        attention=draw(attention(rope=False)),
        mamba=draw(mamba(draw(st.sampled_from([width, 2 * width])))),
        ffn=draw(dense("relu2", bias=True)),
    )


@st.composite
def nemotron_h_moe(draw: st.DrawFn) -> ModelConfig:
    config = draw(nemotron_h())
    shape = draw(experts(shared=True))
    groups = draw(st.sampled_from([1, 2]))
    open_groups = draw(st.integers(1, groups))
    feed = dataclasses.replace(
        shape,
        top_k=min(shape.top_k, shape.experts // groups * open_groups // 2),
        activation="relu2",
        scores="sigmoid",
        selection_bias=draw(st.booleans()),
        renormalize=draw(st.booleans()),
        routed_scale=draw(st.sampled_from([1.0, 2.5])),
        latent=draw(st.sampled_from([None, 8])),
        expert_groups=groups,
        top_groups=open_groups,
    )
    return config.replace(ffn=feed)


FAMILIES: dict[str, Callable[[], st.SearchStrategy[ModelConfig]]] = {
    "qwen2": qwen2,
    "llama": llama,
    "granite": _granite("granite"),
    "granitemoe": _granite("granitemoe"),
    "granitehybrid": granitehybrid,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
    "nemotron_h_moe": nemotron_h_moe,
    "qwen3": _normed("qwen3"),
    "hunyuan-dense": _normed("hunyuan-dense"),
    "hunyuan-moe": _normed("hunyuan-moe"),
}
