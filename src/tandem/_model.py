"""The front door: `tandem.load(source)` gives a `LanguageModel` that generates, streams, scores and saves.

Shapes: T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tandem import hub
from tandem.data import TextTokenizer, is_thinking
from tandem.nn import HybridLM, ModelConfig
from tandem.serve import (
    Completion,
    Message,
    Sampling,
    TextStream,
    Thinking,
    chat_ids,
    check_thinking,
    generate_tokens,
    score_tokens,
)

WEIGHTS = ("stored", "int8")
"""What `load` can make of the matrices."""


@dataclass(eq=False, slots=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        chat: the model was tuned on conversations; a base model (False) only continues text.

    >>> m = tandem.load("nano")                                             # doctest: +SKIP
    >>> m.generate("Returns the", max_tokens=20, seed=0).text               # doctest: +SKIP
    """

    model: HybridLM
    tokenizer: TextTokenizer
    config: ModelConfig
    chat: bool = False

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        thinking: Thinking = "auto",
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Completion:
        """Writes on after a prompt until `<eos>`, a stop string, `max_tokens`, or a full context.

        Args:
            prompt: a string is continued as text; a list of {"role", "content"} is laid out as a chat and answered.
            thinking: for chats: "auto" lets the model decide, "short" closes an empty think block, "long" opens one; a base
                model ignores it.
            temperature, top_p, min_p, top_k, seed: see `tandem.serve.Sampling`; temperature 0 is greedy.
            stop: strings; the answer ends before the first of them.
        Raises:
            ValueError: a prompt longer than config.context, or an argument outside its range.
        """
        stream = self.stream(
            prompt,
            thinking=thinking,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            min_p=min_p,
            top_k=top_k,
            seed=seed,
            stop=stop,
        )
        for _ in stream:
            pass
        return stream.completion

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        thinking: Thinking = "auto",
        max_tokens: int = 256,
        temperature: float = 0.7,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> TextStream:
        """`generate`, piece by piece: iterate over the text; `.completion` holds what was written so far."""
        sampling = Sampling(temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, seed=seed)
        ids = self.prompt_ids(prompt, thinking=thinking)
        tokens = generate_tokens(
            self.model, ids, sampling=sampling, max_tokens=max_tokens, stop_ids=self.tokenizer.stop_ids
        )
        stops = (stop,) if isinstance(stop, str) else stop
        return TextStream(tokens, self.tokenizer, stop=stops, thinking=is_thinking(ids, self.tokenizer))

    def prompt_ids(self, prompt: str | Sequence[Message], *, thinking: Thinking = "auto") -> list[int]:
        """The ids that `generate` feeds: the text behind `<bos>` (or what a released model has there), or a chat's layout.

        Raises:
            ValueError: messages out of order (see `tandem.serve.chat_ids`), or an unknown `thinking`.
        """
        check_thinking(thinking)
        if isinstance(prompt, str):
            return self.tokenizer.text_ids(prompt)
        return chat_ids(self.tokenizer, prompt, thinking=thinking if self.chat else "auto")

    def score(self, text: str) -> Tensor:
        """Log-probability (nats) of each token of the text given those before it, `<bos>` first (`<eos>` for a model without).

        Returns:
            logp_T in float32, one entry a token of `tokenizer.encode(text)`.
        Raises:
            ValueError: an empty text, or one longer than config.context.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            raise ValueError("text='' has no token to score; give at least one character")
        return score_tokens(self.model, [self.tokenizer.start_of_text(), *ids])

    def reschedule(self, schedule: str | Sequence[int], length: int | None = None) -> None:
        """Gives a TransMamba model other TransPoints; see `HybridLM.reschedule`.

        Raises:
            ValueError: a model without `T` layers, or what is no schedule of it.
        """
        self.model.reschedule(schedule, length)
        self.config = self.model.config

    def save(self, directory: str | Path, *, dtype: str | None = None) -> Path:
        """Writes model.safetensors, config.json and tokenizer.json; see `tandem.hub.save`."""
        return hub.save(self.model, self.tokenizer, directory, dtype=dtype, chat=self.chat)


def load(
    source: str | Path,
    *,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    weights: str = "stored",
) -> LanguageModel:
    """Loads a model: a bundled checkpoint by name ("nano"), a directory of `LanguageModel.save` or in Hugging Face format, or a
    GGUF file.

    Args:
        dtype: "float32", "bfloat16" or "float16"; None keeps the dtypes of the file.
        device: where it generates and scores: "cpu" (as None), "cuda", "cuda:N", or "auto" for a GPU if there is one.
        weights: "int8" rounds the matrices to int8 and reads them so when it generates on a CPU, which is faster; see
            `HybridLM.round_to_int8`. "stored" takes them as they are.
    Raises:
        ValueError: no such source, a missing, damaged or foreign file, a device that is not here, or unknown `weights`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown; use one of {', '.join(WEIGHTS)}")
    model, tokenizer, saved = hub.load(source, dtype=dtype, device=device)
    if weights == "int8":
        model.round_to_int8()
    return LanguageModel(model, tokenizer, saved.model, chat=saved.chat)
