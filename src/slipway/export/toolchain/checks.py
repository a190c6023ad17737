"""What the self-test found on which processor, for toolchains of a home that several share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.files import locked, write_json
from slipway.core.manifest import Manifest, utc_now
from slipway.core.paths import Home
from slipway.export.toolchain.model import State
from slipway.export.toolchain.selftest import SelfTestResult


@dataclass(frozen=True, slots=True)
class Check:
    """One self-test: whether it passed, what failed (type -> why), and ggml's features."""

    passed: bool
    failures: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)


def _file(home: Home) -> Path:
    return home.toolchains / "checks.json"


def _read(home: Home) -> dict[str, Any]:
    try:
        raw = json.loads(_file(home).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # none yet, or damaged: the toolchains are tested again
    return raw if isinstance(raw, dict) else {}


def check_of(home: Home, name: str, stamp: str) -> Check | None:
    """The newest self-test of a toolchain on a processor, or None.

    Args:
        name: name of the toolchain's folder.
        stamp: as from `cpu.stamp`.
    """
    try:
        raw = _read(home)[name][stamp]
        return Check(bool(raw["passed"]), dict(raw["failures"]), dict(raw["features"]))
    except (KeyError, TypeError, ValueError):
        return None


def remember_check(home: Home, name: str, stamp: str, result: SelfTestResult) -> None:
    """Keep the result of a self-test."""
    with locked(_file(home)):
        every = _read(home)
        of_name = every.get(name)
        every[name] = {
            **(of_name if isinstance(of_name, dict) else {}),
            stamp: {
                "passed": result.passed,
                "failures": result.failures,
                "features": result.features,
                "at": utc_now(),
            },
        }
        write_json(_file(home), every)


def forget_checks(home: Home, name: str) -> None:
    """Drop what is known of a toolchain, since its folder goes or is replaced."""
    if name in _read(home):
        with locked(_file(home)):
            write_json(_file(home), {k: v for k, v in _read(home).items() if k != name})


def state_of(manifest: Manifest, check: Check | None, stamp: str, cpu: str) -> State:
    """Whether a toolchain is known to compute on this processor.

    Args:
        check: its newest self-test on this processor.
        stamp: this processor's, as from `cpu.stamp`.
        cpu: this processor's name; it decides for records from before there were stamps.
    """
    if check is not None:
        return "tested" if check.passed else "failed"
    built_on = manifest.notes.get("cpu_stamp")
    same = built_on == stamp if built_on else manifest.notes.get("cpu") == cpu
    return "tested" if same else "other_cpu"
