"""How likely a text is: the log-probability of each token given those before it.

Shapes: T tokens, D model width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.nn import HybridLM, SequenceLayout
from tandem.serve.generate import check_request, evaluating

_BLOCK = 256  # tokens whose logits are held at once: a whole context times a large vocabulary would not fit


@torch.no_grad()
def score_tokens(model: HybridLM, ids: Sequence[int]) -> Tensor:
    """Log-probability (nats) of ids[1:], each given all ids before it, in one forward pass.

    Returns:
        logp_T in float32, T = len(ids) - 1.
    Raises:
        ValueError: fewer than two ids, an id outside the vocabulary, or more than config.context ids before the last.
    """
    if len(ids) < 2:
        raise ValueError(f"ids={list(ids)} has no token to score; give at least two, the first one usually <bos>")
    check_request(model, [ids[:-1], ids[-1:]], max_tokens=1)
    device = next(model.parameters()).device
    layout = SequenceLayout.from_lengths([len(ids) - 1], chunk=model.config.chunk, device=device)
    with evaluating(model):
        x_TD, _ = model.hidden(torch.tensor(ids[:-1], device=device), layout)
        targets_T1 = torch.tensor(ids[1:], device=device)[:, None]
        blocks = zip(x_TD.split(_BLOCK), targets_T1.split(_BLOCK), strict=True)
        return torch.cat([model.logits(x).float().log_softmax(-1).gather(-1, to)[:, 0] for x, to in blocks])
