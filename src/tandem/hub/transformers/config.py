"""The `config.json` of a model directory as a `transformers` config."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from tandem.hub.header import FORMAT, VERSION
from tandem.nn import ModelConfig, preset


class TandemConfig(PreTrainedConfig):
    """A Tandem model's config: what `LanguageModel.save` writes, with the keys that `transformers` adds beside it.

    Attributes:
        model: `ModelConfig.to_dict()`; the preset "nano" when None.
        chat: the model was tuned on conversations.
        format, version: of the file, as `tandem.load` asks for them.

    Raises:
        ValueError: a shape that cannot be built, or a key of `model` that is unknown.
    """

    model_type = "tandem"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "aux_loss"]

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        *,
        chat: bool = False,
        format: str = FORMAT,
        version: int = VERSION,
        use_cache: bool = True,
        **options: Any,
    ) -> None:
        shape = preset("nano") if model is None else ModelConfig.from_dict(model)
        self.model = shape.to_dict()
        self.chat = chat
        self.format, self.version = format, version
        self.use_cache = use_cache
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self, token, options.pop(token, None))
        super().__init__(**{**options, "tie_word_embeddings": shape.tie_embeddings})

    @property
    def shape(self) -> ModelConfig:
        """The config of the model itself."""
        return ModelConfig.from_dict(self.model)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.shape.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.shape.width

    @property
    def num_hidden_layers(self) -> int:
        """Residual sub-layers, each of one mixer."""
        return len(self.shape.layers)

    @property
    def max_position_embeddings(self) -> int:
        """The longest sequence it is meant for."""
        return self.shape.context

    @property
    def logit_scale(self) -> float:
        """Factor of the logits, for trainers that apply the head themselves."""
        return self.shape.logit_scale
