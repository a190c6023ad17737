"""The table of LLaMA Factory's keys in the guides, made from the keys themselves.

python -m slipway.training.llamafactory.page docs
"""

from __future__ import annotations

import sys
from pathlib import Path

from slipway.core.files import write_text
from slipway.core.i18n import Language
from slipway.training.llamafactory.key import Key
from slipway.training.llamafactory.table import AREAS

PAGES: dict[str, Language] = {"llamafactory.md": "en", "llamafactory.zh-CN.md": "zh"}
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"
_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "head": "| key | its default | here |\n|---|---|---|",
        "mapped": "→ {to}",
        "accepted": "no effect: {why}",
        "refused": "other values are refused: {why}",
        "model": "Model, numbers, inference, export",
        "data": "Data",
        "method": "Stage, method, preference, optimisers",
        "trainer": "Training arguments",
        "places": "Reports, devices, machines",
    },
    "zh": {
        "head": "| 键 | 其默认值 | 在这里 |\n|---|---|---|",
        "mapped": "→ {to}",
        "accepted": "不起作用：{why}",
        "refused": "其他值会被拒绝：{why}",
        "model": "模型、数值、推理、导出",
        "data": "数据",
        "method": "阶段、方法、偏好、优化器",
        "trainer": "训练参数",
        "places": "上报、设备、机器",
    },
}


def key_tables(language: Language) -> str:
    """A table for each area of keys."""
    words = _WORDS[language]
    parts = []
    for area, keys in AREAS.items():
        rows = [_row(key, language) for key in sorted(keys, key=lambda key: key.name)]
        parts.append("\n".join([f"### {words[area]}\n", words["head"], *rows]))
    return "\n\n".join(parts) + "\n"


def _row(key: Key, language: Language) -> str:
    why = key.why.in_language(language) if key.why else ""
    to = ", ".join(f"`{name}`" for name in key.to)
    default = "–" if key.default is None else f"`{_plain(key.default)}`"
    return f"| `{key.name}` | {default} | {_WORDS[language][key.fate].format(to=to, why=why)} |"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_tables(page: str, language: Language) -> str:
    """A page with the tables between its marks renewed."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{key_tables(language)}\n{END}{after}"


if __name__ == "__main__":
    for name, language in PAGES.items():
        path = Path(sys.argv[1]) / name
        write_text(path, with_tables(path.read_text(encoding="utf-8"), language))
