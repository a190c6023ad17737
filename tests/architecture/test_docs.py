"""Documents that cannot rot: what the code has, the documents name."""

from __future__ import annotations

import re
from pathlib import Path

from slipway.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


def test_every_environment_variable_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    used = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"\b(?:SLIPWAY_[A-Z_]+|HF_[A-Z_]+)\b", path.read_text())
    }
    assert used - set(re.findall(r"[A-Z_]{4,}", page)) == set()


def test_commands_in_both_readmes_exist() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        used = set(re.findall(r"^slipway ([a-z]+)", text, flags=re.MULTILINE))
        assert used and used <= set(COMMANDS), name


def test_links_in_documents_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_readmes_name_every_make_target() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"setup", "demo", "test", "check", "bench", "fix", "help"} <= set(targets)
