"""The chat layout: how a list of messages becomes the ids a model continues.

    <bos> (<role> content <eos>)* <assistant>

Roles are reserved ids, so no text can imitate a turn. Behind the last `<assistant>` the caller may fix how much the model
thinks: an empty `<think></think>` block makes it answer at once, an open `<think>` makes it think first.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tandem.data import Tokenizer

Thinking = Literal["auto", "short", "long"]
Message = Mapping[str, str]


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Message], *, thinking: Thinking = "auto") -> list[int]:
    """Ids of a conversation, ready for the assistant's next answer.

    Args:
        messages: each {"role": "system" | "user" | "assistant", "content": text}; system only first, the last one from
            the user. Earlier answers are given without their thinking.
        thinking: "auto" leaves the choice to the model, "short" closes an empty think block, "long" opens one.
    Raises:
        ValueError: no message, an unknown role or key, a system message behind others, or a last message not from the user.
    """
    role_id = {"system": tokenizer.system_id, "user": tokenizer.user_id, "assistant": tokenizer.assistant_id}
    if not messages or messages[-1].get("role") != "user":
        raise ValueError('messages must end with one from the user; append {"role": "user", "content": "..."}')
    ids = [tokenizer.bos_id]
    for index, message in enumerate(messages):
        _check_message(index, message, tuple(role_id))
        ids += [role_id[message["role"]], *tokenizer.encode(message["content"]), tokenizer.eos_id]
    return [*ids, tokenizer.assistant_id, *_thinking_ids(tokenizer, thinking)]


def check_thinking(thinking: str) -> None:
    """Raises ValueError unless `thinking` is "auto", "short" or "long"."""
    if thinking not in get_args(Thinking):
        raise ValueError(f"thinking={thinking!r} is unknown; use one of {', '.join(get_args(Thinking))}")


def _thinking_ids(tokenizer: Tokenizer, thinking: Thinking) -> list[int]:
    check_thinking(thinking)
    return {"auto": [], "short": [tokenizer.think_id, tokenizer.end_think_id], "long": [tokenizer.think_id]}[thinking]


def _check_message(index: int, message: Message, roles: tuple[str, ...]) -> None:
    if set(message) != {"role", "content"} or not isinstance(message["content"], str):
        raise ValueError(f'messages[{index}] has keys {sorted(message)}; give {{"role": ..., "content": text}}')
    if message["role"] not in roles:
        raise ValueError(f"messages[{index}].role={message['role']!r} is unknown; use one of {', '.join(roles)}")
    if message["role"] == "system" and index:
        raise ValueError(f"messages[{index}].role='system' comes behind other messages; put it first")
