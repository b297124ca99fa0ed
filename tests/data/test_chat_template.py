"""Chat templates: found where models keep them, rendered as `transformers` renders them, confined to their sandbox."""

import json
from pathlib import Path

import pytest

from tandem.data.chat_template import has_chat_template, read_chat_template, render_chat

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Größe?\n{{ 1 }}"}]
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA = """{{ bos_token }}{% for message in messages %}
{% if loop.first and message.role == 'system' %}
[{{ message.content | trim }}]
{% continue %}
{% endif %}
{% set head = message.role | upper %}{{ head }}: {% generation %}{{ message | tojson }}{% endgeneration %}
{{ message | tojson(ensure_ascii=True, indent=2) }}{{ message | tojson(separators=(",", ":"), sort_keys=True) }}
{% endfor %}
{{ strftime_now('%Y') | length }}{{ tools is none }}"""


def test_turns_in_order():
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGröße?\n{{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_chat(CHATML, MESSAGES, {}) == text


@pytest.mark.parametrize("template", [CHATML, LLAMA])
def test_the_same_text_as_transformers(template: str):
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="needs transformers: pip install 'tandem-lm[hf]'"
    )
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    want = utils.render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **variables)
    assert render_chat(template, MESSAGES, variables) == want[0][0]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages[0].role.nothing.more }}", "has no attribute 'nothing'"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ range(10**9) | list }}", "Range too big"),
    ],
)
def test_failures_are_one_line(template: str, reason: str):
    with pytest.raises(ValueError, match=r"chat template fails: .*; give a string") as caught:
        render_chat(template, MESSAGES, {})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_a_template_lies(tmp_path: Path):
    assert read_chat_template(tmp_path, {}) is None
    assert not has_chat_template(tmp_path)
    assert read_chat_template(tmp_path, {"chat_template": "a"}) == "a"
    named = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "c"}]
    assert read_chat_template(tmp_path, {"chat_template": named}) == "c"
    assert read_chat_template(tmp_path, {"chat_template": named[:1]}) == "b"
    with pytest.raises(ValueError, match="chat_template that is no text"):
        read_chat_template(tmp_path, {"chat_template": 5})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "a"}), encoding="utf-8")
    assert has_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("d", encoding="utf-8")
    assert read_chat_template(tmp_path, {"chat_template": "a"}) == "d"
