"""Which layers get more bits: the mixes of llama.cpp's ``llama-quantize`` as data.

A mix is a table from a kind of tensor to rules, of which the first that holds decides. What depends on neither (the
output, shapes, the user's own rules) is in ``converter.recipes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: the ``index``-th of ``count`` of its kind, in what sort of model."""

    index: int
    count: int
    queries_per_kv: int
    experts: int
    falcon: bool
    imatrix: bool


When = Callable[[Place], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    type: str
    when: When
    why: str


def _always(place: Place) -> bool:
    return True


def _first(count: int) -> When:
    return lambda place: place.index < count


def _first_part(parts: int) -> When:
    return lambda place: place.index < place.count // parts


def _spread(place: Place) -> bool:
    """The first and last eighth of the layers and every third between (integer division, as llama.cpp has it)."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


def _shared_values(place: Place) -> bool:
    return place.queries_per_kv >= 4


def _eight_experts(place: Place) -> bool:
    return place.experts == 8


def _falcon(place: Place) -> bool:
    return place.falcon


def _not(condition: When) -> When:
    return lambda place: not condition(place)


def _both(one: When, other: When) -> When:
    return lambda place: one(place) and other(place)


def _imatrix(place: Place) -> bool:
    return place.imatrix


def _four_experts(place: Place) -> bool:
    return place.experts >= 4


def _middle(place: Place) -> bool:
    """All layers but the first and the last eighth."""
    return place.count // 8 <= place.index < 7 * place.count // 8


def _either(one: When, other: When) -> When:
    return lambda place: one(place) or other(place)


_SPREAD_WHY = "more bits for the first and last eighth of the layers and every third between"
EIGHT_WHY = "attention is small beside eight experts, so it gets more bits"
_SHARED_WHY = "four or more query heads share these values"
_VALUE_WHY = "attention values suffer most from few bits"
_DOWN_WHY = "the feed-forward's last matrix suffers from few bits"
_FIRST_WHY = "more bits for the first layers"
_MIX_WHY = "this mix gives attention output more bits"

_EIGHT_OUTPUT = Rule("Q5_K", _both(_eight_experts, _not(_falcon)), EIGHT_WHY)

_LESS_WHY = "this mix saves bits here"

Mix = Mapping[str, tuple[Rule, ...]]

NO_MIX: Mix = {}

_FOUR_BIT_TABLES: Mix = {
    "attn_v": (Rule("Q5_K", _shared_values, _SHARED_WHY),),
    "ffn_down": (Rule("Q5_K", _both(_first_part(8), _not(_imatrix)), _FIRST_WHY),),
    "attn_output": (_EIGHT_OUTPUT,),
}


def _two_bit(more: str, output: str | None) -> Mix:
    """Mixes of one and two bits: ``more`` for values and the first layers, ``output`` for attention output."""
    attention: tuple[Rule, ...] = (Rule("Q5_K", _eight_experts, EIGHT_WHY),)
    return {
        "attn_v": (
            Rule("Q4_K", _either(_shared_values, _four_experts), _VALUE_WHY),
            Rule(more, _always, _VALUE_WHY),
        ),
        "attn_k": (Rule("Q4_K", _eight_experts, EIGHT_WHY),),
        "ffn_down": (Rule(more, _first_part(8), _FIRST_WHY),),
        "attn_output": (*attention, Rule(output, _always, _MIX_WHY)) if output else attention,
    }


MIXES: Mapping[str, Mix] = {
    "Q2_K": {
        "attn_v": (Rule("Q4_K", _shared_values, _SHARED_WHY), Rule("Q3_K", _always, _VALUE_WHY)),
        "ffn_down": (Rule("Q3_K", _always, _DOWN_WHY),),
        "attn_output": (_EIGHT_OUTPUT, Rule("Q3_K", _not(_falcon), _MIX_WHY)),
    },
    "Q2_K_S": {
        "attn_v": (Rule("Q4_K", _shared_values, _SHARED_WHY),),
        "ffn_down": (Rule("Q4_K", _first_part(8), _FIRST_WHY),),
    },
    "Q3_K_S": {"attn_output": (_EIGHT_OUTPUT,)},
    "Q3_K_M": {
        "attn_v": (Rule("Q5_K", _first(2), _FIRST_WHY), Rule("Q4_K", _always, _VALUE_WHY)),
        "ffn_down": (
            Rule("Q5_K", _first_part(16), _FIRST_WHY),
            Rule("Q4_K", _not(_both(_falcon, _not(_spread))), _DOWN_WHY),
        ),
        "attn_output": (_EIGHT_OUTPUT, Rule("Q4_K", _not(_falcon), _MIX_WHY)),
    },
    "Q3_K_L": {
        "attn_v": (Rule("Q5_K", _always, _VALUE_WHY),),
        "ffn_down": (Rule("Q4_K", _falcon, _DOWN_WHY), Rule("Q5_K", _always, _DOWN_WHY)),
        "attn_output": (
            Rule("Q4_K", _falcon, _MIX_WHY),
            Rule("Q5_K", _not(_eight_experts), _MIX_WHY),
        ),
    },
    "Q4_K_S": {
        "attn_v": (Rule("Q5_K", _first(4), _FIRST_WHY),),
        "ffn_down": (Rule("Q5_K", _both(_first_part(8), _not(_falcon)), _FIRST_WHY),),
        "attn_output": (_EIGHT_OUTPUT,),
    },
    "Q4_K_M": {
        "attn_v": (Rule("Q6_K", _spread, _SPREAD_WHY),),
        "ffn_down": (
            Rule("Q6_K", _both(_falcon, _first_part(16)), _FIRST_WHY),
            Rule("Q5_K", _both(_falcon, _spread), _SPREAD_WHY),
            Rule("Q6_K", _both(_not(_falcon), _spread), _SPREAD_WHY),
        ),
        "attn_output": (_EIGHT_OUTPUT,),
    },
    "Q5_K_M": {
        "attn_v": (Rule("Q6_K", _spread, _SPREAD_WHY),),
        "ffn_down": (Rule("Q6_K", _spread, _SPREAD_WHY),),
    },
    "IQ4_NL": _FOUR_BIT_TABLES,
    "IQ4_XS": _FOUR_BIT_TABLES,
    "Q4_0": {"ffn_down": (Rule("Q4_1", _both(_imatrix, _first_part(8)), _FIRST_WHY),)},
    "Q5_0": {"ffn_down": (Rule("Q5_1", _both(_imatrix, _first_part(8)), _FIRST_WHY),)},
    "IQ3_XXS": {
        "attn_v": (
            Rule("Q4_K", _shared_values, _SHARED_WHY),
            Rule("IQ3_S", _not(_imatrix), _VALUE_WHY),
        ),
        "attn_k": (Rule("IQ2_S", _always, _LESS_WHY),),
        "attn_q": (Rule("IQ2_S", _always, _LESS_WHY),),
        "ffn_down": (
            Rule("Q4_K", _both(_not(_imatrix), _first_part(8)), _FIRST_WHY),
            Rule("Q3_K", _not(_imatrix), _DOWN_WHY),
        ),
        "attn_output": (_EIGHT_OUTPUT, Rule("IQ3_S", _not(_falcon), _MIX_WHY)),
    },
    "IQ3_XS": {
        "attn_v": (Rule("Q4_K", _shared_values, _SHARED_WHY),),
        "attn_k": (Rule("IQ3_XXS", _always, _LESS_WHY),),
        "attn_q": (Rule("IQ3_XXS", _always, _LESS_WHY),),
        "ffn_gate": (Rule("IQ3_XXS", _middle, _LESS_WHY),),
        "ffn_up": (Rule("IQ3_XXS", _middle, _LESS_WHY),),
        "attn_output": (_EIGHT_OUTPUT,),
    },
    "IQ3_S": {"attn_v": (Rule("Q4_K", _shared_values, _SHARED_WHY),), "attn_output": (_EIGHT_OUTPUT,)},
    "IQ3_M": {
        "attn_v": (Rule("Q4_K", _always, _VALUE_WHY),),
        "ffn_down": (
            Rule("Q4_K", _first_part(8), _FIRST_WHY),
            Rule("Q4_K", _both(_eight_experts, _spread), _SPREAD_WHY),
        ),
        "attn_output": (_EIGHT_OUTPUT, Rule("Q4_K", _not(_falcon), _MIX_WHY)),
    },
    "IQ2_XXS": _two_bit("Q2_K", None),
    "IQ2_XS": _two_bit("Q2_K", None),
    "IQ2_S": _two_bit("IQ3_S", "IQ3_S"),
    "IQ2_M": _two_bit("IQ3_S", "IQ3_S"),
    "IQ1_S": _two_bit("Q2_K", "IQ2_XXS"),
    "IQ1_M": _two_bit("Q2_K", "IQ2_XXS"),
}

TWO_BIT = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
"""Mixes that know nothing of the 70B and the eight-expert rules, and count layers also where there are experts."""

OUTPUTS: Mapping[str, str] = {**dict.fromkeys(TWO_BIT | {"IQ3_XXS"}, "Q5_K"), "MXFP4_MOE": "Q8_0"}
"""Type of the output layer where it is not the usual one."""

EMBEDDINGS: Mapping[str, str] = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
}
"""Type of embeddings that are not the output as well, where it is not the base type."""
