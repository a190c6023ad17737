from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import NotFoundError
from slipway.demo import options
from slipway.demo.options import DemoOptions, default_data


def test_training_on_a_cpu_never_gets_more_than_six_minutes() -> None:
    assert DemoOptions(train_budget_s=3600).budget_s == 360
    assert DemoOptions(quick=True).budget_s < DemoOptions().budget_s <= 360


def test_starter_gets_the_english_dataset_in_either_language() -> None:
    assert default_data("starter", "zh").name == "support-en"


def test_multilingual_base_gets_the_readers_language() -> None:
    assert default_data("ms://Qwen/Qwen2.5-0.5B-Instruct", "zh").name == "kefu-zh"
    assert default_data("hf://Qwen/Qwen2.5-0.5B-Instruct", "en").name == "support-en"


def test_installation_without_examples_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options.slipway, "__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    with pytest.raises(NotFoundError) as caught:
        default_data("starter")
    assert "--data" in caught.value.hint_en
