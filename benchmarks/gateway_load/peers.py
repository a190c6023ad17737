"""LiteLLM's proxy and Portkey's gateway, each in an installation of its own below a cache folder.

Neither has all that ours does in this comparison, which is to their advantage:

- LiteLLM: on are the master key, a request and token limit of the deployment (checked before each
  call) and a global limit of parallel requests. Virtual keys, their budgets, the ledger and the
  usage log want PostgreSQL and are off; so are its telemetry and its request log.
- Portkey: it has no accounts; it checks the headers, picks the provider and relays. Its npm package
  allows a newer `@hono/node-server` with which every stream ends in "TypeError: immutable" (issue
  1389 of Portkey-AI/gateway), so the last version that works is pinned.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway_load.client import Target
from gateway_load.processes import free_port

LITELLM = "1.108.7"
PORTKEY = "1.15.2"
HONO_NODE_SERVER = "1.13.8"
_MASTER_KEY = "sk-benchmark-master"


@dataclass(frozen=True)
class Start:
    """How a gateway is started: a command that opens the port of `target`."""

    target: Target
    command: tuple[str | Path, ...]
    env: Mapping[str, str]


def prepare(cache: Path) -> None:
    """Install both peers below the folder; what cannot be installed is said and left out."""
    for name, install in (("litellm", _install_litellm), ("portkey", _install_portkey)):
        folder = cache / name
        if (folder / "ready").is_file():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            install(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be installed: {error}")
            continue
        (folder / "ready").touch()


def _install_litellm(folder: Path) -> None:
    venv.EnvBuilder(with_pip=True).create(folder / "env")
    pip = [folder / "env" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"litellm[proxy]=={LITELLM}"], check=True)


def _install_portkey(folder: Path) -> None:
    package = {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": PORTKEY},
        "overrides": {"@hono/node-server": HONO_NODE_SERVER},
    }
    (folder / "package.json").write_text(json.dumps(package))
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    subprocess.run(npm, cwd=folder, check=True)


def why_not(name: str, cache: Path) -> str | None:
    """Why a peer cannot be measured; None when it can."""
    if not (cache / name / "ready").is_file():
        return f"not installed below {cache}; `--prepare` does that"
    if name == "portkey" and shutil.which("node") is None:
        return "there is no `node` on the PATH"
    return None


def start_of(name: str, cache: Path, upstream: int, scratch: Path) -> Start:
    """How to start a peer in front of the upstream's port; files go into `scratch`."""
    return {"litellm": _litellm, "portkey": _portkey}[name](cache / name, upstream, scratch)


def _clean_env() -> dict[str, str]:
    """This environment without what leads a foreign Python astray."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _litellm(folder: Path, upstream: int, scratch: Path) -> Start:
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "bench",
                "litellm_params": {
                    "model": "openai/bench",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "sk-upstream",
                    "rpm": 10**9,
                    "tpm": 10**12,
                },
            }
        ],
        "router_settings": {"enable_pre_call_checks": True},
        "general_settings": {
            "master_key": _MASTER_KEY,
            "global_max_parallel_requests": 100_000,
        },
    }
    path = scratch / "litellm.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    options = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    return Start(
        Target("litellm", port, {}, (_MASTER_KEY,)),
        (folder / "env/bin/litellm", "--config", path, *options, "--telemetry", "False"),
        # the table of prices comes from the package, not from the network
        {**_clean_env(), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
    )


def _portkey(folder: Path, upstream: int, _scratch: Path) -> Start:
    port = free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
    }
    server = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    return Start(
        Target("portkey", port, headers, ("sk-upstream",)),
        ("node", server, f"--port={port}", "--headless"),
        {**_clean_env(), "NODE_ENV": "production"},
    )
