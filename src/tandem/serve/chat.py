"""The chat layout: how a list of messages becomes the ids a model continues.

The tokenizer lays them out. Ours writes

    <bos> (<role> content <eos>)* <assistant>

with reserved ids for roles, so no text can imitate a turn; that of a released model renders its chat template. Behind it the
caller may fix how much the model thinks: an empty think block makes it answer at once, an open one makes it think first.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tandem.data import TextTokenizer

Thinking = Literal["auto", "short", "long"]
Message = Mapping[str, str]
_ROLES = ("system", "user", "assistant")


def chat_ids(tokenizer: TextTokenizer, messages: Sequence[Message], *, thinking: Thinking = "auto") -> list[int]:
    """Ids of a conversation, ready for the assistant's next answer.

    Args:
        messages: each {"role": "system" | "user" | "assistant", "content": text}; system only first, the last one from
            the user. Earlier answers are given without their thinking.
        thinking: "auto" leaves the choice to the model, "short" closes an empty think block, "long" opens one.
    Raises:
        ValueError: no message, an unknown role or key, a system message behind others, a last message not from the user,
            or a model without a chat layout.
    """
    check_thinking(thinking)
    if not messages or messages[-1].get("role") != "user":
        raise ValueError('messages must end with one from the user; append {"role": "user", "content": "..."}')
    for index, message in enumerate(messages):
        _check_message(index, message, _ROLES)
    return tokenizer.conversation_ids(messages, thinking)


def check_thinking(thinking: str) -> None:
    """Raises ValueError unless `thinking` is "auto", "short" or "long"."""
    if thinking not in get_args(Thinking):
        raise ValueError(f"thinking={thinking!r} is unknown; use one of {', '.join(get_args(Thinking))}")


def _check_message(index: int, message: Message, roles: tuple[str, ...]) -> None:
    if set(message) != {"role", "content"} or not isinstance(message["content"], str):
        raise ValueError(f'messages[{index}] has keys {sorted(message)}; give {{"role": ..., "content": text}}')
    if message["role"] not in roles:
        raise ValueError(f"messages[{index}].role={message['role']!r} is unknown; use one of {', '.join(roles)}")
    if message["role"] == "system" and index:
        raise ValueError(f"messages[{index}].role='system' comes behind other messages; put it first")
