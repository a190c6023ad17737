"""The pages on data say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slipway.cli.commands.data import data
from slipway.datasets.reasons import POINTS, REASONS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["data-quality.md", "data-quality.zh.md"])
def test_the_page_names_every_reason_with_its_points(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    assert rows == [(str(reason), str(POINTS[reason])) for reason in REASONS]


@pytest.mark.parametrize("page", ["data.md", "data.zh.md"])
def test_the_page_names_every_command_and_only_options_that_exist(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    known = {
        option for command in data.commands.values() for p in command.params for option in p.opts
    }
    assert set(re.findall(r"`data (\w+)`", text)) == set(data.commands)
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known
