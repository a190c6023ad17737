from __future__ import annotations

import pytest

from slipway.core.errors import UsageError
from slipway.training import TrainSpec
from slipway.training.obeyed import NOT_YET, require_obeyed
from slipway.training.spec import known_keys


def test_a_recipe_at_its_defaults_asks_for_nothing_that_is_missing() -> None:
    require_obeyed(TrainSpec(model="m", data="d"))


@pytest.mark.parametrize(
    ("key", "values"), [("max_steps", {"max_steps": 5}), ("lora.rank", {"lora": {"rank": 7}})]
)
def test_a_wish_that_is_not_granted_is_named_and_never_ignored(
    key: str, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NOT_YET, key, lambda value: value in (None, 16))
    require_obeyed(TrainSpec(model="m", data="d"))
    spec = TrainSpec.model_validate({"model": "m", "data": "d", **values})
    with pytest.raises(UsageError, match=f"`{key}: ") as caught:
        require_obeyed(spec)
    assert caught.value.code == "train.not_yet"


def test_only_keys_that_exist_are_listed() -> None:
    assert set(NOT_YET) <= set(known_keys())
