import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/gateway_overhead.py", "--quick", "--json", out, *options],
        cwd=ROOT,
        env={**os.environ, "SLIPWAY_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return json.loads(out.read_text()), done.stdout


def test_quick_run_measures_ours_against_direct_and_names_the_peers_it_lacks(
    tmp_path: Path,
) -> None:
    result, said = run(tmp_path)
    assert set(result["numbers"]) == {"direct", "ours"}
    assert set(result["skipped"]) == {"litellm", "portkey"}
    assert "litellm is not measured: not installed" in said
    ours, direct = result["numbers"]["ours"], result["numbers"]["direct"]
    assert direct["requests_per_s"] > ours["requests_per_s"] > 0
    assert ours["cpu_ms_per_request"] > 0
    assert ours["events_per_s"] > 0
    assert result["books"]["ours"]["requests"] == ours["requests_sent"]
    assert result["books"]["ours"]["cost_micro"] > 0


def test_big_run_uses_copied_tokens_and_many_channels(tmp_path: Path) -> None:
    result, _ = run(tmp_path, "--no-peers", "--big", "--channels", "20", "--tokens", "300")
    assert result["numbers"]["ours_big"]["requests_sent"] > 0
    assert result["numbers"]["ours_big"]["keys_used"] == 300
    assert result["books"]["ours_big"]["errors"] == 0
    assert "ratio_requests_per_s_ours_big" in result
