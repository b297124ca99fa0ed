"""`HybridLM` behind the interface of `transformers`: rows with padding in, packed documents inside, rows out.

Padding never reaches the model: valid tokens are packed, so left, right or no padding give the same numbers. Start at
`TandemForCausalLM.forward`.

Shapes: B rows, L columns, T packed tokens, D width, V vocabulary.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import PrefixChange
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from tandem.hub.transformers.cache import TandemCache
from tandem.hub.transformers.config import TandemConfig
from tandem.nn import Aux, HybridLM, SequenceLayout

_PREFIX = "model.net"  # of a parameter here; in files its name is that of `HybridLM`


class TokenEmbedding(nn.Module):
    """The embedding of a model as a module, for hooks and for `get_input_embeddings`; the parameter stays the model's."""

    bias = None  # as an output embedding it is asked for one

    def __init__(self, net: HybridLM) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple: a submodule would list the model's parameters twice

    @property
    def weight(self) -> Tensor:
        """(V, D)."""
        return self._net[0].embedding

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding, one a token."""
        return self._net[0].embed(tokens)


@dataclass
class TandemModelOutput(ModelOutput):
    """What comes before the head.

    Attributes:
        last_hidden_state: (B, L, D), normalized; zeros under padding.
        past_key_values: the cache, if there is one.
        balance_loss: of the routers; 0 for a dense model.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: TandemCache | None = None
    balance_loss: Tensor | None = None


