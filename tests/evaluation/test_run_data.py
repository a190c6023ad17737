"""What a run is measured on where nobody names anything: the rows it kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.evaluation.conftest import ROWS, write_rows

from slipway.core.errors import InputError, NotFoundError
from slipway.core.events import EventLog
from slipway.core.paths import Home
from slipway.datasets.source import DataSource
from slipway.evaluation import find_model
from slipway.evaluation.questions import read_questions
from slipway.evaluation.run_data import RunData
from slipway.testing.tiny import tiny_model
from slipway.training import TrainSpec, train
from slipway.training.token_sets import streams


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    base = tiny_model(tmp_path / "base", seed=0)
    write_rows(tmp_path / "data" / "rows.jsonl")
    entry = {"file_name": "rows.jsonl", "formatting": "openai"} | {
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    registry = {"mine": entry, "part": {**entry, "split": "train[:3]"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry), "utf-8")
    return TrainSpec(
        model=str(base),
        data=[DataSource(path="mine", info=str(tmp_path / "data"))],
        val_size=4,
        max_steps=1,
        batch_tokens=64,
    )


def trained(spec: TrainSpec, run_dir: Path, home: Home) -> Path | RunData | None:
    train(spec, run_dir=run_dir, events=EventLog(None))
    return find_model(str(run_dir), home).data


def test_the_rows_of_val_size_are_found_again(spec: TrainSpec, tmp_path: Path, home: Home) -> None:
    data = trained(spec, tmp_path / "run", home)
    assert isinstance(data, RunData)
    kept = streams(spec)[1]
    assert kept is not None
    asked = read_questions(data)
    assert [q.sample.messages for q in asked.questions] == [sample.messages for sample in kept]
    assert len(asked.questions) == 4
    assert len(read_questions(data, part="train").questions) == len(ROWS) - 4
    assert len(read_questions(data, part="all").questions) == len(ROWS)


def test_eval_data_of_a_registry_goes_before_val_size(
    spec: TrainSpec, tmp_path: Path, home: Home
) -> None:
    evals = [DataSource(path="part", info=str(tmp_path / "data"))]
    spec = spec.model_copy(update={"eval_data": evals, "val_size": 0.0})
    data = trained(spec, tmp_path / "run", home)
    assert data is not None
    assert [q.messages[-1]["content"] for q in read_questions(data).questions] == [
        question for question, _ in ROWS[:3]
    ]


def test_data_that_changed_is_not_measured_on(spec: TrainSpec, tmp_path: Path, home: Home) -> None:
    data = trained(spec, tmp_path / "run", home)
    assert data is not None
    write_rows(tmp_path / "data" / "rows.jsonl", ROWS[1:])
    with pytest.raises(InputError, match="changed since it was trained") as caught:
        read_questions(data)
    assert "--data" in caught.value.hint_en


def test_a_run_that_keeps_nothing_says_so(spec: TrainSpec, tmp_path: Path, home: Home) -> None:
    data = trained(spec.model_copy(update={"val_size": 0.0}), tmp_path / "run", home)
    assert data is not None
    with pytest.raises(NotFoundError, match="keeps no rows"):
        read_questions(data)
    assert len(read_questions(data, part="train").questions) == len(ROWS)


def test_a_run_on_one_file_with_val_size_keeps_its_rows_too(
    spec: TrainSpec, tmp_path: Path, home: Home
) -> None:
    one = spec.model_copy(update={"data": str(tmp_path / "data" / "rows.jsonl")})
    data = trained(one, tmp_path / "run", home)
    assert data is not None and len(read_questions(data).questions) == 4
