"""Random models of released families, built by `transformers`, and what it computes with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

VOCABULARY = 64


@dataclass(frozen=True)
class Released:
    """A model to be: the name of its family and what its config class takes."""

    family: str
    options: dict[str, Any]

    def build(self, seed: int = 0) -> Any:
        """The model with random weights in eval mode, attention written out."""
        import transformers

        transformers.logging.disable_progress_bar()

        prefix = {
            "llama": "Llama",
            "qwen2": "Qwen2",
            "granitemoehybrid": "GraniteMoeHybrid",
            "bamba": "Bamba",
            "mamba2": "Mamba2",
            "nemotron_h": "NemotronH",
        }[self.family]
        config = getattr(transformers, f"{prefix}Config")(vocab_size=VOCABULARY, pad_token_id=None, **self.options)
        model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
        randomize(model, seed)
        return model


def randomize(model: nn.Module, seed: int) -> None:
    """Draws every weight anew, so that none is an accidental 0 or 1; sizes keep the logits lively."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            last = name.split(".")[-2:] if name.endswith(("weight", "bias")) else [name.split(".")[-1]]
            if last[-1] == "A_log":
                normal(tensor, 1.0, 0.7)
            elif last[-1] == "dt_bias":
                normal(tensor, -2.0, 1.0)
            elif last[-1] == "e_score_correction_bias":
                normal(tensor, 0.0, 0.3)
            elif last[-1] == "inv_freq" or name.endswith("original_inv_freq"):
                continue
            elif "norm" in last[0] or last[-1] == "D":
                normal(tensor, 1.0, 0.3)
            elif tensor.ndim == 1:
                normal(tensor, 0.0, 0.3)
            else:
                normal(tensor, 0.0, 1.2 * tensor.shape[-1] ** -0.5)


def with_clear_choices(released: Released, tokens: list[Tensor]) -> Any:
    """Builds the model with weights under which no router is within 1e-3 of another choice on these tokens."""
    for seed in range(50):
        model = released.build(seed)
        if _smallest_gap(model, tokens) > 1e-3:
            return model
    raise AssertionError("no seed gives clear choices")


@torch.no_grad()
def _smallest_gap(model: Any, tokens: list[Tensor]) -> float:
    gaps = [1.0]
    routers = [module for module in model.modules() if type(module).__name__.endswith(("TopKRouter", "TopkRouter"))]

    def watch(router: Any, _: Any, output: tuple[Tensor, ...]) -> None:
        gaps.append(_gap(router, output[0]))

    hooks = [router.register_forward_hook(watch) for router in routers]
    for row in tokens if routers else []:
        model(row[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def _gap(router: Any, logits_TE: Tensor) -> float:
    groups, top_groups = getattr(router, "num_group", 1), getattr(router, "topk_group", 1)
    sigmoid = hasattr(router, "e_score_correction_bias")
    ranked_TE = logits_TE.sigmoid() + router.e_score_correction_bias if sigmoid else logits_TE
    gaps = []
    if top_groups < groups:
        best_TG = ranked_TE.unflatten(1, (groups, -1)).topk(2, dim=-1).values.sum(-1)
        gaps.append(_edge(best_TG, top_groups))
        kept_TG = torch.zeros_like(best_TG).scatter(1, best_TG.topk(top_groups, dim=-1).indices, 1.0)
        ranked_TE = ranked_TE.masked_fill(kept_TG.repeat_interleave(ranked_TE.shape[1] // groups, 1) == 0, -1e9)
    if router.top_k < ranked_TE.shape[1]:
        gaps.append(_edge(ranked_TE, router.top_k))
    return min(gaps, default=1.0)


def _edge(scores: Tensor, count: int) -> float:
    ordered = scores.sort(dim=-1, descending=True).values
    return float((ordered[:, count - 1] - ordered[:, count]).min())


def write(model: Any, directory: Path, **options: Any) -> Path:
    """Saves a model and a tokenizer of as many words; returns the directory."""
    model.save_pretrained(directory, **options)
    words = {f"w{k}": k for k in range(VOCABULARY)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(directory / "tokenizer.json"))
    return directory


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


_kinds = st.lists(st.sampled_from(["linear_attention", "full_attention"]), min_size=1, max_size=4)
_limits = st.sampled_from([(0.0, float("inf")), (0.05, float("inf")), (0.02, 0.15)])


def _attention(draw: st.DrawFn, width: int) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from(divisors(heads))),
    }


@st.composite
def _rope(draw: st.DrawFn, base: float) -> dict[str, Any]:
    """Plain RoPE half the time, else a kind of scaling that bites within a few tokens."""
    kind = draw(st.sampled_from(["default"] * 3 + ["linear", "llama3", "yarn"]))
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": base}
    if kind != "default":
        found["factor"] = draw(st.sampled_from([2.0, 8.0]))
    if kind in ("llama3", "yarn"):
        found["original_max_position_embeddings"] = draw(st.sampled_from([16, 64]))
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    if kind == "yarn":
        found |= draw(st.sampled_from([{}, {"beta_fast": 4.0}, {"attention_factor": 1.3}, {"truncate": False}]))
        found |= draw(st.sampled_from([{}, {"mscale": 0.7, "mscale_all_dim": 1.1}]))
    return found


@st.composite
def llama(draw: st.DrawFn) -> Released:
    options = _attention(draw, draw(st.sampled_from([16, 32, 64])))
    options |= {
        "head_dim": draw(st.sampled_from([6, 8, 16])),
        "intermediate_size": draw(st.sampled_from([20, 48])),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "rope_parameters": draw(_rope(draw(st.sampled_from([100.0, 5e5])))),
    }
    return Released("llama", options)


@st.composite
def qwen2(draw: st.DrawFn) -> Released:
    options = _attention(draw, draw(st.sampled_from([16, 32, 64])))
    options |= {
        "intermediate_size": draw(st.sampled_from([20, 48])),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_new", "relu"])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(_rope(draw(st.sampled_from([100.0, 1e6])))),
    }
    return Released("qwen2", options)


def _ibm(draw: st.DrawFn) -> dict[str, Any]:
    """What Granite and Bamba share."""
    width = draw(st.sampled_from([16, 32]))
    heads = draw(st.sampled_from([2, 4, 8]))
    return {
        **_attention(draw, width),
        "mamba_n_heads": heads,
        "mamba_n_groups": draw(st.sampled_from(divisors(heads))),
        "mamba_expand": draw(st.sampled_from([1, 2])),
        "mamba_d_state": draw(st.sampled_from([4, 16])),
        "mamba_d_conv": draw(st.integers(2, 4)),
        "mamba_chunk_size": draw(st.sampled_from([8, 16])),
        "mamba_conv_bias": draw(st.booleans()),
        "mamba_proj_bias": draw(st.booleans()),
        "time_step_limit": draw(_limits),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
    }


@st.composite
def granite(draw: st.DrawFn) -> Released:
    experts, kinds = draw(st.sampled_from([0, 4, 8])), draw(_kinds)
    dense = "linear_attention" not in kinds
    options = _ibm(draw) | {
        "layer_types": kinds,
        "num_hidden_layers": len(kinds),
        "num_local_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, max(experts // 2, 1))),
        "intermediate_size": draw(st.sampled_from([16, 24])),
        "shared_intermediate_size": draw(st.sampled_from([16, 40])),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "relu"])) if dense else "silu",
        "position_embedding_type": draw(st.sampled_from([None, "rope"])),
        "embedding_multiplier": draw(st.sampled_from([1, 12.0])),
        "residual_multiplier": draw(st.sampled_from([1.0, 0.22])),
        "attention_multiplier": draw(st.sampled_from([1.0, 0.0625])),
        "logits_scaling": draw(st.sampled_from([1.0, 6.0])),
    }
    return Released("granitemoehybrid", options)


