"""The hubs themselves, where one is in reach: that the fake one is like them."""

from __future__ import annotations

import pytest

from slipway.core.hubs import HUB_NAMES, Hub, read_repo
from slipway.datasets.hub_files import Choice, choose_files
from slipway.store.pull import reachable_hubs


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["hf", "ms"])
def test_a_public_dataset_is_listed_with_digests_and_its_rows_are_found(hub: Hub) -> None:
    if hub not in reachable_hubs(timeout_s=3):
        pytest.skip(f"{HUB_NAMES[hub]} is not in reach")
    repo = read_repo(hub, "dataset", "llamafactory/alpaca_en")
    chosen = choose_files((file.path for file in repo.files), {}, Choice(), repo.url)
    assert chosen
    digests = {file.path: file.sha256 or file.git_sha1 for file in repo.files}
    assert all(digests[path] for path in chosen)
