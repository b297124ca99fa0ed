"""How likely a text is: the log-probability of each token given those before it.

A model that rounds what it keeps (`HybridLM.round_caches`) is scored as it decodes: what stands before the first scored token is a
prefill, and every token behind it is fed by a step, whatever a function says of passes below.

Shapes: T tokens, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tandem.nn import DecodeState, HybridLM, SequenceLayout
from tandem.serve.generate import check_request, evaluating

_BLOCK = 256  # tokens whose logits are held at once: a whole context times a large vocabulary would not fit


class TokenScores(NamedTuple):
    """What a model thinks of tokens that are given.

    Attributes:
        logp_T: log-probability of each (nats), float32.
        greedy_T: whether each is the most likely one, which greedy decoding would have written.
    """

    logp_T: Tensor
    greedy_T: Tensor


def score_tokens(model: HybridLM, ids: Sequence[int]) -> Tensor:
    """Log-probability (nats) of ids[1:], each given all ids before it, in one forward pass.

    Returns:
        logp_T in float32, T = len(ids) - 1.
    Raises:
        ValueError: fewer than two ids, an id outside the vocabulary, or more than config.context ids before the last.
    """
    if len(ids) < 2:
        raise ValueError(f"ids={list(ids)} has no token to score; give at least two, the first one usually <bos>")
    return score_batch(model, [ids], [1])[0].logp_T


@torch.no_grad()
def score_batch(model: HybridLM, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[TokenScores]:
    """Scores the end of several texts in one packed forward pass: row[start:], each token given all before it.

    Raises:
        ValueError: a start outside 1..len(row) - 1, an id outside the vocabulary, or more than config.context ids before the
            last of a row.
    """
    for row, start in zip(rows, starts, strict=True):
        if not 1 <= start < len(row):
            raise ValueError(f"start={start} leaves no token of {len(row)} to score; use one from 1 to {len(row) - 1}")
    check_request(model, [part for row in rows for part in (row[:-1], row[-1:])], max_tokens=1)
    if model.cache_rounding is not None:
        cut = list(zip(rows, starts, strict=True))
        ends = score_continuations(model, [row[:start] for row, start in cut], [[row[start:]] for row, start in cut])
        return [scores for (scores,) in ends]
    device = next(model.parameters()).device
    layout = SequenceLayout.from_lengths([len(row) - 1 for row in rows], chunk=model.config.chunk, device=device)
    places, offset = [], 0
    for row, start in zip(rows, starts, strict=True):
        places += range(offset + start - 1, offset + len(row) - 1)
        offset += len(row) - 1
    targets_T = torch.tensor([k for row, start in zip(rows, starts, strict=True) for k in row[start:]], device=device)
    with evaluating(model):
        x_TD, _ = model.hidden(torch.tensor([k for row in rows for k in row[:-1]], device=device), layout)
        kept_TD = x_TD if len(places) == len(x_TD) else x_TD[torch.tensor(places, device=device)]
        scores = _token_scores(model, kept_TD, targets_T)
    counts = [len(row) - start for row, start in zip(rows, starts, strict=True)]
    return [TokenScores(*parts) for parts in zip(*(values.split(counts) for values in scores), strict=True)]


@torch.no_grad()
def score_continuations(
    model: HybridLM, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[TokenScores]]:
    """Scores several continuations of each prompt, each token given all before it; a prompt is read only once.

    Raises:
        ValueError: an empty prompt or continuation, an id outside the vocabulary, or more than config.context ids before the
            last of a continuation.
    """
    pairs = [(slot, more) for slot, several in enumerate(continuations) for more in several]
    if not all(len(more) for _, more in pairs):
        raise ValueError("continuation has no token to score; give at least one")
    check_request(model, [[*prompts[slot], *more[:-1]] for slot, more in pairs], max_tokens=1)
    check_request(model, [more[-1:] for _, more in pairs], max_tokens=1)
    device = next(model.parameters()).device
    state = model.new_state(len(prompts), device)
    layout = state.layout([len(prompt) for prompt in prompts])
    with evaluating(model):
        x_TD, _ = model.hidden(torch.tensor([k for prompt in prompts for k in prompt], device=device), layout, state)
        before = x_TD[layout.last_S][torch.tensor([slot for slot, _ in pairs], device=device)]
        parts = [row[None] for row in before]
        longer = [k for k, (_, more) in enumerate(pairs) if len(more) > 1]
        if longer:
            fed = [pairs[k][1][:-1] for k in longer]
            for k, own_TD in zip(longer, _read(model, fed, state.select([pairs[k][0] for k in longer])), strict=True):
                parts[k] = torch.cat([parts[k], own_TD])
        targets_T = torch.tensor([token for _, more in pairs for token in more], device=device)
        scores = _token_scores(model, torch.cat(parts), targets_T)
    counts = [len(more) for _, more in pairs]
    found = iter([TokenScores(*own) for own in zip(*(values.split(counts) for values in scores), strict=True)])
    return [[next(found) for _ in several] for several in continuations]


def score_long(model: HybridLM, ids: Sequence[int], *, block: int = 512) -> Iterator[TokenScores]:
    """Scores ids[1:] of a text of any length, block by block, through one decode state.

    Every token is given all before it, also beyond config.context: recurrent layers keep a summary of fixed size,
    attention layers keep keys and values of the whole text.

    Raises:
        ValueError: fewer than two ids, or one outside the vocabulary.
    """
    if len(ids) < 2:
        raise ValueError(f"ids={list(ids)} has no token to score; give at least two, the first one usually <bos>")
    check_request(model, [[k] for k in ids], max_tokens=1)
    return _through_state(model, ids, block)


def _through_state(model: HybridLM, ids: Sequence[int], block: int) -> Iterator[TokenScores]:
    device = next(model.parameters()).device
    state = model.new_state(1, device)
    for begin in range(0, len(ids) - 1, block):
        inputs = ids[begin : min(begin + block, len(ids) - 1)]
        targets_T = torch.tensor(ids[begin + 1 : begin + 1 + len(inputs)], device=device)
        with torch.no_grad(), evaluating(model):
            scores = _token_scores(model, _read(model, [inputs], state)[0], targets_T)
        yield scores


def _read(model: HybridLM, rows: Sequence[Sequence[int]], state: DecodeState) -> list[Tensor]:
    """The residual stream x_TD of tokens behind what each slot holds, read at once or, with rounded caches, in steps.

    Steps go on without the slots whose rows have ended; the state is not of use afterwards unless it has a single slot.
    """
    if model.cache_rounding is None:
        layout = state.layout([len(row) for row in rows])
        fed_T = torch.tensor([token for row in rows for token in row], device=state.device)
        return list(model.hidden(fed_T, layout, state)[0].split(layout.lengths))
    parts: list[list[Tensor]] = [[] for _ in rows]
    live = list(range(len(rows)))
    for at in range(max(map(len, rows))):
        keep = [place for place, row in enumerate(live) if at < len(rows[row])]
        if len(keep) < len(live):
            state, live = state.select(keep), [live[place] for place in keep]
        fed_S = torch.tensor([rows[row][at] for row in live], device=state.device)
        x_SD, _ = model.hidden(fed_S, state.layout([1] * len(live)), state)
        for row, x_D in zip(live, x_SD, strict=True):
            parts[row].append(x_D)
    return [torch.stack(own) for own in parts]


def _token_scores(model: HybridLM, x_TD: Tensor, targets_T: Tensor) -> TokenScores:
    """The targets under the logits of the residual stream."""
    logps, greedy = [], []
    for block_TD, to_T in zip(x_TD.split(_BLOCK), targets_T.split(_BLOCK), strict=True):
        logp_TV = model.logits(block_TD).float().log_softmax(-1)
        logps.append(logp_TV.gather(-1, to_T[:, None])[:, 0])
        greedy.append(logp_TV.argmax(-1) == to_T)
    return TokenScores(torch.cat(logps), torch.cat(greedy))
