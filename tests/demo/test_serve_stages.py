from __future__ import annotations

from pathlib import Path

import pytest

from slipway.demo.serve_stages import _modelfile
from slipway.store import parse_modelfile

PROMPTS = ["Be brief.", "two\nlines", 'say "hi"', 'odd """ quotes', "你是客服。", ""]


@pytest.mark.parametrize("system", PROMPTS)
def test_any_system_prompt_survives_the_modelfile(system: str) -> None:
    parsed = parse_modelfile(_modelfile(Path("/a folder/x"), system))
    assert (parsed.system or "") == system
    assert parsed.from_ == "/a folder/x"
