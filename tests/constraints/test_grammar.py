"""Grammars as text: what is refused, where, and in how much time."""

from __future__ import annotations

import pytest

from app.chat_messages import Constraint
from app.constraints import check, grammar, grammar_of
from converter.spec import QuenchError

CHAIN = "root ::= a0\n" + "\n".join(f'a{i} ::= a{i + 1} "x"' for i in range(6000)) + '\na6000 ::= "z"'
DOUBLING = "root ::= a0\n" + "\n".join(f'a{i} ::= a{i + 1} "y" | a{i + 1} "x"' for i in range(40)) + '\na40 ::= "z"'

BAD = {
    "": "no rule",
    "# only a comment\n": "no rule",
    'answer ::= "a"': "no rule named “root”",
    "root ::= word": "Line 1, column 10: “word” is used",
    'root ::= "a': "column 10: This text in quotes is never closed",
    "root ::= [a-": "never closed",
    "root ::= [z-a]": "ends before it begins",
    "root ::= []": "no character in these brackets",
    "root ::= [^]": "no character in these brackets",
    'root ::= ("a"': "column 10: This parenthesis is never closed",
    'root ::= "a")': "cannot stand in a rule: “)”",
    'root ::= "\\q"': "“\\q” is no escape",
    'root ::= "\\x0"': "2 hexadecimal digits",
    'root ::= "\\uD800"': "no character",
    'root ::= "\\U00110000"': "no character",
    "root ::= *": "Nothing stands before “*”",
    'root ::= ""*': "Nothing stands before “*”",
    'root ::= "a"{5,2}': "“{5,2}” ends before it begins",
    'root ::= "a"{3000}': "At most 2000",
    'root ::= "a"{1,99999999999999999999}': "At most 2000",
    'root ::= "a"{,2}': "In braces stand numbers",
    'root ::= ("a"? "b"? "c"?){1000}': "more than 2000 rules together",
    'root ::= my_rule\nmy_rule ::= "a"': "“_” cannot be in them",
    'root ::= "a"\n | "b"': "Line 2, column 2: A rule goes on in the next line only after",
    'root = "a"': "there should be “::=”",
    'root ::= "a"\nroot ::= "b"': "Line 2, column 1: There are two rules named “root”",
    "root ::= <think": "A token is written as",
    "root ::= <[x]>": "A token's number",
    'root ::= root "a" | "b"': "“root” begins with itself",
    'root ::= a root "x" | "y"\na ::= b\nb ::= ""': "“root” begins with itself",
    'root ::= ("a"?)*': "repeated that can be empty",
    'root ::= (b)*\nb ::= c\nc ::= "" | "c"': "repeated that can be empty",
    "root ::= " + "(" * 100 + '"a"' + ")" * 100: "nested more than 64",
    'root ::= "' + "a" * grammar.MAX_TEXT + '"': "at most",
    'root ::= "\0"': "NUL",
    CHAIN: "begin with one another",
    DOUBLING: "in more than 4000 ways",
    'root ::= b{1,200}\nb ::= ("x"?){200}': "in more than 4000 ways",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
@pytest.mark.timeout(60)
def test_what_the_engine_would_not_survive_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(QuenchError) as caught:
        check(Constraint("grammar", text))
    assert caught.value.code == "bad_grammar"
    assert BAD[text] in caught.value.detail


def test_a_grammar_that_is_too_large_when_written_out_is_refused() -> None:
    text = "root ::= " + " ".join(f"w{{2000}} v{i}" for i in range(150)) + "\nw ::= " + '"ab" ' * 5
    text += "\n" + "\n".join(f'v{i} ::= "x"' for i in range(150))
    with pytest.raises(QuenchError) as caught:
        check(Constraint("grammar", text))
    assert "more than 200000 elements" in caught.value.detail


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ('root ::= "yes" | "no"', 1),
        ("# a comment\n\nroot ::= (\n  [a-z]+ # words\n  | . \n)\r\n", 3),
        ('root ::= item ("," item)*\nitem ::= [^",\\]\\\\]{1,3} | <[12]> !<[3]>', 6),
        ("root ::= ", 1),
        ('root ::=\n  "\\u00e9\\x41\\n" |\n  "b"{0}', 1),
    ],
)
def test_what_is_written_well_is_taken(text: str, rules: int) -> None:
    assert check(Constraint("grammar", text)) == rules
    assert grammar_of(Constraint("grammar", text)) == text


def test_no_constraint_is_no_grammar_and_an_unknown_kind_is_refused() -> None:
    assert grammar_of(Constraint()) == ""
    assert check(Constraint()) == 0
    with pytest.raises(QuenchError, match="cannot be used"):
        grammar_of(Constraint("regex", "a"))
