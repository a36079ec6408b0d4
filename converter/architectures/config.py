"""``config.json`` as a family reads it: names, defaults, sizes, rotary settings, with every number bounded."""

from __future__ import annotations

from typing import Any

from converter.architectures.base import Family, Parameters, Sizes, bad_config, not_run

# Numbers beyond these are no model but an attempt to exhaust memory.
_LIMITS = {"num_hidden_layers": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 1 << 16,
           "num_experts": 4096}  # fmt: skip
_DEFAULT_LIMIT = 1 << 30

# Where the function of the feed-forward stands.
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")

# Where the base frequency and the rotated part of a head stand in older configs, outside the rotary settings.
_THETA = ("global_rope_theta", "rope_theta", "rotary_emb_base")
_LOCAL_THETA = ("local_rope_theta", "rope_local_theta", "swa_rope_theta", "rope_local_base_freq")
_PARTIAL = ("partial_rotary_factor", "rope_pct", "rope_percent", "rotary_pct")


def parameters(family: Family, config: dict[str, Any]) -> Parameters:
    """Reads ``config.json`` for ``family``. Raises ``QuenchError`` ``bad_config`` for missing or absurd values,
    and what the family's own check raises."""
    values = dict(config)
    nested = config.get("text_config")
    if isinstance(nested, dict):
        values.update(nested)
    declared_none = "num_key_value_heads" in values and values["num_key_value_heads"] is None
    for name, others in family.aliases.items():
        if values.get(name) is None:
            values[name] = next((values[other] for other in others if values.get(other) is not None), None)
    given = [name for name in family.required if name not in family.defaults and name not in family.fixed]
    missing = [name for name in given if values.get(name) is None]
    if missing:
        raise bad_config(f"config.json lacks {', '.join(missing)}")
    _fill(family, values, declared_none)
    for name in (*family.required, "num_key_value_heads", "max_position_embeddings"):
        values[name] = whole_number(values, name)
    for name in family.reals:
        values[name] = real_number(values, name)
    sizes = _sizes(family, values)
    rope, local = _rope(values)
    found = Parameters(family, values, sizes, rope, local)
    function = next((values[name] for name in _ACTIVATIONS if values.get(name) is not None), None)
    if family.activations and function is not None and function not in family.activations:
        raise not_run(found, f"Its feed-forward computes {str(function)[:40]!r}")
    if family.check is not None:
        family.check(found)
    return found


def whole_number(values: dict[str, Any], name: str, least: int = 1) -> int:
    """A whole number of the config, not below ``least``; ``QuenchError`` otherwise."""
    value = values.get(name)
    if type(value) is not int or not least <= value <= _LIMITS.get(name, _DEFAULT_LIMIT):
        raise bad_config(f"{name} is {str(value)[:40]!r}, not a sensible whole number")
    return value


def real_number(values: dict[str, Any], name: str) -> float:
    """A finite number of the config that fits float32; ``QuenchError`` otherwise."""
    value: Any = values.get(name)
    # Written so that NaN fails too.
    if type(value) not in (int, float) or not abs(value) <= 3e38:
        raise bad_config(f"{name} is {str(value)[:40]!r}, not a number")
    return float(value)


def head_size(values: dict[str, Any]) -> int:
    """The default of ``head_dim``, for families that always write it."""
    heads, width = whole_number(values, "num_attention_heads"), whole_number(values, "hidden_size")
    if width % heads:
        raise bad_config(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    return width // heads


def four_times(values: dict[str, Any]) -> int:
    """The default of ``intermediate_size`` in GPT-2 and its kin."""
    return 4 * whole_number(values, "hidden_size")


def all_heads(values: dict[str, Any]) -> Any:
    """``num_key_value_heads`` of an architecture without grouped heads."""
    return values.get("num_attention_heads")


def _fill(family: Family, values: dict[str, Any], no_groups: bool) -> None:
    """Defaults, in the order of the family's table. A number of key-value heads that is null means all heads."""
    if no_groups:
        values["num_key_value_heads"] = values.get("num_attention_heads")
    for name, default in family.defaults.items():
        if values.get(name) is None:
            values[name] = default(values) if callable(default) else default
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = values.get("num_attention_heads")
    for name, settle in family.fixed.items():
        values[name] = settle(values)


def _sizes(family: Family, values: dict[str, Any]) -> Sizes:
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    head = head_size(values) if values.get("head_dim") is None else whole_number(values, "head_dim")
    if heads % kv_heads:
        raise bad_config(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head % 2:
        raise bad_config(f"the heads have {head} elements, an odd number")
    experts = values.get("num_experts")
    others: dict[str, int] = {}
    sizes = Sizes(
        layers=values["num_hidden_layers"],
        embedding=values["hidden_size"],
        feed_forward=values["intermediate_size"],
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        query=heads * head,
        key=kv_heads * head,
        vocabulary=values["vocab_size"],
        experts=whole_number(values, "num_experts", 0) if experts is not None else 0,
        others=others,
    )
    for name, source in family.sizes.items():
        if isinstance(source, str) and source in values:
            others[name] = whole_number(values, source, 0) if values[source] is not None else 0
        else:
            others[name] = sizes.of(source)
    return sizes


def _rope(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary settings in one form: ``rope_parameters`` (newer configs), else ``rope_scaling`` and ``rope_theta``."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise bad_config("the rotary settings are not an object")
    nested, local = found.get("full_attention"), found.get("sliding_attention")
    rope = dict(nested) if isinstance(nested, dict) else dict(found)
    rope_local = dict(local) if isinstance(local, dict) else {}
    _default(rope, "rope_theta", values, _THETA)
    _default(rope, "partial_rotary_factor", values, _PARTIAL)
    if not rope_local:
        _default(rope_local, "rope_theta", values, _LOCAL_THETA)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if not isinstance(kind, str):
        raise bad_config("the rotary settings have no type")
    rope["rope_type"] = kind.lower()
    if rope.get("original_max_position_embeddings") is None:
        declared = values.get("original_max_position_embeddings")
        rope["original_max_position_embeddings"] = declared or values["max_position_embeddings"]
    return rope, rope_local


def _default(rope: dict[str, Any], name: str, values: dict[str, Any], sources: tuple[str, ...]) -> None:
    if rope.get(name) is None:
        value = next((values[source] for source in sources if values.get(source) is not None), None)
        if value is not None:
            rope[name] = value
