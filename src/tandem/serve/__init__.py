"""Generation: sampling, stop strings, the chat layout, and the loop that prefills once and then decodes."""

from tandem.serve.chat import Message, Thinking, chat_ids, check_thinking
from tandem.serve.generate import check_request, generate_batch, generate_tokens
from tandem.serve.graphs import without_graphs
from tandem.serve.sampling import Sampling, probabilities, sample
from tandem.serve.score import TokenScores, score_batch, score_continuations, score_long, score_tokens
from tandem.serve.stops import StopMatcher
from tandem.serve.stream import Completion, TextStream

__all__ = [
    "Completion",
    "Message",
    "Sampling",
    "StopMatcher",
    "TextStream",
    "Thinking",
    "TokenScores",
    "chat_ids",
    "check_request",
    "check_thinking",
    "generate_batch",
    "generate_tokens",
    "probabilities",
    "sample",
    "score_batch",
    "score_continuations",
    "score_long",
    "score_tokens",
    "without_graphs",
]
