"""The settings: one frozen struct is schema and defaults; JSON on disk, written whole or not at all.

A file that cannot be read is set aside (``settings.json.bad``) and the defaults are used, so that a damaged file never
keeps the program from starting. A single field of the wrong type costs that field only.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from app import paths
from app.adapter_messages import Adapter
from app.chat_messages import ALWAYS, AUTOMATIC, NEVER
from app.context_messages import OVERFLOWS
from app.files import write_atomically
from app.protocol import LoadOptions, Sampling
from app.remote.address import Server

VERSION = 1
MAX_BYTES = 1 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a person can set, and what the window remembers.

    ``sampling_preset`` is the key of a built-in one, ``user:`` and the name of one in ``presets``, ``own`` for values
    set by hand, or empty: temperature and the like are the model's own, the rest is as in ``sampling``.

    ``context`` 0, ``threads`` 0 mean automatic. ``pass_kld``/``fail_kld`` are nats, ``pass_top1`` a fraction: the
    thresholds of the quality verdict. ``draft``: who guesses tokens ahead (``lookup``, a model's file, or nobody).
    ``hidden`` are paths of models that were taken off the list. ``geometry`` and ``splitters`` are base64 of Qt's
    own state. ``kernels_told``: backends of which the person has heard that they are wrong here. ``hub_endpoint``
    and ``hub_proxy`` empty: the hub itself, no proxy; ``downloads_at_once`` files of one download,
    ``download_limit`` bytes a second (0: no limit). ``overflow`` is one of :data:`app.context_messages.OVERFLOWS`,
    ``memory_ratios`` what loads took here for each architecture as a part of what was planned, ``prompt_cache_mib``
    the most MiB of kept prompts. ``servers``: models that other programs serve; their keys are elsewhere.
    ``machines``: ``host:port`` of RPC workers; ``spread``: paths of models that these compute a part of.
    ``serve_port``: where a loaded model is served when that is switched on. ``adapters``: by a model's path the LoRA
    adapters that it was last used with.
    """

    version: int = VERSION
    theme: str = "system"
    reduce_motion: bool = False
    enter_sends: bool = True
    context: int = 0
    kv_type: str = "f16"
    threads: int = 0
    gpu_layers: int = 0
    flash_attention: str = "auto"
    overflow: str = "stop"
    memory_ratios: dict[str, float] = msgspec.field(default_factory=dict)
    prompt_cache_mib: int = 4096
    folders: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    sampling_preset: str = ""
    presets: dict[str, Sampling] = msgspec.field(default_factory=dict)
    token_probabilities: str = AUTOMATIC
    draft: str = ""
    pass_kld: float = 0.03
    fail_kld: float = 0.2
    pass_top1: float = 0.95
    hub_endpoint: str = ""
    hub_proxy: str = ""
    hub_offline: bool = False
    downloads_at_once: int = 4
    download_limit: int = 0
    servers: tuple[Server, ...] = ()
    machines: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    serve_port: int = 8080
    adapters: dict[str, tuple[Adapter, ...]] = msgspec.field(default_factory=dict)
    first_start: bool = True
    kernels_told: tuple[str, ...] = ()
    last_page: str = "library"
    last_model: str = ""
    geometry: str = ""
    splitters: dict[str, str] = msgspec.field(default_factory=dict)

    def load_options(self) -> LoadOptions:
        """How models are loaded unless a page says otherwise."""
        return LoadOptions(
            context=self.context,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            kv_type=self.kv_type,
            flash_attention=self.flash_attention,
        )


_CHOICES: dict[str, tuple[str, ...]] = {
    "theme": ("system", "light", "dark"),
    "kv_type": ("f16", "bf16", "q8_0", "q5_1", "q4_0"),
    "overflow": OVERFLOWS,
    "flash_attention": ("auto", "on", "off"),
    "token_probabilities": (AUTOMATIC, ALWAYS, NEVER),
}


def parse(data: bytes) -> Settings:
    """Settings from JSON; wrong or unknown fields fall back to their defaults. ``ValueError`` if it is no object."""
    raw = msgspec.json.decode(data)
    if not isinstance(raw, dict):
        raise ValueError("the settings file is not a JSON object")
    good: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if field.name not in raw:
            continue
        try:
            value = msgspec.convert(raw[field.name], field.type)
        except msgspec.ValidationError:
            continue
        if field.name in _CHOICES and value not in _CHOICES[field.name]:
            continue
        good[field.name] = value
    good["version"] = VERSION
    return Settings(**good)


def load() -> Settings:
    """The saved settings, or the defaults if there are none or the file is damaged (it is then set aside)."""
    file = paths.settings_file()
    if not file.exists():
        return Settings()
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("the settings file is too large")
        return parse(file.read_bytes())
    except (OSError, ValueError, msgspec.DecodeError):
        # A file that cannot be moved away stays: the next save says so, or replaces it.
        with contextlib.suppress(OSError):
            file.replace(file.with_name(file.name + ".bad"))
        return Settings()


def save(settings: Settings) -> None:
    """Write the settings atomically; ``OSError`` if the disk refuses."""
    write_atomically(paths.settings_file(), msgspec.json.format(msgspec.json.encode(settings), indent=2))
