"""GGUF files of llama.cpp: config, weights and tokenizer in the words of a Hugging Face directory, dequantized on reading.

The package `gguf` (extra `hf`) reads the file and knows the block formats; here metadata and tensors get the names that
`tandem.hub.huggingface` has tables for.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from tandem.data import PretrainedTokenizer, SpecialTokens

# Names of llama.cpp for the tensors of Llama-type models, and ours.
_NAMES = (
    (re.compile(r"^token_embd\."), "embeddings."),
    (re.compile(r"^output_norm\."), "norm."),
    (re.compile(r"^output\."), "lm_head."),
    (re.compile(r"^blk\.(\d+)\.attn_norm\."), r"layers.\1.input_layernorm."),
    (re.compile(r"^blk\.(\d+)\.attn_([qkv])\."), r"layers.\1.self_attn.\2_proj."),
    (re.compile(r"^blk\.(\d+)\.attn_output\."), r"layers.\1.self_attn.o_proj."),
    (re.compile(r"^blk\.(\d+)\.ffn_norm\."), r"layers.\1.post_attention_layernorm."),
    (re.compile(r"^blk\.(\d+)\.ffn_(gate|up|down)\."), r"layers.\1.mlp.\2_proj."),
)
# Metadata under "ARCHITECTURE." and the key of a config.json.
_KEYS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
ARCHITECTURES = ("llama", "qwen2")
_TURNED = ("llama",)  # architectures whose queries and keys llama.cpp stores with the channels of a pair side by side
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class GGUFFile:
    """An open GGUF file of a Llama-type model.

    Attributes:
        path: where it lies.
        config: the content that `config.json` of the same model would have.

    Raises:
        ImportError: the package `gguf` is missing.
        ValueError: a damaged file, or a model that is not supported.
    """

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("gguf") is None:
            raise ImportError("reading GGUF files needs gguf: pip install 'tandem-lm[hf]'")
        self._library = importlib.import_module("gguf")  # on use: it is an extra
        self.path = path
        try:
            reader = self._library.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise ValueError(f"{path} is no GGUF file or is cut off ({error}); copy it again") from error
        self._metadata = {name: field.contents() for name, field in reader.fields.items()}
        self._architecture = self._metadata.get("general.architecture")
        if self._architecture not in ARCHITECTURES:
            raise ValueError(
                f"{path} has general.architecture={self._architecture!r}; supported: {', '.join(ARCHITECTURES)}"
            )
        self._tensors = {_spelled(tensor.name): tensor for tensor in reader.tensors}
        self.config = self._config()

    @property
    def names(self) -> set[str]:
        """Names of all tensors, as the tables of `tandem.hub.huggingface` have them."""
        return set(self._tensors)

    def read(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yields tensors in order, dequantized to float32, queries and keys in the order of channels that RoPE turns here."""
        for name in names:
            tensor = self._tensors[name]
            try:
                values = self._library.dequantize(tensor.data, tensor.tensor_type)
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self.path} has {name} as {tensor.tensor_type.name}, unsupported: {error}"
                ) from error
            yield self._in_order(name, torch.from_numpy(values.copy()))

    def tokenizer(self) -> PretrainedTokenizer:
        """The tokenizer and chat template that the file carries.

        Raises:
            ValueError: another kind than byte-level BPE, or one that splits words by rules not known here.
        """
        kind, split = (self._metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if kind != "gpt2" or split not in _SPLITS:
            known = ", ".join(f"gpt2 with pre={name!r}" for name in _SPLITS)
            raise ValueError(f"{self.path} has tokenizer.ggml.model={kind!r} with pre={split!r}; supported: {known}")
        tokens, kinds, merges = (self._required(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
        pairs = [tuple(merge.split(" ", 1)) for merge in merges]
        try:
            backend = tokenizers.Tokenizer(models.BPE(vocab={t: k for k, t in enumerate(tokens)}, merges=pairs))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{self.path} has no usable tokenizer ({error}); copy it again") from error
        backend.normalizer, backend.pre_tokenizer = _SPLITS[split]()
        backend.decoder = decoders.ByteLevel()
        for token, number in zip(tokens, kinds, strict=True):
            if number in (_CONTROL, _USER_DEFINED):
                backend.add_tokens([AddedToken(token, special=number == _CONTROL, normalized=False)])
        return PretrainedTokenizer(backend, self._special_tokens())

    @property
    def chat(self) -> bool:
        """Whether the file has a chat template."""
        return "tokenizer.chat_template" in self._metadata

    def _special_tokens(self) -> SpecialTokens:
        bos, eos, turn = (self._metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot"))
        return SpecialTokens(
            bos_id=bos,
            eos_id=eos,
            stop_ids=frozenset(k for k in (eos, turn) if k is not None),
            add_bos=self._metadata.get("tokenizer.ggml.add_bos_token"),
            chat_template=self._metadata.get("tokenizer.chat_template"),
        )

    def _config(self) -> dict[str, Any]:
        prefix = f"{self._architecture}."
        scaling = self._metadata.get(f"{prefix}rope.scaling.type", "none")
        if scaling != "none" or "rope_freqs.weight" in self._tensors:
            raise ValueError(f"{self.path} has scaled RoPE ({scaling}); supported: RoPE without scaling")
        plain = {key: self._metadata[prefix + name] for name, key in _KEYS.items() if prefix + name in self._metadata}
        if "embeddings.weight" not in self._tensors:
            raise ValueError(f"{self.path} has no token_embd.weight; use a file of a whole model")
        return {
            "num_key_value_heads": self._required(f"{prefix}attention.head_count"),  # unless the file says otherwise
            **plain,
            "model_type": self._architecture,
            "vocab_size": int(self._tensors["embeddings.weight"].shape[1]),  # llama.cpp counts the columns first
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
            "attention_bias": self._architecture == "llama" and "layers.0.self_attn.q_proj.bias" in self._tensors,
        }

    def _required(self, key: str) -> Any:
        if key not in self._metadata:
            raise ValueError(f"{self.path} has no {key}; use a file of a whole model")
        return self._metadata[key]

    def _in_order(self, name: str, tensor: Tensor) -> Tensor:
        found = re.search(r"self_attn\.([qk])_proj", name)
        if found is None or self._architecture not in _TURNED:
            return tensor
        heads = self.config["num_attention_heads" if found[1] == "q" else "num_key_value_heads"]
        return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _spelled(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    return name


def _gpt2_split() -> tuple[Any, Any]:
    return None, pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm_split() -> tuple[Any, Any]:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return None, pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _qwen2_split() -> tuple[Any, Any]:
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return normalizers.NFC(), pre_tokenizers.Sequence([split, byte_level])


_SPLITS = {"gpt-2": _gpt2_split, "smollm": _smollm_split, "qwen2": _qwen2_split}
