"""Models of the hub by text, order and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.hub import fitting
from app.hub.client import Hub, check_stopped, question
from app.hub.messages import FoundModel, Query
from converter.spec import QuenchError

SORTS = ("downloads", "likes", "trending_score", "last_modified", "created_at")
LIMIT = 200
_LOOKED_AT = 1000
"""Results that are looked at for filters of our own before the search ends with what it has."""

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_FIELDS = (
    "downloads", "likes", "gated", "private", "tags", "pipeline_tag", "lastModified", "safetensors", "gguf", "config",
)  # fmt: skip


def search(hub: Hub, query: Query, stopped: Callable[[], bool] = lambda: False) -> list[FoundModel]:
    """The first ``query.limit`` models that match. Raises ``QuenchError``; ``Cancelled`` if ``stopped`` says so.

    Text, order, GGUF, licence, task, author and gating are the hub's own filters; what can be converted and what fits
    is decided here, over at most 1,000 of its results.
    """
    if query.sort not in SORTS:
        raise QuenchError("usage", "There is no such order.", query.sort[:80], ", ".join(SORTS), exit_status=2)
    fits = fitting.remembering()
    found: list[FoundModel] = []
    own_filter = query.convertible or query.fits
    with question("The search"):
        for number, raw in enumerate(_results(hub, query, _LOOKED_AT if own_filter else min(query.limit, LIMIT))):
            check_stopped(stopped)
            model = _model(raw, fits)
            wanted = (not query.convertible or model.convertible) and (
                not query.fits or model.fits in ("good", "tight")
            )
            if wanted:
                found.append(model)
            if len(found) >= min(query.limit, LIMIT) or number + 1 >= _LOOKED_AT:
                break
    return found


def _results(hub: Hub, query: Query, limit: int) -> Iterator[Any]:
    tags = ["gguf"] if query.gguf else ["safetensors"] if query.convertible else []
    if query.licence:
        tags.append(f"license:{query.licence}")
    more: dict[str, Any] = {}
    if query.gated is not None:
        more["gated"] = query.gated
    # Pages of a hundred: a limit on the whole is also the hub's page size.
    yield from hub.api.list_models(
        search=query.text or None,
        author=query.author or None,
        filter=tags or None,
        pipeline_tag=query.task or None,
        sort=query.sort,  # type: ignore[arg-type]
        limit=limit,
        expand=list(_FIELDS),  # type: ignore[arg-type]
        **more,
    )


def _model(raw: Any, fits: Callable[[int], str]) -> FoundModel:
    tags = [tag for tag in raw.tags or [] if isinstance(tag, str)]
    parameters, weights = _weights(raw)
    architecture = _architecture(raw)
    return FoundModel(
        id=text(raw.id, 200),
        downloads=count(raw.downloads),
        likes=count(raw.likes),
        gated=text(raw.gated, 10) if raw.gated else "",
        licence=next((tag.removeprefix("license:")[:60] for tag in tags if tag.startswith("license:")), ""),
        parameters=parameters,
        bytes=weights,
        fits=fits(parameters),
        gguf="gguf" in tags or isinstance(raw.gguf, dict),
        convertible=weights > 0 and can_convert(raw.config),
        task=text(raw.pipeline_tag, 60),
        architecture=architecture,
        modified=raw.last_modified.isoformat() if raw.last_modified else "",
        private=bool(raw.private),
    )


def _weights(raw: Any) -> tuple[int, int]:
    """(parameters, bytes of the safetensors); 0 for what the hub does not say."""
    if raw.safetensors is not None and isinstance(raw.safetensors.parameters, dict):
        by_type = {name: count(number) for name, number in raw.safetensors.parameters.items()}
        weights = sum(number * _BYTES.get(name, 1) for name, number in by_type.items())
        return count(raw.safetensors.total) or sum(by_type.values()), weights
    if isinstance(raw.gguf, dict):
        return count(raw.gguf.get("total")), 0
    return 0, 0


def _architecture(raw: Any) -> str:
    if isinstance(raw.gguf, dict) and raw.gguf.get("architecture"):
        return text(raw.gguf["architecture"], 60)
    return text(raw.config.get("model_type"), 60) if isinstance(raw.config, dict) else ""


def can_convert(config: Any) -> bool:
    """Whether the converter knows this kind of model; ``config`` may be the few keys that a search gives."""
    return isinstance(config, dict) and refusal(config) is None


def refusal(config: dict[str, Any]) -> QuenchError | None:
    """Why the converter would refuse a model with this ``config.json``; None if it would not because of that."""
    from converter import architectures
    from converter.sources import dequantize

    try:
        architectures.find_family(config)
        dequantize.recognise(Path(), config)
    except QuenchError as error:
        return error
    return None


def count(value: Any) -> int:
    """A number of the hub as a natural one; 0 for anything else."""
    return value if type(value) is int and 0 <= value < 1 << 62 else 0


def text(value: Any, length: int) -> str:
    """A word of the hub, cut and on one line; empty for anything else."""
    return "".join(c if c.isprintable() else " " for c in value[:length]) if isinstance(value, str) else ""