class TandemModel(nn.Module):
    """Rows of tokens to hidden states: everything but the head. Arguments as in `TandemForCausalLM.forward`."""

    def __init__(self, config: TandemConfig) -> None:
        super().__init__()
        self.net = HybridLM(config.shape)
        self.embed_tokens = TokenEmbedding(self.net)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TandemCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> TandemModelOutput:
        """Packs valid tokens, runs the model, and puts its hidden states back into rows."""
        _refuse(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x_BLD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = TandemCache(self.net.new_state(len(x_BLD), x_BLD.device))
        batch = _Packed.of(x_BLD, attention_mask, position_ids, past_key_values is not None)
        x_TD, aux = self._hidden(batch.pack(x_BLD), batch.lengths, past_key_values, x_BLD.shape[1])
        balance = aux.balance_loss if self.training else None
        return TandemModelOutput(batch.unpack(x_TD), past_key_values, balance)

    def _hidden(self, x_TD: Tensor, lengths: list[int], cache: TandemCache | None, columns: int) -> tuple[Tensor, Aux]:
        if cache is None:
            layout = SequenceLayout.from_lengths(lengths, chunk=self.net.config.chunk, device=x_TD.device)
            return self.net.hidden_of(x_TD, layout)
        result = self.net.hidden_of(x_TD, cache.state.layout(lengths), cache.state)
        cache.read(columns)
        return result


class TandemForCausalLM(PreTrainedModel, GenerationMixin):
    """A Tandem model for `generate`, the Trainer, TRL, PEFT and lm-eval.

    >>> model = AutoModelForCausalLM.from_pretrained("directory of m.save")             # doctest: +SKIP
    """

    config_class = TandemConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 - as transformers declares it
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["island"]  # noqa: RUF012
    _is_stateful = True  # no decoding that goes back: SSM states cannot

    def __init__(self, config: TandemConfig) -> None:
        super().__init__(config)
        self.model = TandemModel(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, output_loading_info: bool = False, **options: Any) -> Any:
        """As in `transformers`, but weights that are missing or left over are an error, not a warning.

        Raises:
            ValueError: a parameter the file lacks, has in another shape, or has no place for (named).
        """
        loaded: Any = super().from_pretrained(*arguments, output_loading_info=True, **options)
        model, info = loaded
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                name = min(map(str, info[kind])).removeprefix(_PREFIX + ".")
                raise ValueError(
                    f"model.safetensors has {kind.replace('_', ' ')}, e.g. {name}; copy the directory again"
                )
        return (model, info) if output_loading_info else model

    def forward(  # noqa: PLR0913 - the signature that callers of `transformers` know
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TandemCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **loss_options: Any,
    ) -> MoeCausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of every column; those under padding mean nothing.

        Args:
            input_ids: (B, L); or inputs_embeds: (B, L, D), rows of the embedding.
            attention_mask: (B, past + L) of 0 and 1; zeros are padding, wherever they are.
            position_ids: (B, L); without a cache each 0 begins a new document, so a row may hold several.
            past_key_values: of an earlier call; updated in place, under `torch.no_grad()` only.
            labels: (B, L), shifted inside, -100 ignored. In training the routers' balance loss is added.
            use_cache: return a cache to go on from; off unless asked for.
            logits_to_keep: last columns to compute logits for (0: all), or their indices.
        Returns:
            loss, aux_loss, logits (B, L, V) and past_key_values.
        Raises:
            ValueError: no or two inputs, a mask that does not fit, attentions or hidden states asked for, or a cache while
                gradients are on.
        """
        read = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
        )
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.net.logits(read.last_hidden_state[:, columns])
        loss, balance = None, read.balance_loss
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **loss_options)
            loss = loss if balance is None else loss + balance
        cache = read.past_key_values
        output = MoeCausalLMOutputWithPast(loss=loss, aux_loss=balance, logits=logits, past_key_values=cache)
        return output if return_dict is not False else output.to_tuple()

    @property
    def gradient_checkpointing(self) -> bool:
        """`HybridLM.recompute`, under the name that `gradient_checkpointing_enable` sets."""
        return self.model.net.recompute

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        self.model.net.recompute = on

    def get_input_embeddings(self) -> nn.Module:
        """A module with the embedding's weight."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Takes over a module's weight."""
        assert isinstance(value.weight, Tensor)
        self._set_vocabulary(nn.Parameter(value.weight.detach()), None)

    def get_output_embeddings(self) -> nn.Module:
        """The head; tied, it is the embedding."""
        return self.model.net.head or self.model.embed_tokens

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Adds or removes ids at the end of the vocabulary, as in `transformers`; returns the input embedding."""
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.model.embed_tokens
        old = nn.Embedding.from_pretrained(self.model.net.embedding.detach())
        new = self._get_resized_embeddings(old, new_num_tokens, pad_to_multiple_of, mean_resizing)
        head = self.model.net.head and self._get_resized_lm_head(
            self.model.net.head, new.num_embeddings, False, mean_resizing
        )
        self._set_vocabulary(nn.Parameter(new.weight.detach()), head and nn.Parameter(head.weight.detach()))
        return self.model.embed_tokens

    def _set_vocabulary(self, embedding: nn.Parameter, head: nn.Parameter | None) -> None:
        shape = self.config.shape.replace(vocab_size=len(embedding))
        self.config.model = shape.to_dict()
        self.model.net.config = shape
        embedding.requires_grad = self.model.net.embedding.requires_grad
        self.model.net.embedding = embedding
        if self.model.net.head and head is not None:
            head.requires_grad = self.model.net.head.weight.requires_grad
            self.model.net.head.weight = head

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the model draws its own weights when it is made, and loading leaves none out."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes its own


@dataclass(frozen=True, slots=True)
class _Packed:
    """Where the valid tokens of a batch of rows are.

    Attributes:
        shape: B, L.
        index_T: place of each valid token among all B · L; None when all are valid.
        lengths: tokens of each document, in order.
    """

    shape: tuple[int, int]
    index_T: Tensor | None
    lengths: list[int]

    @classmethod
    def of(cls, x_BLD: Tensor, mask: Tensor | None, position_ids: Tensor | None, cached: bool) -> Self:
        rows, columns, _ = x_BLD.shape
        valid_BL = None if mask is None else _valid(mask, rows, columns)
        index_T = None if valid_BL is None or bool(valid_BL.all()) else valid_BL.flatten().nonzero().flatten()
        if position_ids is not None and not cached and columns > 1:
            return cls((rows, columns), index_T, _documents(position_ids.expand(rows, columns), index_T))
        counts = [columns] * rows if index_T is None or valid_BL is None else valid_BL.sum(1).tolist()
        if cached and min(counts) < 1:
            raise ValueError(f"attention_mask leaves row {counts.index(0)} no token; with a cache each row needs one")
        return cls((rows, columns), index_T, [count for count in counts if count])

    def pack(self, x_BLD: Tensor) -> Tensor:
        """The valid ones as x_TD."""
        x_RD = x_BLD.flatten(0, 1)
        return x_RD if self.index_T is None else x_RD[self.index_T]

    def unpack(self, x_TD: Tensor) -> Tensor:
        """Back to rows, zeros between."""
        rows, columns = self.shape
        if self.index_T is not None:
            x_TD = x_TD.new_zeros(rows * columns, x_TD.shape[1]).index_copy(0, self.index_T, x_TD)
        return x_TD.view(rows, columns, -1)


def _valid(mask: Tensor, rows: int, columns: int) -> Tensor:
    if mask.ndim != 2 or len(mask) != rows or mask.shape[1] < columns:
        raise ValueError(f"attention_mask of shape {tuple(mask.shape)} does not fit {rows} rows of {columns} tokens")
    return mask[:, -columns:] != 0


def _documents(position_BL: Tensor, index_T: Tensor | None) -> list[int]:
    """Lengths of the documents: one begins with each row and at each position 0."""
    rows, columns = position_BL.shape
    row_T = torch.arange(rows, device=position_BL.device).repeat_interleave(columns)
    position_T = position_BL.flatten()
    if index_T is not None:
        row_T, position_T = row_T[index_T], position_T[index_T]
    begins_T = position_T == 0
    begins_T[0] = True
    begins_T[1:] |= row_T[1:] != row_T[:-1]
    firsts = [*begins_T.nonzero().flatten().tolist(), len(row_T)]
    return [end - begin for begin, end in itertools.pairwise(firsts)]


def _refuse(**asked: bool | None) -> None:
    for name, value in asked.items():
        if value:
            raise ValueError(f"{name}=True is not supported by Tandem models; leave it out")


def register() -> None:
    """Makes the Auto classes know `model_type="tandem"`; files keep the names that `tandem.load` reads."""
    AutoConfig.register(TandemConfig.model_type, TandemConfig, exist_ok=True)
    AutoModelForCausalLM.register(TandemConfig, TandemForCausalLM, exist_ok=True)
    register_checkpoint_conversion_mapping(
        TandemConfig.model_type, [PrefixChange(prefix_to_add=_PREFIX)], overwrite=True
    )
