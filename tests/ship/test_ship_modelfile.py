from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError, UsageError
from slipway.ship.modelfile import modelfile_text
from slipway.ship.options import parse_parameter, target_names
from slipway.store import parse_modelfile

PROMPTS = ["Be brief.", "two\nlines", 'say "hi"', 'odd """ quotes', "你是客服。", ""]


@pytest.mark.parametrize("system", PROMPTS)
def test_any_system_prompt_survives_the_modelfile(system: str) -> None:
    parsed = parse_modelfile(modelfile_text(Path("/a folder/x"), system))
    assert (parsed.system or "") == system
    assert parsed.from_ == "/a folder/x"


@pytest.mark.parametrize("stop", ["<|im_end|>", "\n\nUser:", ' "x', "### Antwort: "])
def test_any_stop_text_survives_the_modelfile(stop: str) -> None:
    text = modelfile_text(Path("x"), "", [("stop", stop), ("stop", "b"), ("temperature", "0.2")])
    assert parse_modelfile(text).parameters == {"stop": [stop, "b"], "temperature": 0.2}


def test_a_parameter_is_checked_before_the_work() -> None:
    assert parse_parameter("stop=a=b") == ("stop", "a=b")
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_parameter("temperature")
    with pytest.raises(InputError, match="temprature"):
        parse_parameter("temprature=1")
    with pytest.raises(InputError, match="warm"):
        parse_parameter("temperature=warm")


def test_one_type_gives_one_name_and_several_give_each_its_own() -> None:
    assert target_names("shop:v1", ("Q4_K_M",)) == {"shop:v1": "Q4_K_M"}
    assert target_names("shop:v1", ("Q5_K_M", "Q8_0")) == {
        "shop:v1": "Q5_K_M",
        "shop:v1-q5_k_m": "Q5_K_M",
        "shop:v1-q8_0": "Q8_0",
    }
    assert list(target_names("team/shop", ("Q4_K_M", "Q8_0"))) == [
        "team/shop:latest",
        "team/shop:q4_k_m",
        "team/shop:q8_0",
    ]


def test_a_name_that_the_store_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError):
        target_names("shop:a b", ("Q4_K_M",))
    with pytest.raises(UsageError):
        target_names("shop:" + "x" * 78, ("Q4_K_M", "Q8_0"))
