from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx
import pytest

from slipway.core.errors import UsageError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.core.process import free_port, start, stop
from slipway.engine.providers import Provider, flags
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import LoadSpec, load_spec
from slipway.export.toolchain import Toolchain
from slipway.ship import ShipOptions, plan_ship, ship
from slipway.store import render_modelfile, resolve_model

PROMPT = "<|im_start|>user\nmay i return order 3<|im_end|>\n<|im_start|>assistant\n"


def first_tokens(command: list[str], port: int) -> dict[str, float]:
    """The likeliest first tokens of an answer, with their log-probabilities."""
    process = start(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(600):
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None
                time.sleep(0.1)
            body = {"prompt": PROMPT, "n_predict": 1, "n_probs": 5, "temperature": 0}
            answer = client.post("/completion", json=body).json()
    finally:
        stop(process)
    return {p["token"]: p["logprob"] for p in answer["completion_probabilities"][0]["top_logprobs"]}


def spec_of(name: str, home: Home) -> LoadSpec:
    settings = EngineSettings()
    options = {"num_ctx": 256}
    model = resolve_model(name, home=home)
    return load_spec(model, options, settings, mode="generate", free_bytes=1 << 30)


def served(provider: Provider, spec: LoadSpec) -> dict[str, float]:
    port = free_port("127.0.0.1")
    return first_tokens([*provider.command, *flags(spec, port)], port)


def test_an_unmerged_ship_keeps_the_adapter_beside_a_quantised_base(
    run: Path, home: Home, tools: Toolchain
) -> None:
    apart = ship(ShipOptions("shop", "apart:v1", types=("Q8_0",), unmerged=True))
    assert list(apart.artefacts) == ["convert", "adapter", "measure"]
    assert read_manifest(Path(apart.artefacts["adapter"])).kind == "gguf-adapter"
    model = resolve_model("apart:v1", home=home)
    (adapter,) = model.adapter_paths
    assert f"ADAPTER {adapter}" in render_modelfile(model)
    assert apart.levels["Q8_0"]["kld_mean"] < 0.05
    assert model.quality["figures"]["kld_mean"] == apart.levels["Q8_0"]["kld_mean"]
    assert not (Path(apart.levels["Q8_0"]["folder"]) / "quality.json").exists()

    merged = ship(ShipOptions("shop", "merged:v1", types=("Q8_0",)))
    assert abs(apart.unquantised["ppl"] / merged.unquantised["ppl"] - 1) < 0.01
    server = Provider("native", (str(tools.program("llama-server")),))
    embedded = Provider("embedded", (sys.executable, "-m", "slipway.engine.embedded_worker"))
    with_adapter = served(server, spec_of("apart:v1", home))
    assert served(embedded, spec_of("apart:v1", home)) == pytest.approx(with_adapter, abs=0.2)
    assert with_adapter == pytest.approx(served(server, spec_of("merged:v1", home)), abs=0.2)
    base = spec_of("apart:v1", home)
    alone = served(server, LoadSpec(base.gguf, None, "generate", 256, 1))
    assert alone != pytest.approx(with_adapter, abs=0.2)


def test_a_ship_in_the_other_way_is_another_model(run: Path) -> None:
    ship(ShipOptions("shop", "shop:v1", measure=False))
    _, plan = plan_ship(ShipOptions("shop", "shop:v1", unmerged=True))
    assert plan.names["shop:v1"] == ("Q4_K_M", "taken")
    assert [item.stage for item in plan.products] == ["convert", "adapter", "quantise"]


def test_what_has_no_adapter_cannot_stay_unmerged(run: Path, home: Home) -> None:
    merged = ship(ShipOptions("shop", "shop:v1", measure=False)).artefacts["merge"]
    with pytest.raises(UsageError, match="unmerged"):
        plan_ship(ShipOptions(merged, "shop:v2", unmerged=True))


def test_both_providers_are_given_the_adapters(tmp_path: Path) -> None:
    from slipway.engine.embedded_worker import parse

    adapters = (tmp_path / "a", tmp_path / "b")
    spec = LoadSpec(tmp_path / "m", None, "generate", 128, 1, adapters=adapters)
    line = flags(spec, 9000)
    assert line.count("--lora") == 2
    assert parse(line).adapters == list(adapters)
    bare = LoadSpec(tmp_path / "m", None, "generate", 128, 1)
    assert spec.satisfies(bare) and not bare.satisfies(spec)