@st.composite
def bamba(draw: st.DrawFn) -> Released:
    layers = draw(st.integers(1, 4))
    attended = draw(st.lists(st.integers(0, layers - 1), unique=True))
    options = _ibm(draw) | {
        "num_attention_heads": 2,
        "num_key_value_heads": draw(st.sampled_from([1, 2])),
        "num_hidden_layers": layers,
        "attn_layer_indices": sorted(attended),
        "intermediate_size": draw(st.sampled_from([16, 24])),
        "hidden_act": "silu",
        "mlp_bias": draw(st.booleans()),
    }
    return Released("bamba", options)


@st.composite
def mamba2(draw: st.DrawFn) -> Released:
    heads, width = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([16, 32]))
    options = {
        "hidden_size": width,
        "expand": 2,
        "num_heads": heads,
        "head_dim": 2 * width // heads,
        "n_groups": draw(st.sampled_from(divisors(heads))),
        "state_size": draw(st.sampled_from([4, 16])),
        "conv_kernel": draw(st.integers(2, 4)),
        "chunk_size": draw(st.sampled_from([8, 16])),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "use_bias": draw(st.booleans()),
        "use_conv_bias": draw(st.booleans()),
        "time_step_limit": draw(_limits),
        "tie_word_embeddings": draw(st.booleans()),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
    }
    return Released("mamba2", options)


@st.composite
def nemotron(draw: st.DrawFn) -> Released:
    kinds = st.sampled_from(["linear_attention", "full_attention", "mlp", "moe"])
    heads, experts, groups = draw(st.sampled_from([2, 4])), draw(st.sampled_from([4, 8])), draw(st.sampled_from([1, 2]))
    open_groups = draw(st.integers(1, groups))
    options = _attention(draw, draw(st.sampled_from([16, 32]))) | {
        "head_dim": draw(st.sampled_from([8, 16])),
        "layers_block_type": draw(st.lists(kinds, min_size=1, max_size=4)),
        "intermediate_size": draw(st.sampled_from([16, 24])),
        "mlp_hidden_act": draw(st.sampled_from(["relu2", "silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "mlp_bias": draw(st.booleans()),
        "mamba_num_heads": heads,
        "mamba_head_dim": draw(st.sampled_from([8, 16])),
        "n_groups": draw(st.sampled_from(divisors(heads))),
        "ssm_state_size": draw(st.sampled_from([4, 16])),
        "conv_kernel": draw(st.integers(2, 4)),
        "chunk_size": draw(st.sampled_from([8, 16])),
        "use_bias": draw(st.booleans()),
        "use_conv_bias": draw(st.booleans()),
        "time_step_min": draw(st.sampled_from([0.001, 0.1])),
        "n_routed_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts // groups * open_groups // 2)),
        "moe_intermediate_size": draw(st.sampled_from([16, 24])),
        "moe_shared_expert_intermediate_size": draw(st.sampled_from([16, 40])),
        "moe_latent_size": draw(st.sampled_from([None, 8])),
        "n_group": groups,
        "topk_group": open_groups,
        "norm_topk_prob": draw(st.booleans()),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
    }
    return Released("nemotron_h", options)


FAMILIES: dict[str, Callable[[], st.SearchStrategy[Released]]] = {
    "llama": llama,
    "qwen2": qwen2,
    "granitemoehybrid": granite,
    "mamba2": mamba2,
    "bamba": bamba,
    "nemotron_h": nemotron,
}
