"""Chat templates of released models: Jinja, rendered in a sandbox in which a template can neither change nor reach anything.

The environment is the one `transformers` gives to templates, so that they render to the same text.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tandem.data.json_object import read_json_object

_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_chat_template(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The template of a model directory: `chat_template.jinja`, else the key of `tokenizer_config.json`; None without.

    Of several named templates the one called "default" is taken, else the first.
    """
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = tokenizer_config.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found if {"name", "template"} <= set(entry)}
        found = named.get("default", next(iter(named.values()), None))
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{directory}/tokenizer_config.json has a chat_template that is no text")
    return found


def has_chat_template(directory: Path) -> bool:
    """Whether a model directory has a chat template: the model was tuned on conversations."""
    file = directory / "tokenizer_config.json"
    return read_chat_template(directory, read_json_object(file) if file.is_file() else {}) is not None


def render_chat(template: str, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> str:
    """The text of a conversation up to the assistant's next answer.

    Args:
        variables: what the template may read beside the messages, e.g. bos_token.
    Raises:
        ValueError: the template is not valid, refuses the messages, or tries to leave its sandbox; one line says why.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **variables}
    try:
        return environment.from_string(template).render(messages=[dict(m) for m in messages], **given)
    except (jinja2.TemplateError, *_FAILURES) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"the model's chat template fails: {reason}; give a string as the prompt instead") from error


class _Generation(Extension):
    """`{% generation %}`, with which some templates mark the assistant's words for training: here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
