from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.path.tiny_demo import TinyDemo, tiny_options
from tests.shared_home import link_shared_folders

from slipway.core.paths import Home
from slipway.demo import run_demo
from slipway.demo.serve_stages import stop_services


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyDemo]:
    """The real pipeline, run once; daemon and gateway keep running for the tests."""
    home = Home(tmp_path_factory.mktemp("path-home"))
    link_shared_folders(home)
    try:
        _, records, folder = run_demo(tiny_options(), home=home)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        yield TinyDemo(home, report, folder, records)
    finally:
        stop_services(home)
