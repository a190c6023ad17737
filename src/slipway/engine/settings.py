"""How the daemon runs engine workers: a frozen record, its environment variables, and durations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.core.sizes import parse_size

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
ProviderName = Literal["auto", "native", "embedded"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Each field can be set by the environment variable in its comment.

    Where the environment variable of Ollama in brackets is set and ours is not, it counts.

    Attributes:
        engine: SLIPWAY_ENGINE; which worker program: `native` (llama-server of the toolchain),
            `embedded` (the xllamacpp package), `auto` (native when there is one).
        server: SLIPWAY_LLAMA_SERVER; a llama-server to use instead of the toolchain's.
        parallel: SLIPWAY_NUM_PARALLEL [OLLAMA_NUM_PARALLEL]; requests that one worker serves at
            once. Fewer when the key-value cache of that many would not fit a quarter of the free
            memory. A model's own `PARAMETER num_parallel` goes before it.
        max_loaded: SLIPWAY_MAX_LOADED_MODELS [OLLAMA_MAX_LOADED_MODELS]; workers at once; 0 leaves
            it to the memory.
        max_memory: SLIPWAY_MAX_MEMORY; bytes that all workers together may take (`6GiB`); 0 is
            what the machine has free.
        max_queue: SLIPWAY_MAX_QUEUE [OLLAMA_MAX_QUEUE]; requests that may wait for one model
            before 503.
        queue_timeout_s: SLIPWAY_QUEUE_TIMEOUT; seconds a request may wait for its turn.
        switch_after_s: SLIPWAY_SWITCH_AFTER; seconds after which a request that waits for memory
            closes a busy model to the requests behind it.
        context_length: SLIPWAY_CONTEXT_LENGTH [OLLAMA_CONTEXT_LENGTH]; tokens of context for each
            request where neither the request nor the model says.
        keep_alive_s: SLIPWAY_KEEP_ALIVE [OLLAMA_KEEP_ALIVE]; seconds an idle worker stays;
            infinity for ever.
        load_timeout_s: SLIPWAY_LOAD_TIMEOUT [OLLAMA_LOAD_TIMEOUT]; seconds a model may take to
            load.
        kv_cache_type: SLIPWAY_KV_CACHE_TYPE [OLLAMA_KV_CACHE_TYPE]; how keys and values are kept;
            None is the engine's f16.
        preload: SLIPWAY_PRELOAD; names that are loaded when the daemon starts, comma-separated.
        pin: SLIPWAY_PIN; names that are loaded at the start and never unloaded, comma-separated.
    """

    engine: ProviderName = "auto"
    server: Path | None = None
    parallel: int = 4
    max_loaded: int = 0
    max_memory: int = 0
    max_queue: int = 512
    queue_timeout_s: float = 600.0
    switch_after_s: float = 5.0
    context_length: int = 4096
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0
    kv_cache_type: CacheType | None = None
    preload: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> EngineSettings:
        """The settings of this process's environment.

        Raises:
            UsageError: a variable has a value that cannot be used; the message names it.
        """
        values = os.environ if env is None else env
        found: dict[str, Any] = {}
        for name, variable in _VARIABLES.items():
            for source in (variable, _OLLAMA.get(name)):
                text = values.get(source, "").strip() if source else ""
                if source and text:
                    found[name] = _read(name, source, text)
                    break
        return cls(**found)


_VARIABLES = {
    "engine": "SLIPWAY_ENGINE",
    "server": "SLIPWAY_LLAMA_SERVER",
    "parallel": "SLIPWAY_NUM_PARALLEL",
    "max_loaded": "SLIPWAY_MAX_LOADED_MODELS",
    "max_memory": "SLIPWAY_MAX_MEMORY",
    "max_queue": "SLIPWAY_MAX_QUEUE",
    "queue_timeout_s": "SLIPWAY_QUEUE_TIMEOUT",
    "switch_after_s": "SLIPWAY_SWITCH_AFTER",
    "context_length": "SLIPWAY_CONTEXT_LENGTH",
    "keep_alive_s": "SLIPWAY_KEEP_ALIVE",
    "load_timeout_s": "SLIPWAY_LOAD_TIMEOUT",
    "kv_cache_type": "SLIPWAY_KV_CACHE_TYPE",
    "preload": "SLIPWAY_PRELOAD",
    "pin": "SLIPWAY_PIN",
}
_OLLAMA = {
    "parallel": "OLLAMA_NUM_PARALLEL",
    "max_loaded": "OLLAMA_MAX_LOADED_MODELS",
    "max_queue": "OLLAMA_MAX_QUEUE",
    "context_length": "OLLAMA_CONTEXT_LENGTH",
    "keep_alive_s": "OLLAMA_KEEP_ALIVE",
    "load_timeout_s": "OLLAMA_LOAD_TIMEOUT",
    "kv_cache_type": "OLLAMA_KV_CACHE_TYPE",
}
_DEFAULTS = {field.name: field.default for field in fields(EngineSettings)}
_MAY_BE_ZERO = ("max_loaded", "context_length", "parallel")  # 0 is "by itself" in Ollama
assert set(_VARIABLES) == {field.name for field in fields(EngineSettings)}


def _read(name: str, variable: str, text: str) -> Any:
    try:
        if name in ("engine", "kv_cache_type"):
            if text not in get_args(ProviderName if name == "engine" else CacheType):
                raise ValueError(text)
            return text
        if name == "server":
            return Path(text).expanduser()
        if name in ("preload", "pin"):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if name == "max_memory":
            return parse_size(text)
        if name.endswith("_s"):
            return parse_duration(text)
        value = int(text)
        if value == 0 and name in _MAY_BE_ZERO:
            return _DEFAULTS[name]
        if value < 1:
            raise ValueError(text)
        return value
    except ValueError:
        raise UsageError(
            "config.bad_value",
            tr(
                "{variable} has the value `{value}`, which cannot be used",
                variable=variable,
                value=text,
            ),
            tr("correct it, or `unset {variable}`", variable=variable),
        ) from None


def parse_duration(value: str | int | float) -> float:
    """Seconds of an Ollama duration: a number of seconds, or Go's notation (`5m`, `1h30m`, `90s`).

    Negative means for ever (infinity).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        raise ValueError(value)
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        text = value.strip()
        sign = -1.0 if text.startswith("-") else 1.0
        body = text.lstrip("+-")
        try:
            seconds = sign * float(body)
        except ValueError:
            parts = _DURATION.findall(body)
            if not parts or "".join(n + u for n, u in parts) != body:
                raise ValueError(value) from None
            seconds = sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
    if math.isnan(seconds):
        raise ValueError(value)
    return math.inf if seconds < 0 else seconds
