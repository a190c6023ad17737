"""Every sentence for the user stands in English and Chinese, with the same placeholders."""

from __future__ import annotations

import ast
import string
import tomllib
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "slipway"


def sentences_in_code() -> dict[str, str]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "tr"
            ):
                where = f"{path.relative_to(SOURCE)}:{node.lineno}"
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{where}: tr() needs a literal sentence"
                assert isinstance(first.value, str), f"{where}: tr() needs a literal sentence"
                found[first.value] = where
    return found


def catalogues() -> dict[Path, dict[str, str]]:
    return {
        path: tomllib.loads(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*zh.toml"))
    }


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def test_every_sentence_has_a_chinese_translation() -> None:
    known = {sentence for table in catalogues().values() for sentence in table}
    missing = [f"{where}: {s!r}" for s, where in sentences_in_code().items() if s not in known]
    assert not missing, "\n".join(missing)


def test_no_translation_is_left_over() -> None:
    used = sentences_in_code()
    orphans = [
        f"{path.relative_to(SOURCE)}: {sentence!r}"
        for path, table in catalogues().items()
        for sentence in table
        if sentence not in used
    ]
    assert not orphans, "\n".join(orphans)


def test_translations_keep_the_placeholders() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}: {english!r}"
        for path, table in catalogues().items()
        for english, chinese in table.items()
        if placeholders(english) != placeholders(chinese)
    ]
    assert not wrong, "\n".join(wrong)


def test_one_sentence_has_one_translation() -> None:
    seen: dict[str, tuple[str, Path]] = {}
    wrong = []
    for path, table in catalogues().items():
        for english, chinese in table.items():
            if english in seen and seen[english][0] != chinese:
                wrong.append(f"{english!r}: {path.name} and {seen[english][1].name} differ")
            seen[english] = (chinese, path)
    assert not wrong, "\n".join(wrong)
