"""Teaches a trained model to look names up in phone books: half of the steps on short books, then books of any length.

Without the short ones a small model stays at guessing digits for as long as was tried (400 steps of `nano`). Every book
has other names and numbers, and `tandem eval` asks for yet others.
"""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem import hub
from tandem.data import Batch, TextTokenizer, make_batch
from tandem.evaluate import Book, heading
from tandem.recipes.quickstart import fast_precision
from tandem.train import (
    LanguageModelTask,
    OptimizerConfig,
    ScheduleConfig,
    SpikeConfig,
    TrainConfig,
    claim_run_dir,
    fit,
)

_SHORT = 4  # most lines of the books of the first half
_LINE = 32  # tokens, about, that a line takes with its question
_TEXT_WEIGHT = 0.05  # of what is not a number asked for
_BATCH_TOKENS = 2048


class Books:
    """Batches of books in which every line is asked for, without end; the loss is on the numbers asked for.

    Args:
        context: longest book with its questions, in tokens; a longer one is cut.
        steps: of the whole training; books are short for half of it.
    """

    def __init__(self, tokenizer: TextTokenizer, *, context: int, chunk: int, steps: int, seed: int) -> None:
        self.tokenizer, self.context, self.chunk = tokenizer, context, chunk
        self.steps, self.seed, self.step = steps, seed, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """As many books as fit into one step."""
        generator = random.Random(f"{self.seed} {self.step}")
        books: list[list[tuple[int, float]]] = []
        room = _BATCH_TOKENS
        while (size := len(book := self._book(generator)) - 1) <= room:
            books.append(book)
            room -= size
        self.step += 1
        pieces = [np.array([token for token, _ in book]) for book in books]
        weights_T = torch.tensor([weight for book in books for _, weight in book[1:]] + [0.0] * room)
        batch = make_batch(pieces, batch_tokens=_BATCH_TOKENS, chunk=self.chunk)
        return dataclasses.replace(batch, weights_T=weights_T)

    def state_dict(self) -> dict[str, Any]:
        """The step that comes next; its books depend on it and the seed alone."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Moves to a step."""
        self.step = state["step"]

    def _book(self, generator: random.Random) -> list[tuple[int, float]]:
        """Ids of a book and of its lines in another order, each with the weight of its loss."""
        most = _SHORT if self.step < self.steps // 2 else max(_SHORT, self.context // _LINE)
        lines = Book(generator).lines(generator.randint(2, most))
        parts = [(heading(lines), _TEXT_WEIGHT)]
        for name, digits in generator.sample(lines, len(lines)):
            parts += [(f"{name}: +", _TEXT_WEIGHT), (digits, 1.0), ("\n", _TEXT_WEIGHT)]
        weighted = [(token, weight) for text, weight in parts for token in self.tokenizer.encode(text)]
        return [(self.tokenizer.start_of_text(), 0.0), *weighted][: self.context + 1]


def teach_lookup(source: str, run_dir: Path, *, steps: int, context: int, device: torch.device) -> Path | None:
    """Trains a model on books and saves it in `run_dir / "model"`; goes on where an earlier call was stopped.

    Returns:
        The model's directory; None after an interruption.
    Raises:
        ValueError: an unknown model, or a run directory of other settings.
    """
    model, tokenizer, _ = hub.load(source, dtype="float32", device=device)
    claim_run_dir(run_dir, {"source": source, "steps": steps, "context": context})
    config = TrainConfig(
        steps=steps,
        optimizer=OptimizerConfig(lr=2e-3),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=min(30, steps // 4), decay_fraction=0.3, final_lr=0.02),
        checkpoint_every=100,
        keep_checkpoints=1,
        validate_every=0,
        skip=SpikeConfig(grad_norm=None),  # gradients grow for good when lookup sets in; clipping is enough
        precision=fast_precision(),
    )
    books = Books(tokenizer, context=context, chunk=model.config.chunk, steps=steps, seed=config.seed)
    result = fit(LanguageModelTask(model.train(), config), books, config, run_dir)
    return None if result.interrupted else hub.save(model.eval(), tokenizer, run_dir / "model")
