"""`slipway data check NAME --dataset-dir …` as a user types it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.testing.fake_hub import FakeHub, serving

ROWS = [
    {"instruction": "where is my order", "output": "it will come soon"},
    {"instruction": "can i return the lamp"},
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = {"rows.jsonl": "\n".join(map(json.dumps, ROWS)).encode()}
    with serving(FakeHub(datasets={"org/set": files})) as served:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith(("HF_", "USE_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", served.url)
        yield served


def test_a_dataset_of_a_hub_is_checked(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["data", "check", "org/set", "--dataset-dir", "ONLINE", "--json"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert [(e["line"], e["field"]) for e in report["errors"]] == [(2, "output")]
        hub.status = 500


def test_a_name_of_a_registry_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS), "utf-8")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    assert main(["data", "check", "mine", "--dataset-dir", str(tmp_path)]) == 1
    assert "`output`" in capsys.readouterr().out
    assert main(["data", "check", "mien", "--dataset-dir", str(tmp_path)]) == 5
    shown = capsys.readouterr().err
    assert "did you mean `mine`?" in shown and str(tmp_path / "dataset_info.json") in shown


def test_a_dataset_that_no_hub_has_ends_with_its_name(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "org/none", "--dataset-dir", "ONLINE"]) == 5
    assert "org/none" in capsys.readouterr().err
