from __future__ import annotations

import errno
import pickle

import pytest

from slipway.core.errors import (
    InputError,
    NotFoundError,
    ResourceError,
    ToolError,
    UsageError,
    from_os_error,
    unknown_key,
)
from slipway.core.i18n import tr


def test_error_is_english_in_json_and_chinese_for_a_chinese_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = NotFoundError("file.not_found", tr("{path} does not exist", path="a.txt"))
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert str(error.message) == "a.txt 不存在"
    assert error.as_json()["message"] == "a.txt does not exist"


def test_a_sentence_within_a_sentence_has_its_language(monkeypatch: pytest.MonkeyPatch) -> None:
    error = unknown_key("b", ["a"], tr("{path} does not exist", path="x"))
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert error.message_en == "unknown key `b` in x does not exist"
    assert "x 不存在" in str(error.message) and "does not" not in str(error.message)


def test_unknown_key_offers_the_nearest_name() -> None:
    error = unknown_key("learnin_rate", ["learning_rate", "epochs"], "run.yaml")
    assert "`learnin_rate`" in error.message_en and "run.yaml" in error.message_en
    assert "`learning_rate`" in error.hint_en


def test_unknown_key_far_from_all_lists_them() -> None:
    assert "alpha, beta" in unknown_key("zzz", ["beta", "alpha"], "x").hint_en


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ResourceError),
        (errno.EACCES, UsageError),
        (errno.ENOENT, NotFoundError),
        (errno.EIO, ToolError),
    ],
)
def test_operating_system_errors_become_errors_with_advice(number: int, kind: type) -> None:
    error = from_os_error(OSError(number, "reason"), "/data/x")
    assert isinstance(error, kind) and "/data/x" in error.message_en


def test_errors_cross_process_borders() -> None:
    error = InputError("data.bad_row", tr("{path} does not exist", path="a"), "do this")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.message_en, copy.hint) == (
        "data.bad_row",
        "a does not exist",
        "do this",
    )
