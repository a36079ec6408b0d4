"""Answers under a constraint, on Pocket: ``jsonschema`` and the grammar's own words are the judges of what comes."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from app.chat_messages import ALWAYS, AUTOMATIC, NEVER, Constraint
from app.compare.scoring import log_softmax
from app.constraints import grammar, grammar_of
from app.engine.choices import Recorder
from app.engine.constraint import Restriction
from app.engine.model import Extras, Model
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter.spec import QuenchError

QUESTION = [ChatMessage("user", "Tell me about a bear.")]
HOT = Sampling(temperature=1.3, top_k=0, top_p=1.0, min_p=0.02, max_tokens=200)
GREEDY = Sampling(temperature=0, max_tokens=100)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 3, "maximum": 120},
    },
    "required": ["name"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"enum": ["a", "b"]},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["v"],
        }
    },
}

SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "tree": TREE,
    "choice": {"enum": ["yes", 'a "quoted" word', 1, None, {"x": [1, 2.5]}]},
    "const": {"const": {"kind": "é\\n"}},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {"prefixItems": [{"type": "integer"}, text := {"type": "string", "maxLength": 8}], "items": False},
    "open tuple": {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "maxItems": 3},
    "optional": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}},
    "middle": {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]},
    "others": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "ab": {"type": "boolean"}},
        "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0},
        "required": ["a"],
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
    "joined": {"allOf": [{"properties": {"a": {"type": "null"}}, "type": "object"}, {"$ref": "#/$defs/b"}],
               "$defs": {"b": {"properties": {"b": text}, "required": ["b", "a"]}}},
    "either": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "boolean"}}}]},
    "both": {"type": ["integer", "null"], "minimum": -12, "exclusiveMaximum": 1234},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,5}-\\d+(\\.\\d{2})?$"},
    "loose pattern": {"type": "string", "pattern": "[^\"\\\\\\sx]{2}(on|off)?$", "title": "no quotes"},
    "moment": {"type": "string", "format": "date-time"},
    "day": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "positive": {"type": "number", "minimum": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(pocket_gguf):
    with Model.load(str(pocket_gguf("Q8_0")), LoadOptions(threads=1)) as loaded:
        yield loaded


def reply(model, text="", sampling=GREEDY, **extras):
    prompt = model.prompt_tokens(model.render(QUESTION))
    steps = list(model.generate(prompt, sampling, extras=Extras(text, **extras)))
    return "".join(step.text for step in steps), steps[-1].stats


def held(schema):
    return grammar_of(Constraint("schema", json.dumps(schema)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_that_ends_fits_its_schema(model, name):
    schema = SCHEMAS[name]
    checker = jsonschema.FormatChecker()
    ended = 0
    for seed in range(4):
        text, stats = reply(model, held(schema), msgspec.structs.replace(HOT, seed=seed))
        if stats.stop == "end":
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))
            ended += 1
    assert ended >= 2
    text, stats = reply(model, held(schema))
    if stats.stop == "end":
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


def test_any_json_is_json(model):
    for seed in range(3):
        text, stats = reply(model, held({}), msgspec.structs.replace(HOT, seed=seed))
        if stats.stop == "end":
            json.loads(text)
        else:
            assert text.lstrip()[0] in '{["-0123456789tfn'


@pytest.mark.parametrize("sampling", [GREEDY, msgspec.structs.replace(HOT, repeat_penalty=1.3, seed=2)])
def test_a_grammar_decides_what_can_be_said(model, sampling):
    free, _ = reply(model, "", sampling)
    rule = 'root ::= "The answer is " ("yes" | "no" | "42"){2} [.!] "\\n"?'
    text, stats = reply(model, rule, sampling)
    assert re.fullmatch(r"The answer is (yes|no|42){2}[.!]\n?", text)
    assert stats.stop == "end"
    assert text != free


def test_looking_at_the_likeliest_alone_changes_no_answer(model):
    """A penalty so small that it changes nothing makes the engine go through the whole vocabulary."""
    for rule in (held(PERSON), "root ::= [A-Z] [a-z ]{20} [.]", 'root ::= ("x" | "yz" | "qu"){6}'):
        whole = msgspec.structs.replace(GREEDY, repeat_penalty=1.0000001)
        assert reply(model, rule)[0] == reply(model, rule, whole)[0]


def test_characters_of_several_bytes_and_named_tokens_can_be_asked_for(model):
    assert reply(model, 'root ::= "naïve Füße 🐻"')[0] == "naïve Füße 🐻"
    number = model.token_named("a")
    assert reply(model, f'root ::= <[{number}]> "!"')[0] == "a!"


def test_an_empty_answer_can_be_all_that_is_allowed(model):
    text, stats = reply(model, 'root ::= ""')
    assert (text, stats.stop, stats.tokens) == ("", "end", 0)


def test_the_same_seed_gives_the_same_answer_under_a_constraint_too(model):
    rule = "root ::= [a-z ]{30}"
    first, stats = reply(model, rule, HOT)
    assert 0 <= stats.seed < 1 << 31
    again, repeated = reply(model, rule, msgspec.structs.replace(HOT, seed=stats.seed))
    other, _ = reply(model, rule, msgspec.structs.replace(HOT, seed=stats.seed + 1))
    assert (again, repeated.seed) == (first, stats.seed)
    assert other != first
    assert reply(model, rule)[1].seed == -1


def test_a_token_that_no_model_token_can_begin_is_a_message(model):
    end = model.eos
    with pytest.raises(QuenchError) as caught:
        reply(model, f'root ::= "a" <[{end}]>')
    assert caught.value.code == "grammar_dead_end"
    assert reply(model)[1].tokens > 3


@pytest.mark.parametrize("rule", ["root ::= <[99999999]>", "root ::= <no such token here>"])
def test_a_token_that_the_model_does_not_have_is_a_message(model, rule):
    with pytest.raises(QuenchError) as caught:
        reply(model, rule)
    assert caught.value.code == "bad_grammar"
    assert "no token of this model" in caught.value.detail


def test_an_answer_that_goes_on_is_held_to_the_rest(model):
    rule = 'root ::= "{" [a-z]{3} "}"'
    prompt = model.prompt_tokens(model.render(QUESTION) + "{ab")
    steps = list(model.generate(prompt, GREEDY, extras=Extras(rule, "{ab")))
    assert re.fullmatch("[a-z]}", "".join(step.text for step in steps))
    with pytest.raises(QuenchError) as caught:
        reply(model, rule, written="[ab")
    assert caught.value.code == "not_in_grammar"


def test_a_reasoning_section_that_the_prompt_has_opened_is_left_free(model):
    free, _ = reply(model)
    assert reply(model, 'root ::= "no"', thinking=True)[0] == free


def test_stop_strings_and_limits_hold_under_a_constraint(model):
    text, stats = reply(model, 'root ::= "one two three"', msgspec.structs.replace(GREEDY, stop=(" three",)))
    assert (text, stats.stop) == ("one two", "stop_string")
    text, stats = reply(model, "root ::= [ab]+ [c]", msgspec.structs.replace(GREEDY, max_tokens=5))
    assert (set(text) <= {"a", "b", "c"}, stats.tokens) == (True, 5)


def test_what_the_check_lets_through_the_library_takes(model):
    """Grammars with a few letters changed at random: all that pass the check can be begun with."""
    seeds = [
        'root ::= "a" (b | c)* "x"{2,5}\nb ::= [a-z0-9] "q"?\nc ::= "\\n" | [^"\\\\] b+\n',
        'root ::= (e "=" w t "\\n")+\ne ::= t ([-+*/] t)*\nt ::= i | n | "(" w e ")" w\ni ::= [a-z] [a-z0-9]* w\n'
        "n ::= [0-9]+ w\nw ::= [ \\t\\n]*\n",
        'root ::= . <[3]> !<[4]> "\\u00e9é" # c\n',
    ]
    generator = random.Random(7)
    passed = 0
    for _ in range(800):
        letters = list(generator.choice(seeds))
        for _ in range(generator.randint(0, 4)):
            at = generator.randrange(len(letters) + 1)
            if generator.random() < 0.5:
                letters[at:at] = generator.choice('ab"[]{}()|*+?,0129-^\\xnu<>!. \n:=#é')
            else:
                del letters[at : at + generator.randint(1, 3)]
        rule = "".join(letters)
        try:
            grammar.read(rule)
        except grammar.GrammarError:
            continue
        passed += 1
        try:
            restriction = Restriction(model.vocab_pointer, model.vocabulary, rule, model.token_named)
        except QuenchError as error:
            assert "no token of this model" in error.detail, rule
            continue
        restriction.allows(model.token_named("a"))
        restriction.free()
    assert passed > 100


# ---- how sure the model was


def test_the_probabilities_are_the_models_own(model):
    sampling = msgspec.structs.replace(HOT, seed=5, max_tokens=40)
    text, stats = reply(model, "", sampling, probabilities=ALWAYS)
    plain, without = reply(model, "", sampling)
    assert plain == text
    assert without.choices is None
    tokens = [choice.token for choice in stats.choices]
    assert model.detokenize(tokens) == text
    prompt = model.prompt_tokens(model.render(QUESTION))
    logits = model.window_logits([*prompt, *tokens[:-1]], len(prompt) - 1)
    logs = log_softmax(logits)
    for row, choice in zip(logs, stats.choices, strict=True):
        assert choice.probability == pytest.approx(np.exp(row[choice.token]), rel=0.05, abs=2e-3)
        best = np.sort(np.exp(row))[::-1][:5]
        assert [part for _, part in choice.top] == pytest.approx(best.tolist(), rel=0.05, abs=2e-3)
        assert len({token for token, _ in choice.top}) == 5


def test_under_a_constraint_they_show_what_the_model_would_have_said(model):
    _, stats = reply(model, 'root ::= "Zebra"', probabilities=ALWAYS)
    assert stats.choices[0].probability < 0.01 < stats.choices[0].top[0][1]


def test_unasked_they_are_recorded_whole_or_not_at_all(model):
    text, stats = reply(model, "", msgspec.structs.replace(HOT, seed=5, max_tokens=40), probabilities=AUTOMATIC)
    assert stats.choices is None or model.detokenize([choice.token for choice in stats.choices]) == text


def test_where_recording_takes_the_time_nobody_pays_unasked():
    """Nothing is done here but record."""
    logits = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    for mode, kept in ((AUTOMATIC, None), (ALWAYS, 20), (NEVER, None)):
        recorder = Recorder(len(logits), mode)
        for token in range(20):
            recorder.add(token, logits)
        assert (None if recorder.choices is None else len(recorder.choices)) == kept
