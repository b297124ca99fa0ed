"""Released models in Hugging Face format: their config and their weights in our terms. Never imports `transformers`."""

from tandem.hub.huggingface.config import MODEL_TYPES, model_config
from tandem.hub.huggingface.export import released_config, released_tensors
from tandem.hub.huggingface.shards import Shards
from tandem.hub.huggingface.weights import load_model

__all__ = ["MODEL_TYPES", "Shards", "load_model", "model_config", "released_config", "released_tensors"]
