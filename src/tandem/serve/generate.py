"""The generation loop: one packed prefill, then one recurrent step a token for all sequences that still run.

A prompt is read once in parallel form and leaves its memory (keys and values, SSM states) in a `DecodeState`; each further
token costs one step whose work does not depend on the length of the text, attention layers aside. Sequences that are done
leave the batch, so the step narrows as they finish. On a GPU the steps come from CUDA graphs; see graphs.py.

Shapes: S sequences, T tokens, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tandem.nn import DecodeState, HybridLM
from tandem.serve.graphs import stepping
from tandem.serve.sampling import Sampling, sample


def generate_tokens(
    model: HybridLM,
    prompt_ids: Sequence[int],
    *,
    sampling: Sampling,
    max_tokens: int,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yields the ids that follow one prompt, as soon as each is known.

    Ends after `max_tokens`, with an id of `stop_ids` (which is yielded), or when the context is full. Nothing runs before
    the first id is asked for, nothing between two ids.

    Raises:
        ValueError: see `check_request`.
    """
    check_request(model, [prompt_ids], max_tokens)
    steps = _steps(model, [prompt_ids], sampling, max_tokens, stop_ids)
    return (token for step in steps for token in step.values())


def generate_batch(
    model: HybridLM,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_tokens: int,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """The ids that follow each of several prompts, generated side by side.

    Row i is what `generate_tokens` gives for prompt i with seed + i: sequences do not see each other.

    Raises:
        ValueError: see `check_request`.
    """
    check_request(model, prompts, max_tokens)
    rows: list[list[int]] = [[] for _ in prompts]
    for step in _steps(model, prompts, sampling, max_tokens, stop_ids):
        for index, token in step.items():
            rows[index].append(token)
    return rows


def check_request(model: HybridLM, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
    """Refuses what cannot be generated.

    Raises:
        ValueError: no prompt, an empty one, one longer than the context, an id outside the vocabulary, or max_tokens < 1.
    """
    context, vocab_size = model.config.context, model.config.vocab_size
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens} is below 1; use a count such as 256")
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompt has no tokens; give at least <bos>")
    longest = max(len(prompt) for prompt in prompts)
    if longest > context:
        raise ValueError(
            f"prompt of {longest} tokens is longer than config.context={context}; "
            f"shorten it to {context} tokens or load a model with a longer context"
        )
    wrong = next((k for prompt in prompts for k in prompt if not 0 <= k < vocab_size), None)
    if wrong is not None:
        raise ValueError(f"prompt holds id {wrong} outside [0, {vocab_size}); encode it with the model's own tokenizer")


def _steps(
    model: HybridLM,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_tokens: int,
    stop_ids: Collection[int],
) -> Iterator[dict[int, int]]:
    """Yields what each step adds: {sequence: id} of the sequences still running, in order."""
    device = next(model.parameters()).device
    generators = sampling.generators(len(prompts))
    # The last id drawn is never fed, so a prompt that fills the context still gets one.
    left = [min(max_tokens, model.config.context - len(prompt) + 1) for prompt in prompts]
    live = list(range(len(prompts)))
    state = model.new_state(len(prompts), device)
    drawn = sample(_prefill(model, prompts, state), sampling, generators)
    with stepping(model, state) as steps:
        while True:
            yield dict(zip(live, drawn, strict=True))
            for index in live:
                left[index] -= 1
            keep = [row for row, index in enumerate(live) if left[index] and drawn[row] not in stop_ids]
            if not keep:
                return
            if len(keep) < len(live):
                steps.keep(keep)
                live = [live[row] for row in keep]
            with evaluating(model):
                drawn = steps.draw(model, [drawn[row] for row in keep], sampling, [generators[index] for index in live])


@torch.inference_mode()
def _prefill(model: HybridLM, prompts: Sequence[Sequence[int]], state: DecodeState) -> Tensor:
    tokens_T = torch.tensor([k for prompt in prompts for k in prompt], device=state.device)
    with evaluating(model):
        return model.next_logits(tokens_T, state.layout([len(prompt) for prompt in prompts]), state)


@contextmanager
def evaluating(model: HybridLM) -> Iterator[None]:
    """Eval mode inside, the mode from before outside: between two tokens a caller may train the same model."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
