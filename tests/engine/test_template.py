"""Chat templates: rendered as Hugging Face does, and harmless whatever they try."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from app.engine.template import ChatTemplate
from app.protocol import ChatMessage
from converter.spec import QuenchError

CHAT = [ChatMessage("system", "Be <kind>."), ChatMessage("user", 'Say "hi"'), ChatMessage("assistant", "hi")]


def render(source, messages=CHAT, **options):
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, **options)


def test_pocket_renders_as_its_template_says(pocket):
    source = json.loads((pocket / "tokenizer_config.json").read_text())["chat_template"]
    expected = (
        '<|im_start|>system\nBe <kind>.<|im_end|>\n<|im_start|>user\nSay "hi"<|im_end|>\n'
        "<|im_start|>assistant\nhi<|im_end|>\n"
    )
    assert render(source, add_generation_prompt=False) == expected
    assert render(source) == expected + "<|im_start|>assistant\n"


def test_a_model_without_a_template_gets_chatml(pocket):
    source = json.loads((pocket / "tokenizer_config.json").read_text())["chat_template"]
    assert render(None) == render(source)


GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "templates.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN["rendered"])
def test_prompts_are_those_of_transformers(case):
    name, number, prompt = case.split("/")
    chat = [ChatMessage(**message) for message in GOLDEN["chats"][int(number)]]
    template = ChatTemplate(GOLDEN["templates"][name], {"bos_token": "<s>", "eos_token": "</s>"})
    expected = GOLDEN["rendered"][case]
    if expected is None:
        with pytest.raises(QuenchError) as caught:
            template.render(chat, add_generation_prompt=prompt == "True")
        assert caught.value.code == "template_refused"
    else:
        assert template.render(chat, add_generation_prompt=prompt == "True") == expected


RENDERED = {
    "blocks leave no line behind": ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),
    "blocks may be indented": ("x\n  {% if true %}\ny\n  {% endif %}\n", "x\ny\n"),
    "special tokens by name": ("{{ bos_token }}{{ eos_token }}", "<s>"),
    "json is not escaped for a page": ("{{ messages[0].content|tojson }}", '"Be <kind>."'),
    "json with indent": ("{{ {'a': [1]}|tojson(indent=1) }}", '{\n "a": [\n  1\n ]\n}'),
    "loop controls": (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
        "user",
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "3",
    ),
    "generation marks": ("{% generation %}{{ messages[2]['content'] }}{% endgeneration %}!", "hi!"),
    "no tools": ("{% if tools %}t{% else %}-{% endif %}{% if not tools is none %}x{% endif %}", "-"),
    "concatenation": ("{{ 'a' ~ 1 ~ messages[1].role }}", "a1user"),
    "methods of text": ("{{ ' x '.strip() + 'b'.upper() }}", "xB"),
    "slices": ("{{ messages[1:]|length }}{{ messages[-1].role }}", "2assistant"),
    "undefined is empty and false": ("{{ foo }}{% if foo is defined %}x{% endif %}", ""),
}


@pytest.mark.parametrize("name", RENDERED)
def test_renders(name):
    source, expected = RENDERED[name]
    assert render(source) == expected


def test_the_clock_can_be_asked():
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


GROW = "{%% set n = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set n.x = %s %%}{%% endfor %%}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

ATTACKS = {
    "class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "bad_template"),
    "globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "bad_template"),
    "attr filter": ("{{ ''|attr('__class__') }}{{ (''|attr('__class__')).mro() }}", "bad_template"),
    "format string": ("{{ '{0.__class__.__init__.__globals__}'.format(strftime_now) }}", "bad_template"),
    "changing the messages": ("{{ messages.append(1) }}", "bad_template"),
    "import": ("{% import 'os' as os %}", "bad_template"),
    "include": ("{% include '/etc/passwd' %}", "bad_template"),
    "syntax": ("{% for %}", "bad_template"),
    "undefined": ("{{ foo.bar.baz }}", "bad_template"),
    "division": ("{{ 1 // 0 }}", "bad_template"),
    "nested loops": (ENDLESS, "template_limit"),
    "range": ("{{ range(10**9)|list }}", "template_limit"),
    "repeat": ("{{ 'a' * 10**10 }}", "template_limit"),
    "repeat a list": ("{{ 10**9 * [1] }}", "template_limit"),
    "doubling ~": (GROW % ("'ab'", "n.x ~ n.x"), "template_limit"),
    "doubling +": (GROW % ("'ab'", "n.x + n.x"), "template_limit"),
    "doubling join": (GROW % ("'ab'", "[n.x, n.x]|join"), "template_limit"),
    "power": ("{{ 9**(9**9) }}", "template_limit"),
    "product": (GROW % ("10", "n.x * n.x"), "template_limit"),
    "padding": ("{{ 'a'|center(10**10) }}", "template_limit"),
    "format width": ("{{ '%010000000000d'|format(1) }}", "template_limit"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "template_limit"),
    "output": ("{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}", "template_limit"),
    "deep source": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "template_limit"),
    "long source": ("a" * (2 << 20), "bad_template"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_an_error_and_takes_little_time(name):
    source, code = ATTACKS[name]
    start = time.thread_time()
    with pytest.raises(QuenchError) as caught:
        render(source)
    assert caught.value.code == code
    assert caught.value.detail
    assert time.thread_time() - start < 8


def test_what_a_template_objects_to_is_said():
    with pytest.raises(QuenchError) as caught:
        render("{{ raise_exception('System role not supported') }}")
    assert caught.value.code == "template_refused"
    assert "System role not supported" in caught.value.detail


def test_a_timeout_leaves_nothing_behind():
    """The interruption of one rendering must not hit the next, nor whatever runs after it."""
    template = ChatTemplate(ENDLESS)
    with pytest.raises(QuenchError):
        template.render(CHAT)
    total = sum(number % 7 for number in range(200_000))
    assert total == sum(number % 7 for number in range(200_000))
    assert render(None).startswith("<|im_start|>")
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and thread.is_alive()]


def test_tools_and_their_calls_reach_a_template_that_knows_them():
    source = (
        "{% if tools %}{{ tools[0].function.name }}: {% endif %}{% for message in messages %}"
        "{% for call in message.tool_calls %}{{ call.function.arguments.city }};{% endfor %}"
        "{{ message.content }}{{ message.tool_call_id }} {% endfor %}"
    )
    calls = json.dumps([{"id": "a", "type": "function", "function": {"name": "find", "arguments": {"city": "Ulm"}}}])
    chat = [ChatMessage("assistant", "", calls), ChatMessage("tool", "far ", "", "a")]
    tools = json.dumps([{"type": "function", "function": {"name": "find"}}])
    assert render(source, chat, tools=tools) == "find: Ulm; far a "
    assert ChatTemplate(source).knows_tools()
    assert not ChatTemplate(None).knows_tools()
    assert not ChatTemplate("{{ raise_exception('no') }}").knows_tools()
    with pytest.raises(QuenchError) as caught:
        render(source, chat, tools="[" * 100_000)
    assert caught.value.code == "template_limit"
