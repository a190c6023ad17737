from __future__ import annotations

import math
from pathlib import Path

import pytest

from slipway.core.errors import UsageError
from slipway.core.paths import Home
from slipway.engine.settings import EngineSettings, parse_duration
from slipway.engine.spec import fitting_slots, kv_bytes_per_token, load_spec
from slipway.store import create_model, read_gguf
from slipway.testing.gguf import write_gguf


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        (0, 0.0),
        ("0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
        (2.5, 2.5),
    ],
)
def test_durations_are_read_as_ollama_reads_them(value: str | float, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "5 m", "m", "5x", "5m!", "nan", True])
def test_other_durations_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(value)


def test_settings_come_from_the_environment_and_name_the_bad_variable() -> None:
    settings = EngineSettings.from_env({"SLIPWAY_ENGINE": "embedded", "SLIPWAY_KEEP_ALIVE": "-1"})
    assert (settings.engine, settings.keep_alive_s) == ("embedded", math.inf)
    for variable, value in (("SLIPWAY_ENGINE", "cuda"), ("SLIPWAY_NUM_PARALLEL", "-2")):
        with pytest.raises(UsageError, match=variable):
            EngineSettings.from_env({variable: value})


def test_every_slot_has_the_whole_context_and_the_models_own_is_the_limit(
    home: Home, tmp_path: Path
) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", context_length=2048)
    model = create_model("m", f"FROM {gguf}", home=home)
    spec = load_spec(model, {}, EngineSettings(), mode="generate", free_bytes=1 << 34)
    assert (spec.num_ctx, spec.slots) == (2048, 4)
    small = load_spec(
        model, {"num_ctx": 100}, EngineSettings(), mode="generate", free_bytes=1 << 34
    )
    assert small.num_ctx == 100
    from slipway.engine.providers import flags

    line = flags(spec, 9000)
    assert line[line.index("-c") + 1] == str(2048 * 4)
    assert "--no-kv-unified" in line


def test_slots_shrink_until_their_caches_fit_a_quarter_of_memory(tmp_path: Path) -> None:
    header = read_gguf(write_gguf(tmp_path / "m.gguf"))
    per_token = kv_bytes_per_token(header)
    assert per_token == 2 * 2 * (16 + 16) * 2  # layers, kv heads, key + value width, f16
    one = per_token * 4096
    assert fitting_slots(4, 4096, per_token, one * 16) == 4
    assert fitting_slots(4, 4096, per_token, one * 9) == 2
    assert fitting_slots(4, 4096, per_token, 1) == 1
    assert fitting_slots(4, 4096, 0, 1) == 4


def test_ollamas_variables_count_where_ours_are_not_set() -> None:
    env = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_KEEP_ALIVE": "1h", "OLLAMA_KV_CACHE_TYPE": "q8_0"}
    settings = EngineSettings.from_env({**env, "SLIPWAY_KEEP_ALIVE": "10s"})
    assert (settings.parallel, settings.keep_alive_s) == (2, 10.0)
    assert settings.kv_cache_type == "q8_0"
    assert EngineSettings.from_env({"OLLAMA_NUM_PARALLEL": "0"}).parallel == 4
    with pytest.raises(UsageError, match="OLLAMA_KV_CACHE_TYPE"):
        EngineSettings.from_env({"OLLAMA_KV_CACHE_TYPE": "q3"})


def test_memory_and_lists_are_read_from_the_environment() -> None:
    env = {"SLIPWAY_MAX_MEMORY": "1.5 GiB", "SLIPWAY_PIN": "a, b:q4", "SLIPWAY_QUEUE_TIMEOUT": "2m"}
    settings = EngineSettings.from_env(env)
    assert settings.max_memory == 3 << 29
    assert settings.pin == ("a", "b:q4")
    assert settings.queue_timeout_s == 120
    with pytest.raises(UsageError, match="SLIPWAY_MAX_MEMORY"):
        EngineSettings.from_env({"SLIPWAY_MAX_MEMORY": "much"})
