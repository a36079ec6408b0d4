"""Writes ``templates.json``: what transformers makes of chat templates, as an oracle that is not ours.

Run it by hand in an environment with transformers (it is no dependency of Quench):

    python tests/golden/make_templates.py

The templates are our own; together they use what the templates of well-known families use. The file holds
``templates``, ``chats``, and ``rendered``: for each "template/chat/generation prompt" the prompt, or null where the
template objects.
"""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = {
    "headers": (
        "{% for m in messages %}"
        "{% set part = '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' %}"
        "{% if loop.index0 == 0 %}{% set part = bos_token + part %}{% endif %}{{ part }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
    ),
    "strict turns": (
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Turns must alternate.') }}{% endif %}"
        "{% if m.role == 'user' %}[Q] {{ m.content }} [/Q]{% else %}{{ m.content ~ eos_token }}{% endif %}{% endfor %}"
    ),
    "reasoning": """
{%- if messages[0].role == 'system' %}
    {{- '<sys>' + messages[0].content + '\\n' }}
{%- endif %}
{%- set state = namespace(last=messages|length - 1, searching=true) %}
{%- for m in messages[::-1] %}
    {%- if state.searching and m.role == 'user' and m.content is string and not m.content.startswith('<tool>') %}
        {%- set state.searching = false %}
        {%- set state.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages if m.role != 'system' %}
    {%- set text = m.content %}
    {%- if m.role == 'assistant' and '</think>' in text and loop.index0 < state.last %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<' + m.role + '>' + text + '</' + m.role + '>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}
{%- endif %}
""",
    "white space": (
        "  {% if true %}\n  x {{ 1 }}\n  {%- endif %}\n\n{# note #}\n"
        "{{ messages|tojson }}\n{{ messages|tojson(indent=2) }}\n"
        "{{ {'é': '<&>'}|tojson }} {{ 'a' ~ none ~ 1.5 ~ [1, 'x'] ~ true }}\n\n"
    ),
    "macros and marks": (
        "{% macro turn(m) %}\n    {{ m.role | upper }}: {{ m.content | replace('\n', ' ') | trim }}\n{% endmacro %}\n"
        "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n{% generation %}{{ turn(m) }}{% endgeneration %}\n"
        "  {% else %}\n{{ turn(m) }}\n  {% endif %}\n  {% if loop.index > 2 %}{% break %}{% endif %}\n{% endfor %}"
        "{{ '' if tools is none else 'tools' }}{{ messages | map(attribute='role') | join(',') }}"
    ),
}

CHATS = [
    [
        {"role": "user", "content": "Hi <b>é\n there"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"},
        {"role": "user", "content": " again \n"},
    ],
    [{"role": "system", "content": "Be 'brief'."}, {"role": "user", "content": "你好 😀"}],
    [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}],
]


def main() -> None:
    rendered: dict[str, str | None] = {}
    for name, template in TEMPLATES.items():
        for number, chat in enumerate(CHATS):
            for prompt in (False, True):
                try:
                    texts, _ = render_jinja_template(
                        [chat],
                        chat_template=template,
                        add_generation_prompt=prompt,
                        bos_token="<s>",
                        eos_token="</s>",
                    )
                    rendered[f"{name}/{number}/{prompt}"] = texts[0]
                except jinja2.TemplateError:
                    rendered[f"{name}/{number}/{prompt}"] = None
    content = {"templates": TEMPLATES, "chats": CHATS, "rendered": rendered}
    target = Path(__file__).resolve().parent / "templates.json"
    target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
