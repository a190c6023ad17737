from __future__ import annotations

import pytest

from slipway.core.errors import UsageError
from slipway.store import ModelName


@pytest.mark.parametrize(
    ("text", "display", "path"),
    [
        ("shop", "shop:latest", "registry.ollama.ai/library/shop/latest"),
        ("shop:q4", "shop:q4", "registry.ollama.ai/library/shop/q4"),
        ("team/shop:q4_K_M", "team/shop:q4_K_M", "registry.ollama.ai/team/shop/q4_K_M"),
        ("hf.co/u/m.x:Q8_0", "hf.co/u/m.x:Q8_0", "hf.co/u/m.x/Q8_0"),
        ("http://host:5000/ns/m", "host:5000/ns/m:latest", "host:5000/ns/m/latest"),
    ],
)
def test_a_name_is_completed_and_shown_short(text: str, display: str, path: str) -> None:
    name = ModelName.parse(text)
    assert name.display == display
    assert name.path.as_posix() == path
    assert ModelName.parse(name.display) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "a/b/c/d",
        "../x",
        "a/../b:c",
        "a b",
        "-a",
        ".a",
        "n.s/m",
        "m:" + "x" * 81,
        "/m",
    ],
)
def test_a_name_that_could_leave_the_store_or_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ModelName.parse(text)
    assert caught.value.code == "model.bad_name"
