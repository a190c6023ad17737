"""The pages of keys are those that the code would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.training.llamafactory.page import PAGES, with_tables
from slipway.training.spec.page import NAME, recipe_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_recipe_keys_is_up_to_date() -> None:
    written = (DOCS / NAME).read_text(encoding="utf-8")
    assert written == recipe_page(), "run `python -m slipway.training.spec.page docs`"


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_of_llama_factorys_keys_are_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    fresh = with_tables(written, PAGES[name])
    assert written == fresh, "run `python -m slipway.training.llamafactory.page docs`"
    assert "`lora_rank`" in written and "`lora.rank`" in written
