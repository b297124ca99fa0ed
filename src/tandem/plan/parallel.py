"""How a training run is spread over devices."""

from dataclasses import dataclass, fields

from tandem.nn import ModelConfig, MoEConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism and the micro-batch of one training step.

    Attributes:
        data: replicas that each see their own tokens.
        tensor: devices that split every matrix; with sequence parallelism they split the activations between too.
        pipeline: stages of consecutive layers, as equal in number as possible, scheduled one forward, one backward.
        expert: devices that split the routed experts; taken out of data × context, so it must divide them.
        context: devices that split the tokens of a micro-batch; they count as replicas for weights.
        shard: ZeRO stage over the replicas: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too (FSDP).
        tokens: tokens of a micro-batch of one data replica.
        checkpointing: keep only the input of each layer and compute the rest again in the backward pass.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    context: int = 1
    shard: int = 0
    tokens: int = 8192
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("shard", "checkpointing") and getattr(self, field.name) < 1:
                raise ValueError(f"parallel.{field.name}={getattr(self, field.name)} must be 1 or more")
        if self.shard not in range(4):
            raise ValueError(f"parallel.shard={self.shard} is no ZeRO stage; use 0, 1, 2 or 3")
        if self.data * self.context % self.expert:
            raise ValueError(
                f"parallel.expert={self.expert} does not divide data × context = {self.data * self.context}; "
                "use a divisor of it"
            )

    @property
    def devices(self) -> int:
        """Devices of the whole layout; expert parallelism reuses those of data and context."""
        return self.data * self.tensor * self.pipeline * self.context

    def check(self, config: ModelConfig) -> None:
        """Checks that the layout fits a config.

        Raises:
            ValueError: more stages than layers, or experts that do not divide evenly.
        """
        if self.pipeline > len(config.layers):
            raise ValueError(
                f"parallel.pipeline={self.pipeline} is above the model's {len(config.layers)} layers; use fewer stages"
            )
        shapes = [shape for shape in (config.ffn, config.experts) if isinstance(shape, MoEConfig)]
        for shape in shapes:
            if shape.experts % self.expert:
                raise ValueError(
                    f"parallel.expert={self.expert} does not divide moe.experts={shape.experts}; use a divisor of it"
                )

    def stage(self, config: ModelConfig, index: int) -> tuple[str, ...]:
        """The layers of one pipeline stage."""
        layers = config.layers
        return layers[index * len(layers) // self.pipeline : (index + 1) * len(layers) // self.pipeline]
